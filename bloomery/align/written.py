"""Rows that are costly to make, written a chunk at a time: a run that goes on after a stop makes the rest.

What a chunk holds depends on nothing but its place, so that the file's bytes are those of a run that was never stopped.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from bloomery.align.candidates import line, read
from bloomery.core.artifacts import write_atomic
from bloomery.core.metrics import progress

T = TypeVar("T")

CHUNK = 32                      # items whose rows are written at once


def in_chunks(path: Path, items: Sequence[T], make: Callable[[Sequence[T], int], list[dict]], *,
              name: str) -> list[dict]:
    """A row for every item, from `path` as far as they are there; `make` gets a chunk and the place it begins at."""
    rows = read(path)
    rows = rows[:len(rows) // CHUNK * CHUNK] if len(rows) < len(items) else rows
    write_atomic(path, "".join(map(line, rows)))
    for start in progress(range(len(rows), len(items), CHUNK), name=f"{name}, chunks",
                          total=-(-(len(items) - len(rows)) // CHUNK)):
        made = make(items[start:start + CHUNK], start)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(map(line, made)))
        rows += made
    return rows
