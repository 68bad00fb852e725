"""A file of rows that a command writes line by line, and goes on with after it was killed.

Whole lines are appended to `.OUT.part`, which gets its name when all rows are there; `.OUT.json` says what they are
made from.  The same command again goes on behind the last whole line, and ends with the bytes of a run that was never
stopped.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, TypeVar

from bloomery.core.artifacts import file_hash, fingerprint, sync_folder, write_atomic
from bloomery.core.config import differences
from bloomery.core.errors import BloomeryError, ConfigError, InputError
from bloomery.core.files import Quarantine, rows
from bloomery.core.metrics import say
from bloomery.model.hub import MODEL_FILES

T = TypeVar("T")

COMPLETIONS = "completions"     # the column of what was written
SHOWN = 5                       # bad rows that an error names


def continued(out: Path, about: dict, work: Callable[[BinaryIO], dict]) -> dict:
    """What `work` says of the rows it has appended to the file it is given, which then becomes `out`.

    A file that is done is left as it is.  `ConfigError` where `out` was begun from something else than `about`.
    """
    with claimed(out) as part:
        if belongs(out, part, about):
            say(f"{out} is already done")
            return {"out": str(out), "rows": count_lines(out), "done_before": count_lines(out)}
        found = work(part)
        os.replace(beside(out, ".part"), out)
        sync_folder(out.parent)
    return {"out": str(out), **found}


def read_all(path: Path, parse: Callable[[dict, str], T | str], *, what: str) -> list[T]:
    """What `parse` makes of every row; a string is why not, and one `InputError` names all of them before any work."""
    quarantine, found = Quarantine(), []
    for row, where in rows(path, quarantine):
        try:
            made = unwritable(row) or parse(row, where)
        except InputError as error:
            made = error.what
        if isinstance(made, str):
            quarantine.add(where, made)
        else:
            found.append(made)
    if len(quarantine):
        named = "; ".join(f"{entry['where']}: {entry['why']}" for entry in quarantine.entries[:SHOWN])
        more = f"; and {len(quarantine) - SHOWN} more" if len(quarantine) > SHOWN else ""
        raise InputError(f"{len(quarantine)} of {len(quarantine) + len(found)} rows cannot be used", where=str(path),
                         why=named + more, hint="mend or remove these rows; nothing was written")
    if not found:
        raise InputError(f"there is no {what}", where=str(path), why="it has no rows")
    return found


def unwritable(row: dict) -> str:
    """Why a row could not be written down again."""
    try:
        json.dumps(row, allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"JSON cannot hold it: {error}"
    return ""


def begun(out: Path, part: BinaryIO, about: dict, asked: Sequence[dict], column: str, *, group: int = 1) -> int:
    """Say what the file is made from, and how many of the rows asked for an earlier run has finished."""
    write_atomic(beside(out, ".json"), json.dumps(about, indent=1))
    done = keep_whole_lines(part, asked, column, group)
    if done:
        say(f"goes on after {done} of {len(asked)} rows")
    return done


def row_seed(seed: int, row: int) -> int:
    """The seed of one row: 63 bits of a hash, so that neighbouring rows and seeds have nothing in common."""
    return int.from_bytes(blake2b(f"{seed} {row}".encode(), digest_size=8).digest()) >> 1


def model_hash(folder: Path) -> str:
    """What a model's folder holds, without checkpoints of the training that may still be in it."""
    return fingerprint({path.name: file_hash(path) for pattern in MODEL_FILES for path in folder.glob(pattern)})


def beside(out: Path, end: str) -> Path:
    """A hidden file of ours beside the output: whoever reads the folder as data does not see it."""
    return out.with_name(f".{out.name}{end}")


@contextmanager
def claimed(out: Path) -> Iterator[BinaryIO]:
    """The unfinished file, held by this process alone; an empty one does not stay behind."""
    if not out.parent.is_dir() or out.is_dir():
        raise InputError("cannot write there", where=str(out), hint="give a file name in a folder that exists")
    path = beside(out, ".part")
    with open(path, "ab+") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BloomeryError("another run is writing this file", where=str(out),
                                hint="wait for it, or end it") from None
        try:
            yield part
        finally:
            if path.exists() and not path.stat().st_size:
                path.unlink()


def belongs(out: Path, part: BinaryIO, about: dict) -> bool:
    """Whether `out` is already done; `ConfigError` if it, or what there is of it, was made from something else."""
    begun = part.seek(0, os.SEEK_END) > 0
    if not (out.exists() or begun):
        return False
    path = beside(out, ".json")
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if before == about:
        return out.exists()
    changes = differences(before, about) if before else {}
    why = "; ".join(f"{name.removeprefix('options.')}: {json.dumps(old)} -> {json.dumps(new)}"
                    for name, (old, new) in changes.items())
    raise ConfigError("the output was made with other options" if before else "the output exists already",
                      where=str(out), why=why or "it was not written by this command",
                      hint="choose another file, or remove " + str(out if out.exists() else beside(out, ".part")))


def keep_whole_lines(part: BinaryIO, asked: Sequence[dict], column: str, group: int = 1) -> int:
    """How many rows an earlier run has finished, in whole groups; what a stop left behind them is cut off."""
    part.seek(0)
    ends = [0]
    for line, wanted in zip(part, asked, strict=False):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(row, dict) or column not in row or \
                any(row.get(name) != value for name, value in wanted.items()):
            break
        ends.append(ends[-1] + len(line))
    done = len(ends) - 1
    done = done if done == len(asked) else done - done % group
    part.truncate(ends[done])
    part.seek(ends[done])
    return done


def count_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)
