"""Output folders that can be trusted: content-hashed, locked while they are made, complete or not there at all.

A stage's folder holds what the stage wrote, `stage.json` (verb, configuration, parents, seconds, metrics) and, written
last, `DONE` with the size and SHA-256 of every file.  Without `DONE` a folder is unfinished work: the same stage may
go on in it, nobody else reads it.  Nothing here depends on clocks, directory order or modification times.
"""

import errno
import fcntl
import hashlib
import json
import os
import resource
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bloomery import __version__
from bloomery.core.config import differences
from bloomery.core.errors import BloomeryError, GateError, InputError
from bloomery.core.metrics import say

HASH_DIGITS = 10
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)        # what a system says when there is no room for a file
MARGIN_BYTES = 256 * 2**20          # free space below which no stage is started


def fingerprint(value: Any) -> str:
    """A short hash of a JSON-like value: equal values, equal hash, whatever the order of keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_DIGITS]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes (about 2 GB/s: less than the cost of reading it)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_hash(path: Path) -> str:
    """A short hash of a file, or of every file in a folder with its relative name. Hidden files are left out."""
    path = Path(path)
    if path.is_file():
        return file_hash(path)[:HASH_DIGITS]
    return fingerprint({name: file_hash(path / name) for name in file_names(path)})


def file_names(folder: Path) -> list[str]:
    """Relative names of all files below a folder, sorted, without hidden ones (`.lock`, `.tmp-*`)."""
    found = (p.relative_to(folder) for p in Path(folder).rglob("*") if p.is_file())
    return sorted(p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts))


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file so that a crash leaves either the old or the new one: temporary file, fsync, rename."""
    path = Path(path)
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)                   # a full disk is not helped by half a file
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_space(folder: Path, needed: int = MARGIN_BYTES) -> None:
    """Raise before work is lost when the disk cannot hold what is about to be written."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BloomeryError("not enough disk space", where=str(folder),
                            why=f"{needed / 2**20:.0f} MiB are needed, {free / 2**20:.0f} MiB are free",
                            hint="free some space, or choose another folder with --out")


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold `folder/.lock`, with our pid and host written in it for whoever is refused.

    The kernel keeps the lock (`flock`) and lets go of it when the process ends, however it ends, so none is ever stale.
    """
    with open(Path(folder) / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BloomeryError("another run is working in this folder", where=str(folder),
                                why=f"{file.read() or 'another process'} holds its lock",
                                hint="wait for it, or end it") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


@dataclass(frozen=True)
class Artifact:
    """A finished output folder."""

    folder: Path
    record: dict

    @property
    def hash(self) -> str:
        return self.record["hash"]

    @property
    def metrics(self) -> dict[str, Any]:
        return self.record["metrics"]


def is_done(folder: Path) -> bool:
    return (Path(folder) / "DONE").is_file()


def open_artifact(folder: Path) -> Artifact:
    """Open a finished folder; `InputError` when it is missing or unfinished."""
    folder = Path(folder)
    if not is_done(folder):
        raise InputError("not a finished output", where=str(folder), why="it has no DONE file",
                         hint="run the stage that makes it again: it goes on where it stopped")
    return Artifact(folder, json.loads((folder / "stage.json").read_text(encoding="utf-8")))


def verify(folder: Path) -> int:
    """Compare every file of a finished folder with its hash in `DONE`, and count them. `GateError` names damage."""
    expected = json.loads((open_artifact(folder).folder / "DONE").read_text())["files"]
    for name, (size, digest) in expected.items():
        path = Path(folder) / name
        if not path.is_file() or path.stat().st_size != size or file_hash(path) != digest:
            raise GateError("a finished output has changed", where=str(path), why="size or SHA-256 differ from DONE",
                            hint=f"remove {folder} and run the recipe again")
    return len(expected)


def produce(folder: Path, *, stage: str, verb: str, key: str, config: dict, parents: dict[str, str],
            build: Callable[[Path], dict[str, Any]], origin: dict | None = None, fixed: Iterable[str] = (),
            adopt: bool = False) -> Artifact:
    """Make a stage's folder with `build(folder) -> metrics`, or return it when it is already done.

    `key` is the hash of configuration and inputs.  A folder of another key is refused, an unfinished one of the same
    key is gone on with, and a second process is refused while the first lives.  `origin` is what the key is the hash
    of; with it the refusal names what has changed, and `adopt` goes on with an unfinished folder after a change of
    anything but `fixed`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        begun = folder / ".begun"
        owner = json.loads(begun.read_text()) if begun.exists() else None
        if not owner and file_names(folder):
            raise belongs_elsewhere(folder, f"it holds files we did not make, not {verb} {key}")
        if owner and owner["hash"] != key:
            changed = changes(owner, verb, origin or {})
            impossible = [line for name, line in changed.items() if within(name, fixed)]
            if not adopt or is_done(folder) or owner["verb"] != verb or not changed or impossible:
                raise belongs_elsewhere(folder, refusal(owner, f"{verb} {key}", changed, impossible),
                                        adoptable=bool(changed) and not impossible and not is_done(folder))
            say(f"goes on with what has changed: {'; '.join(changed.values())}")
        if is_done(folder):
            return open_artifact(folder)
        check_space(folder)
        for leftover in sorted(folder.glob(".tmp-*")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        attempts = (owner["attempts"] if owner else 0) + 1
        mine = {"hash": key, "verb": verb, "attempts": attempts, "origin": origin}
        write_atomic(begun, json.dumps(mine))
        start, seconds_before = time.monotonic(), (owner or {}).get("seconds", 0.0)
        try:
            metrics = build(folder)
        finally:                                            # a stop by request is counted, a kill -9 cannot be
            seconds = seconds_before + time.monotonic() - start
            write_atomic(begun, json.dumps(mine | {"seconds": seconds}))
        record = {"schema": 1, "stage": stage, "verb": verb, "hash": key, "version": __version__, "config": config,
                  "parents": parents, "attempts": attempts, "seconds": round(seconds, 3),
                  "peak_memory_gb": round(peak_memory_gb(), 3), "metrics": metrics}
        write_atomic(folder / "stage.json", json.dumps(record, indent=1, ensure_ascii=False))
        files = {name: (os.path.getsize(folder / name), file_hash(folder / name)) for name in file_names(folder)}
        write_atomic(folder / "DONE", json.dumps({"files": files}, indent=1))
        return Artifact(folder, record)


def changes(owner: dict, verb: str, origin: dict) -> dict[str, str]:
    """What differs between what began a folder and what would go on with it, a line each by its dotted name."""
    before = owner.get("origin") or {}
    if not before or not origin or owner["verb"] != verb:
        return {}
    configs = differences(before["config"], origin["config"])
    contents = differences(before["inputs"], origin["inputs"])
    return {name: f"{name}: {json.dumps(old)} -> {json.dumps(new)}" for name, (old, new) in configs.items()} | \
        {name: f"{name}: its content has changed" for name in contents if name not in configs}


def within(name: str, tables: Iterable[str]) -> bool:
    return any(name == table or name.startswith(f"{table}.") for table in tables)


def refusal(owner: dict, wanted: str, changed: dict[str, str], impossible: list[str]) -> str:
    if impossible:
        return f"{'; '.join(impossible)}: its checkpoints would not fit"
    return "; ".join(changed.values()) or f"it holds {owner['verb']} {owner['hash']}, not {wanted}"


def belongs_elsewhere(folder: Path, why: str, *, adoptable: bool = False) -> InputError:
    hint = "choose another out=FOLDER, or remove this one"
    return InputError("the output folder belongs to something else", where=str(folder), why=why,
                      hint=f"{hint}; a training stage goes on with accept_change=true" if adoptable else hint)


def peak_memory_gb() -> float:
    """The most memory this process has held resident so far, in GB (10^9 bytes)."""
    unit = 1024 if os.uname().sysname == "Linux" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
