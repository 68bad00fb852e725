"""What a training stage learns from, drawn as it sees it.

Conversations of one step lie end to end, as they are packed; what is trained is green, or stands in [[ ]] where there
is no colour.  Of a pair the prompt stands once, and where the two answers differ is marked in the same way.
"""

import re
from collections.abc import Mapping
from itertools import groupby, takewhile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bloomery.align.pairs import Pair
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.core.records import Message, Preference
from bloomery.data.batch import Batch
from bloomery.data.formats import conversations, preferences
from bloomery.instruct.examples import by_split, packed, rendered_runs
from bloomery.instruct.run import Config
from bloomery.model.store import is_model, load_config
from bloomery.text.chat import Renderer

EXAMPLES, MICRO_TOKENS = (Config.model_fields[name].default for name in ("examples", "micro_tokens"))
UNLIMITED = 1 << 30             # the context of a tokenizer that lies in no model's folder
KINDS = {True: "bold green", False: "dim"}


def has_colour(out: Console) -> bool:
    return out.color_system is not None and not out.no_color


def context_of(folder: Path) -> int:
    return load_config(folder).context if is_model(folder) else UNLIMITED


def show_batch(data: str, renderer: Renderer, out: Console, *, context: int, count: int, examples: int | None = None,
               micro_tokens: int = MICRO_TOKENS, seed: int = 0, columns: Mapping[str, str] = {},
               truncation: str = "drop") -> None:
    """The first micro-batch of the first step over conversations, and how much of it is trained."""
    training, _ = by_split(conversations(data, Quarantine(), columns=columns))
    runs, _ = rendered_runs(training, renderer, context, where=data, truncation=truncation)
    examples = examples or min(EXAMPLES, len(runs))
    batches = packed(runs, examples=examples, micro_tokens=micro_tokens, seed=seed)(0)
    batch, pieces = batches[0], unpacked(batches[0])
    trained = int((batch.weights != 0).sum())
    out.print(Text(f"\nstep 1, micro-batch 1 of {len(batches)}: {len(pieces)} conversations end to end, "
                   f"{len(batch.ids)} tokens, {trained} trained ({trained / len(batch.ids):.0%})", style="bold"))
    out.print(Text.assemble(mark("trained", True, out), "  the assistant's words and the turn-end     ",
                            ("read only", KINDS[False]), "  everything else\n"))
    for ids, is_trained in pieces[:count]:
        out.print(drawn(ids, is_trained, renderer, out))
    if len(pieces) > count:
        out.print(Text(f"... and {len(pieces) - count} more conversations in this batch; -n shows more", style="dim"))


def unpacked(batch: Batch) -> list[tuple[list[int], list[bool]]]:
    """The whole token sequences of a batch of roots, and which of their tokens are trained."""
    start = batch.segments.start.tolist()
    return [([int(batch.ids[a]), *batch.targets[a:b].tolist()], [False, *(batch.weights[a:b] != 0).tolist()])
            for a, b in zip(start, start[1:], strict=False)]


def drawn(ids: list[int], trained: list[bool], renderer: Renderer, out: Console) -> Text:
    text = Text()
    for is_trained, run in groupby(zip(ids, trained, strict=True), key=lambda pair: pair[1]):
        text.append(mark(renderer.tokenizer.decode([token for token, _ in run], keep_control=True), is_trained, out))
    return text


def mark(text: str, is_marked: bool, out: Console, style: str = KINDS[True]) -> Text:
    """Text in its colour; what is marked stands in [[ ]] where there is none."""
    if not is_marked or not text:
        return Text(text, style=KINDS[False])
    return Text(text if has_colour(out) else f"[[{text}]]", style=style)


def show_pairs(data: str, renderer: Renderer, out: Console, *, count: int, columns: Mapping[str, str] = {}) -> None:
    """The first pairs of a file with the tokens each costs in a forest, where the prompt is there once."""
    for preference in preferences(data, Quarantine(), columns=columns)[:count]:
        try:
            pair = Pair(renderer.prompt(preference.prompt), renderer.answer(preference.chosen),
                        renderer.answer(preference.rejected))
        except InputError as error:
            out.print(Text(f"{preference.id}: not usable: {error.what}", style="red"))
            continue
        sizes = f"prompt {len(pair.prompt)}, chosen {len(pair.chosen)}, rejected {len(pair.rejected)}"
        out.print(Text(f"\n{preference.id}: {pair.tokens} tokens: {sizes}", style="bold"))
        out.print(pair_text(preference, out))


def dialogue(messages: tuple[Message, ...]) -> Text:
    return Text("\n").join(Text.assemble((f"{turn.role}: ", "bold"), turn.content) for turn in messages)


def pair_text(preference: Preference, out: Console) -> Text:
    """Prompt, chosen and rejected; between equal beginnings and ends the part that differs is marked."""
    text = dialogue(preference.prompt)
    begin, end = alike(words(preference.chosen), words(preference.rejected))
    for name, style in (("chosen", "bold green"), ("rejected", "bold red")):
        parts = words(getattr(preference, name))
        middle = mark("".join(parts[begin:len(parts) - end]), True, out, style)
        text.append_text(Text.assemble((f"\n{name + ':':<10}", style), "".join(parts[:begin]), middle,
                                       "".join(parts[len(parts) - end:])))
    return text


def words(text: str) -> list[str]:
    """Words and the white space between them."""
    return re.findall(r"\S+|\s+", text)


def alike(one: list[str], other: list[str]) -> tuple[int, int]:
    """How many words two texts have in common at the beginning, and of the rest at the end."""
    begin = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    ends = zip(reversed(one[begin:]), reversed(other[begin:]), strict=False)
    return begin, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
