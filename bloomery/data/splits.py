"""Rows about one question stay on one side: splits by prompt, and prompts that stand on both sides.

A split of rows would put two comparisons of one dialogue into training and validation, and a model that remembers the
first looks as if it understood the second.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from bloomery.core.records import Preference, Ranking, Rating, unit_hash

Asked = TypeVar("Asked", Preference, Ranking, Rating)
Row = TypeVar("Row")


def question(row: Asked) -> str:
    """What a dialogue began with: the first words of the user, which all its continuations share."""
    return next((turn.content for turn in row.prompt if turn.role == "user"), row.prompt[0].content)


def split_by_prompt(rows: Sequence[Asked], share: float, *, seed: int = 0) -> tuple[list[Asked], list[Asked]]:
    """Rows to train on and about `share` of them to hold out, whole questions by a hash of their text."""
    if not 0 <= share < 1:
        raise ValueError(f"a share in [0, 1) is needed, got {share}")
    sides: tuple[list[Asked], list[Asked]] = [], []
    for row in rows:
        sides[unit_hash(question(row), f"held out {seed}") < share].append(row)
    return sides


def spread_out(rows: Sequence[Row], count: int) -> list[Row]:
    """At most `count` rows from all over a file, in order: what lies together in it is often of one kind."""
    count = min(count, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]


def shared_prompts(training: Iterable[Asked], held_out: Iterable[Asked]) -> int:
    """How many held-out rows ask what is also asked in training, in the same words from the first to the last."""
    known = {row.prompt for row in training}
    return sum(row.prompt in known for row in held_out)
