"""Jobs: the input cut into pieces of work, the same ones whatever does them.

A job is a list of pieces, each a file or a range of one: whole lines of plain JSONL, row groups of Parquet.  A packed
file is one piece, as it can only be read from its beginning.  Small files share a job.  Jobs depend on the input alone,
so that what is made of them does not depend on workers, engine or memory.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from bloomery.core.files import Quarantine, data_files, extension
from bloomery.curate.reading import READERS
from bloomery.data import stdlib
from bloomery.data.formats import inside, placed

JOB_BYTES = 1 << 25                 # of input on disk, about
JOB_PIECES = 2000
SCAN = 1 << 22                      # bytes looked at for line ends at a time


@dataclass(frozen=True)
class Piece:
    """A file, or the part from `start` to `stop` (bytes, or row groups), whose first row is number `first`."""

    source: str                     # as the user wrote it
    path: str
    base: str = ""                  # the folder that rows do not name: their source is "a.jsonl:7"
    start: int = 0
    stop: int | None = None
    first: int = 1

    @property
    def place(self) -> str:
        return self.path.removeprefix(self.base)


@dataclass(frozen=True)
class Job:
    """Pieces that are read one after another into one part of the output."""

    number: int
    pieces: tuple[Piece, ...]

    def as_json(self) -> dict:
        return {"number": self.number, "pieces": [asdict(piece) for piece in self.pieces]}

    @staticmethod
    def from_json(value: dict) -> "Job":
        return Job(value["number"], tuple(Piece(**piece) for piece in value["pieces"]))


def plan(sources: Iterable[str], quarantine: Quarantine) -> list[Job]:
    """The jobs that reading all sources takes, in their order; `InputError` for one that is not there."""
    jobs, waiting, held = [], [], 0
    for piece, size in (found for source in sources for found in pieces(source, quarantine)):
        if waiting and (held + size > JOB_BYTES or len(waiting) == JOB_PIECES):
            jobs.append(Job(len(jobs), tuple(waiting)))
            waiting, held = [], 0
        waiting.append(piece)
        held += size
    return jobs + [Job(len(jobs), tuple(waiting))] * bool(waiting)


def pieces(source: str, quarantine: Quarantine) -> Iterator[tuple[Piece, int]]:
    """The pieces of one source with their sizes on disk."""
    if source == stdlib.SOURCE:
        yield Piece(source, source), JOB_BYTES
        return
    local, base = placed(source)
    for path in data_files(inside(local, "documents.parquet"), quarantine, also=READERS):
        for start, stop, first, size in RANGES.get(extension(path), whole)(path):
            yield Piece(source, str(path), base, start, stop, first), size


def whole(path: Path) -> Iterator[tuple[int, int | None, int, int]]:
    yield 0, None, 1, path.stat().st_size


def line_ranges(path: Path) -> Iterator[tuple[int, int | None, int, int]]:
    """Ranges of about `JOB_BYTES` that end with a line; lines are counted as they are passed (2 GB/s)."""
    if path.stat().st_size <= JOB_BYTES:
        yield from whole(path)
        return
    start = position = 0
    first = number = 1
    with open(path, "rb") as file:
        while chunk := file.read(SCAN):
            end = chunk.rfind(b"\n") + 1
            if end and position + end - start >= JOB_BYTES:
                after = number + chunk.count(b"\n")
                yield start, position + end, first, position + end - start
                start, first = position + end, after
            number, position = number + chunk.count(b"\n"), position + len(chunk)
    if start < position:
        yield start, position, first, position - start


def group_ranges(path: Path) -> Iterator[tuple[int, int | None, int, int]]:
    """Row groups of a Parquet file, some together; a file that cannot be opened is whole, and fails when it is read."""
    try:
        metadata = parquet.read_metadata(path)
    except (pa.ArrowException, OSError):
        yield from whole(path)
        return
    start, first, number, held = 0, 1, 1, 0
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).total_byte_size
        if held and held + size > JOB_BYTES:
            yield start, group, first, held
            start, first, held = group, number, 0
        held, number = held + size, number + metadata.row_group(group).num_rows
    yield start, metadata.num_row_groups, first, held


RANGES = {".jsonl": line_ranges, ".parquet": group_ranges}
