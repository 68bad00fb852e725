"""One part of the input through one pass: what every engine runs, and all of it that runs in parallel.

Steps are cut into passes at the global ones.  A pass reads a part (of the source, or as the pass before left it),
applies what a global step has decided, examines what is left with its local steps, applies their edits, and gathers
arrays for the next global step:

    <pass>/<part>/    documents.arrow  dropped.arrow  statistics.arrow  <array>.npy  account.json
    <pass>/decision/  what the global step between this pass and the next decided

A part's folder bears its name when it is whole and on the disk; one that is there is not made again.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from threading import get_ident
from time import perf_counter

import numpy as np
import pyarrow as pa

from bloomery.core.artifacts import sync_folder, write_atomic
from bloomery.curate.account import Ledger
from bloomery.curate.decisions import load_decision, spooled, sync_files
from bloomery.curate.jobs import Job
from bloomery.curate.reading import Reading
from bloomery.curate.sieve import NUMBER, Sieve
from bloomery.curate.step import Findings, GlobalStep, Step

Steps = dict[str, Step | GlobalStep]
Build = Callable[[str], Steps]


@dataclass(frozen=True)
class Pass:
    """Which global step's decision a pass applies, which local steps it runs, and what it gathers for."""

    index: int
    decided: str = ""
    local: tuple[str, ...] = ()
    gathers: str = ""


@dataclass(frozen=True)
class Work:
    """All that a worker needs to know, as plain values. `steps` is the configuration that steps are built from."""

    folder: str
    steps: str
    passing: Pass
    job: Job
    batch_bytes: int
    profile: bool = False

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Work":
        value = json.loads(text)
        passing = Pass(**value["passing"] | {"local": tuple(value["passing"]["local"])})
        return Work(**value | {"passing": passing, "job": Job.from_json(value["job"])})


def part_folder(folder: str | Path, index: int, number: int) -> Path:
    return Path(folder) / str(index) / f"{number:06d}"


def decision_folder(folder: str | Path, index: int) -> Path:
    return Path(folder) / str(index) / "decision"


def passes(names: tuple[str, ...], steps: Steps) -> list[Pass]:
    """The fewest passes that let every global step see what those before it kept."""
    found, decided, local = [], "", []
    for name in names:
        if hasattr(steps[name], "decide"):
            found.append(Pass(len(found), decided, tuple(local), name))
            decided, local = name, []
        else:
            local.append(name)
    return [*found, Pass(len(found), decided, tuple(local))]


def sift(work: Work, build: Build) -> dict:
    """Make a part if it is not there; its account. `build` makes the steps, once a process."""
    part = part_folder(work.folder, work.passing.index, work.job.number)
    if not part.is_dir():
        part.parent.mkdir(parents=True, exist_ok=True)
        unfinished = part.with_name(f".tmp-{part.name}-{os.getpid()}-{get_ident()}")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        make(work, built(build, work.steps), unfinished)
        sync_files(unfinished)
        os.rename(unfinished, part)
        sync_folder(part.parent)
    return json.loads((part / "account.json").read_text(encoding="utf-8"))


@lru_cache(maxsize=4)
def built(build: Build, steps: str) -> Steps:
    return build(steps)


def make(work: Work, steps: Steps, folder: Path) -> None:
    """Read a part, pass it through the steps and write what is left of it."""
    ledger, reading, passing = Ledger(), Reading(batch_bytes=work.batch_bytes), work.passing
    gathered: dict[str, list[np.ndarray]] = {}
    statistics, left = [], 0
    with ExitStack() as stack:
        writers: dict[str, pa.RecordBatchFileWriter] = {}

        def write(name: str, batch: pa.RecordBatch) -> None:
            if batch.num_rows and name not in writers:
                writers[name] = stack.enter_context(pa.ipc.new_file(str(folder / f"{name}.arrow"), batch.schema))
            if batch.num_rows:
                writers[name].write_batch(batch)

        batches = incoming(work, reading)
        while (found := timed_next(batches, ledger)) is not None:
            batch, decision = found
            sieve = Sieve(batch, ledger)
            if not passing.index:
                ledger.add("read", batch)
            if decision:
                sieve.found(passing.decided, decision, np.arange(batch.num_rows))
                sieve.settle(write)
            for name in passing.local:
                with timed(ledger, name):
                    sieve.examine(name, steps[name], profile=work.profile)
            sieve.settle(write)
            statistics.append(sieve.table(batch))
            if passing.gathers and sieve.batch.num_rows:
                with timed(ledger, passing.gathers):
                    for name, array in steps[passing.gathers].gather(sieve.batch).items():
                        gathered.setdefault(name, []).append(array)
            elif not passing.gathers:
                ledger.add("kept", sieve.batch)
            with timed(ledger, "writing"):
                write("documents", sieve.batch)
            left += sieve.batch.num_rows
        for table in [pa.concat_tables(statistics, promote_options="permissive")] if statistics else []:
            for batch in table.combine_chunks().to_batches():
                write("statistics", batch)
    pa.default_memory_pool().release_unused()
    for name, arrays in gathered.items():
        np.save(folder / f"{name}.npy", np.concatenate(arrays))
    write_atomic(folder / "account.json", json.dumps(ledger.as_json() | reading.as_json() | {"left": left},
                                                     ensure_ascii=False))


def incoming(work: Work, reading: Reading) -> Iterator[tuple[pa.RecordBatch, Findings | None]]:
    """The batches of a part, their documents numbered, with what was decided of them."""
    index, row = work.passing.index, 0
    if not index:
        for batch in reading.batches(work.job.pieces):
            numbers = pa.array(np.arange(row, row + batch.num_rows), pa.int64())
            yield batch.append_column(NUMBER, numbers), None
            row += batch.num_rows
        return
    decision = load_decision(decision_folder(work.folder, index - 1))
    row = decision.offsets[work.job.number]
    for batch in spooled(part_folder(work.folder, index - 1, work.job.number) / "documents.arrow"):
        yield batch, decision.within(row, row + batch.num_rows)
        row += batch.num_rows


@contextmanager
def timed(ledger: Ledger, name: str) -> Iterator[None]:
    start = perf_counter()
    yield
    ledger.seconds[name] += perf_counter() - start


def timed_next(batches: Iterator, ledger: Ledger) -> tuple[pa.RecordBatch, Findings | None] | None:
    with timed(ledger, "reading"):
        return next(batches, None)
