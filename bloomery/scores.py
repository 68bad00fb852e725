"""`bloomery score`: a file of answers in, the same rows in the same order with `scores` out.

A row has one of

    chosen, rejected        two scores, in that order
    answers, completions    to a `prompt` (or `messages`, or what `chosen` answers): a score each; what `generate` wrote
    a dialogue              whose last turn is the assistant's: one score

and keeps all its columns.  Several reward models are one ensemble: each is brought to mean 0 and deviation 1 on one
common set of answers, a row then also has what every member says (`members`) and how far apart they are
(`disagreement`), which grows where a reward is being hacked.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from bloomery import __version__
from bloomery.core.artifacts import tree_hash
from bloomery.core.errors import InputError, Preempted
from bloomery.core.metrics import progress, say
from bloomery.core.records import Conversation, Message, Preference, Ranking, Rating
from bloomery.data.dialects import first, messages
from bloomery.data.formats import record
from bloomery.generate.best_of import combine, disagreement
from bloomery.generate.scoring import Reward, RewardModel, standardised
from bloomery.row_files import begun, continued, model_hash, read_all
from bloomery.train.hooks import stop_signal
from bloomery.train.precision import placed

SCORES = "scores"
GROUP = 32                      # rows scored together: a fixed cut, so that a stop changes no batch and so no digit
COMMON = 256                    # rows that members are brought to one scale on


@dataclass(frozen=True)
class Asked:
    """One row of the file, the dialogue that was answered, and the answers."""

    row: dict
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]


def score_file(models: Sequence[Path], rows: Path, out: Path, *, how: str = "mean", k: float = 1.0,
               normalise: Path | None = None) -> dict:
    """Score every answer of a file into `out`, or go on where an earlier run with the same options stopped.

    Raises `InputError` with the bad rows of the file before any work, `ConfigError` when `out` was begun otherwise.
    """
    about = {"version": __version__, "models": [model_hash(folder) for folder in models], "rows": tree_hash(rows),
             "options": {"combine": how, "k": k, "normalise": tree_hash(normalise) if normalise else None}}

    def work(part: BinaryIO) -> dict:
        members = [RewardModel(folder, device=placed()) for folder in models]
        asked = read_rows(rows, members)
        common = read_rows(normalise, members) if normalise else asked
        scaled = [on_one_scale(member, common[:COMMON], folder) for member, folder in
                  zip(members, models, strict=True)] if len(members) > 1 else members
        begin = begun(out, part, about, [one.row for one in asked], SCORES, group=GROUP)
        with stop_signal.caught():
            write_all(part, scaled, asked, begin, how, k)
        return {"rows": len(asked), "done_before": begin, "answers": sum(len(one.answers) for one in asked)}

    return continued(out, about, work)


def read_rows(path: Path, members: Sequence[RewardModel]) -> list[Asked]:
    """Every row with its answers; one `InputError` for all that cannot be scored, before any is."""
    def parse(row: dict, where: str) -> Asked | str:
        found = asked_of(row, where)
        return found if isinstance(found, str) else misfit(found, members) or found

    return read_all(path, parse, what="answer")


def asked_of(row: dict, where: str) -> Asked | str:
    """The answers of a row; a string says why there are none."""
    if SCORES in row:
        return f"it already has a column {SCORES}"
    if given := first(row, "completions", "answers"):
        texts = [one.get("text", one.get("content")) if isinstance(one, dict) else one for one in given] \
            if isinstance(given, list) else []
        if not texts or not all(isinstance(text, str) for text in texts):
            return "its answers are not a list of texts"
        turns = dialogue(row)
        return turns if isinstance(turns, str) else Asked(row, turns, tuple(texts))
    found = record(row, where)
    match found:
        case str():
            return found
        case Preference():
            return Asked(row, found.prompt, (found.chosen, found.rejected))
        case Ranking():
            return Asked(row, found.prompt, found.answers)
        case Rating():
            return Asked(row, found.prompt, (found.completion,))
        case Conversation() if len(found.messages) > 1 and found.messages[-1].role == "assistant":
            return Asked(row, found.messages[:-1], (found.messages[-1].spoken,))
    return "no answer to be scored"


def dialogue(row: dict) -> tuple[Message, ...] | str:
    """What was answered, from the columns that `generate` reads."""
    name = next((name for name in ("messages", "prompt", "chosen") if row.get(name) is not None), None)
    if not name:
        return "no column messages or prompt"
    turns = messages(row[name], "user" if name == "prompt" else None)
    if isinstance(turns, str):
        return f"{name}: {turns}"
    turns = turns[:-1] if turns[-1].role == "assistant" else turns
    return turns or f"{name}: nothing is asked"


def misfit(asked: Asked, members: Sequence[RewardModel]) -> str:
    """Why a reward model cannot read an answer to its end."""
    for member in members:
        prompt, context = len(member.renderer.prompt(asked.prompt)), member.model.config.context
        longest = prompt + max(len(member.answer(text)) for text in asked.answers)
        if longest > context:
            return f"it has {longest} tokens, the reward model reads {context}"
    return ""


def on_one_scale(member: RewardModel, common: Sequence[Asked], folder: Path) -> Reward:
    """A member in units of its own spread over the common answers."""
    try:
        return standardised(member, [one.prompt for one in common], [one.answers for one in common])
    except InputError as error:
        raise InputError(error.what, where=str(folder), why=error.why, hint="give rows with --normalise whose answers "
                                                                            "are of different quality") from None


def write_all(part: BinaryIO, members: Sequence[Reward], asked: Sequence[Asked], begin: int, how: str,
              k: float) -> None:
    """Append the rows from `begin` on, a group at a time."""
    waiting = iter(asked[begin:])
    groups = iter(lambda: list(islice(waiting, GROUP)), [])
    for number, group in enumerate(progress(groups, name="score, groups of rows",
                                            total=-(-(len(asked) - begin) // GROUP))):
        if stop_signal.reason:
            raise Preempted("stopped", why=stop_signal.reason,
                            hint=f"{begin + number * GROUP} of {len(asked)} rows are kept; run the same command again "
                                 "to go on")
        said = [member([one.prompt for one in group], [one.answers for one in group]) for member in members]
        for one, *scores in zip(group, *said, strict=True):
            part.write((json.dumps(one.row | scored(scores, how, k), ensure_ascii=False) + "\n").encode())
        part.flush()
    os.fsync(part.fileno())
    say(f"{sum(len(one.answers) for one in asked[begin:])} answers scored")


def scored(members: Sequence[Sequence[float]], how: str, k: float) -> dict:
    """The columns a row is given, from what every member says of its answers."""
    def short(values: Sequence[float]) -> list[float]:
        return [round(value, 6) for value in values]

    if len(members) == 1:
        return {SCORES: short(members[0])}
    return {SCORES: short(combine(members, how, k)), "members": [short(own) for own in members],
            "disagreement": short(disagreement(members))}
