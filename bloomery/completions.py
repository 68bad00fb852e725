"""`bloomery generate`: a file of prompts in, the same rows in the same order with `completions` out.

A row has one of

    ids         tokens, fed as they are
    messages    a dialogue; a last turn of the assistant is left off, it is what is asked for
    prompt      a question or a dialogue; for a base model a text to be continued, as is the `text` of a document
    chosen      the dialogue of a preference without a prompt

and keeps all its columns.  A completion is {"text", "finish", "logp"}: "stop" or "length", and the sum of the model's
own log-probabilities, end token included; with a score where they are ranked, best first.

Row r draws with a seed that is a function of (seed, r), so a completion does not depend on what else was under way, nor
on where an earlier run was stopped: `row_files.py` has what goes on after a kill.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bloomery import __version__
from bloomery.core.artifacts import tree_hash
from bloomery.core.errors import BloomeryError, ConfigError, Preempted
from bloomery.core.metrics import duration, progress, say
from bloomery.core.records import Message
from bloomery.data.formats import messages
from bloomery.decoding import GenerateOptions
from bloomery.generate.best_of import kl_bound, ranking
from bloomery.generate.determinism import self_test
from bloomery.generate.request import Completion, Ticket
from bloomery.generate.scoring import Ensemble, Reward, RewardModel
from bloomery.model.seq2seq_files import is_seq2seq
from bloomery.row_files import COMPLETIONS, begun, continued, model_hash, read_all, row_seed
from bloomery.speaker import Speaker
from bloomery.targets import write_targets
from bloomery.train.hooks import stop_signal
from bloomery.train.precision import placed

SHORTEST = 64                   # tokens of a cache, at least: the engine's trial needs a few
SYNC_SECONDS = 5.0              # of work that a power failure may cost; a killed process loses no line it wrote


@dataclass(frozen=True)
class Prompt:
    """One row of the file: its columns, what is fed to the model, and what a reward model reads of it."""

    row: dict
    ids: list[int]
    turns: tuple[Message, ...] = ()


def complete_file(model: Path, prompts: Path, out: Path, options: GenerateOptions) -> dict:
    """Complete every prompt of a file into `out`, or go on where an earlier run of the same options stopped.

    A network that reads a source writes its target: `targets.py`.
    Raises `InputError` with the bad rows of the file before any work, `ConfigError` when `out` was begun with other
    options.  Returns what was done: rows, tokens, seconds.
    """
    if is_seq2seq(model):
        return write_targets(model, prompts, out, options)
    if options.beams > 1:
        raise ConfigError("beam search is for networks that read a source", where=str(model),
                          hint="a language model draws: --temperature 0.8 --best-of 8")
    about = {"version": __version__, "model": model_hash(model), "prompts": tree_hash(prompts),
             "rewards": [model_hash(Path(name)) for name in options.reward],
             "options": options.model_dump(mode="json", exclude={"reward", "device"})}

    def work(part: BinaryIO) -> dict:
        speaker = Speaker(model, precision=options.precision, device=options.device)
        asked = read_prompts(prompts, speaker, options)
        rank = rewards(options) if options.reward else None
        begin = begun(out, part, about, [prompt.row for prompt in asked], COMPLETIONS)
        with stop_signal.caught():
            found = write_all(part, speaker, asked, begin, options, rank)
        if options.is_ranked:
            found["kl_bound"] = kl_bound(options.drawn)
            say(f"best of {options.drawn}: {found['kl_bound']:.3f} nats of KL to the model at most")
        return {"rows": len(asked), "done_before": begin, **found}

    return continued(out, about, work)


# --- the file of prompts ------------------------------------------------------------------------------------------

def read_prompts(path: Path, speaker: Speaker, options: GenerateOptions) -> list[Prompt]:
    """Every row as ids; one `InputError` for all that cannot be used, before any is."""
    return read_all(path, lambda row, where: prompt_of(row, speaker, options), what="prompt")


def prompt_of(row: dict, speaker: Speaker, options: GenerateOptions) -> Prompt | str:
    """One row as ids; a string says why not."""
    if COMPLETIONS in row:
        return f"it already has a column {COMPLETIONS}"
    if row.get("ids") is not None:
        prompt = Prompt(row, row["ids"])
    elif speaker.renderer is None:
        return "no column ids, and the model has no tokenizer for anything else"
    else:
        plain = not speaker.answers if options.plain is None else options.plain
        prompt = plain_prompt(row, speaker) if plain else chat_prompt(row, speaker, options.system)
    return prompt if isinstance(prompt, str) else misfit(prompt, speaker, options) or prompt


def plain_prompt(row: dict, speaker: Speaker) -> Prompt | str:
    text = row.get("prompt", row.get("text"))
    if not isinstance(text, str) or not text:
        return "no text to be continued in prompt or text"
    return Prompt(row, [speaker.tokenizer.begin, *speaker.tokenizer.encode(text)])


def chat_prompt(row: dict, speaker: Speaker, system: str) -> Prompt | str:
    name = next((name for name in ("messages", "prompt", "chosen") if row.get(name) is not None), None)
    if not name:
        return "no column ids, messages or prompt"
    turns = messages(row[name], "user" if name == "prompt" else None)
    if isinstance(turns, str):
        return f"{name}: {turns}"
    turns = turns[:-1] if turns[-1].role == "assistant" else turns
    if not turns:
        return f"{name}: nothing is asked"
    if system and turns[0].role != "system":
        turns = (Message("system", system), *turns)
    return Prompt(row, speaker.renderer.prompt(turns), turns)


def misfit(prompt: Prompt, speaker: Speaker, options: GenerateOptions) -> str:
    """Why the model cannot go on from these ids, or a reward model not judge what comes."""
    config, ids = speaker.model.config, prompt.ids
    if not isinstance(ids, list) or not all(type(id) is int and 0 <= id < config.vocabulary for id in ids):
        return f"ids is no list of whole numbers below {config.vocabulary}"
    if not 0 < len(ids) < config.context:
        return f"it has {len(ids)} tokens, the model reads 1 to {config.context - 1} and then answers"
    return "a reward model reads a dialogue, not ids or plain text" if options.reward and not prompt.turns else ""


# --- completions --------------------------------------------------------------------------------------------------

def write_all(part: BinaryIO, speaker: Speaker, asked: list[Prompt], begin: int, options: GenerateOptions,
              reward: Reward | None) -> dict:
    """Append the rows from `begin` on as they are finished, in their order; tokens, ends and seconds."""
    start = synced = time.monotonic()
    tokens, ends = 0, Counter()
    waiting = progress(tickets(speaker, asked, begin, options), name="generate", total=len(asked) - begin)
    for row, ticket in enumerate(waiting, begin):
        prompt = asked[row]
        if ticket.error:
            raise BloomeryError("a completion failed", where=f"row {row + 1}", why=ticket.error,
                                hint="the rows before it are kept; the same command goes on from here")
        found = ranked(prompt, ticket.completions, options, reward)
        part.write((json.dumps(prompt.row | {COMPLETIONS: found}, ensure_ascii=False) + "\n").encode())
        part.flush()
        if time.monotonic() - synced > SYNC_SECONDS:
            os.fsync(part.fileno())
            synced = time.monotonic()
        tokens += sum(len(one.tokens) for one in ticket.completions)
        ends.update(one.finish for one in ticket.completions)
    os.fsync(part.fileno())
    seconds = time.monotonic() - start
    say(f"{tokens} tokens in {duration(seconds)}")
    return {"generated_tokens": tokens, "finish": dict(sorted(ends.items())), "seconds": round(seconds, 3)}


def tickets(speaker: Speaker, asked: list[Prompt], begin: int, options: GenerateOptions) -> Iterator[Ticket]:
    """The finished requests of all rows from `begin` on, in order; as many are under way as there are slots."""
    longest = max(len(prompt.ids) for prompt in asked)
    context = min(speaker.model.config.context, max(longest + options.max_tokens, SHORTEST))
    engine = speaker.open(slots=options.slots, context=context)
    if not (report := self_test(engine)).ok:
        say(f"warning: {report.why}: after a stop other bits may come than without one")
    going: dict[int, Ticket] = {}
    coming = iter(range(begin, len(asked)))
    for number in range(begin, len(asked)):
        while number not in going or not going[number].finished:
            if stop_signal.reason:
                raise Preempted("stopped", why=stop_signal.reason,
                                hint=f"{number} of {len(asked)} rows are kept; run the same command again to go on")
            while engine.waiting < options.slots and (row := next(coming, None)) is not None:
                going[row] = engine.submit(speaker.request(asked[row].ids, options, n=options.drawn,
                                                           seed=row_seed(options.seed, row)))
            engine.step(fill=True)
        yield going.pop(number)


def ranked(prompt: Prompt, found: list[Completion], options: GenerateOptions, reward: Reward | None) -> list[dict]:
    """The completions to keep as they are written down: as they were drawn, or the best first, ties as drawn."""
    written = [written_down(one, options.ids or "ids" in prompt.row) for one in found]
    if not options.is_ranked:
        return written
    scores = reward([prompt.turns], [[one.text for one in found]])[0] if reward else \
        [one["logp"] / max(len(c.tokens), 1) for one, c in zip(written, found, strict=True)]
    return [written[index] | {"score": round(scores[index], 6)} for index in ranking(scores)[:options.n]]


def written_down(one: Completion, with_ids: bool) -> dict:
    return {"text": one.text, "finish": one.finish, "logp": round(sum(token.raw for token in one.tokens), 6)} | \
        ({"ids": one.ids} if with_ids else {})


def rewards(options: GenerateOptions) -> Reward:
    models = [RewardModel(Path(name), device=placed(options.device)) for name in options.reward]
    return models[0] if len(models) == 1 else Ensemble(models, options.combine)
