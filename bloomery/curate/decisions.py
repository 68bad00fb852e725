"""What a global step decides of all documents, kept on disk between two passes.

Arrays that parts gathered are joined into memory-mapped files, so that no more is in memory than the step looks at;
texts are fetched from the parts when it asks for them.  The decision, reasons and spans by document, is written once.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from bloomery.core.artifacts import sync_folder, write_atomic
from bloomery.curate.edits import Edits
from bloomery.curate.step import Findings, Gathered, GlobalStep


def spooled(path: Path) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow file, one at a time; none when there is no file: a part without documents."""
    if path.exists():
        with pa.OSFile(str(path)) as source:             # mapped pages would count as memory
            reader = pa.ipc.open_file(source)
            for index in range(reader.num_record_batches):
                yield reader.get_batch(index)


@dataclass(frozen=True)
class Decision:
    """What a global step decided of all documents of a pass; `offsets` says where each part's begin."""

    offsets: list[int]
    names: list[str]
    codes: np.ndarray                                       # (N,) int32: 0 keep, else names[code - 1]
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    edits: Edits = field(default_factory=Edits)
    marks: Edits = field(default_factory=Edits)

    def within(self, low: int, high: int) -> Findings:
        """What was decided of the documents from row low to row high."""
        reasons = [self.names[code - 1] if code else None for code in self.codes[low:high].tolist()]
        return Findings(reasons, {name: values[low:high] for name, values in self.columns.items()},
                        self.edits.within(low, high), self.marks.within(low, high))


def decide(step: GlobalStep, done: Path, parts: list[Path], counts: list[int], memory: int) -> dict:
    """Decide on what parts gathered, once, in the folder `done`; what the step has to tell of it."""
    if not done.is_dir():
        unfinished = done.with_name(".tmp-decision")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        arrays = gather(parts, unfinished)
        texts = Texts(parts, counts)
        found = step.decide(Gathered(arrays, sum(counts), texts, memory)) if sum(counts) else Findings([])
        if len(found.reasons) != sum(counts):
            raise ValueError(f"{len(found.reasons)} reasons for {sum(counts)} documents")
        names = sorted({reason for reason in found.reasons if reason is not None})
        code = {None: 0} | {name: position + 1 for position, name in enumerate(names)}
        np.save(unfinished / "codes.npy", np.array([code[reason] for reason in found.reasons], np.int32))
        np.savez(unfinished / "columns.npz", **{
            name: np.asarray(values, str if np.asarray(values).dtype == object else None)
            for name, values in found.columns.items()})
        for name, edits in (("edits", found.edits), ("marks", found.marks)):
            edits = (edits or Edits()).by_row()
            np.savez(unfinished / f"{name}.npz", row=edits.row, start=edits.start, stop=edits.stop)
            write_atomic(unfinished / f"{name}.json", json.dumps(edits.text))
        write_atomic(unfinished / "decision.json", json.dumps({
            "offsets": np.cumsum([0, *counts]).tolist(), "names": names, "account": found.account}))
        for file in unfinished.glob("gathered-*"):
            file.unlink()
        sync_files(unfinished)
        os.rename(unfinished, done)
    return json.loads((done / "decision.json").read_text(encoding="utf-8"))["account"]


def gather(parts: list[Path], folder: Path) -> dict[str, np.ndarray]:
    """The arrays of all parts, joined on disk and memory-mapped: no more is in memory than what a step looks at."""
    arrays = {}
    for name in sorted({file.stem for part in parts for file in part.glob("*.npy")}):
        found = [np.load(part / f"{name}.npy", mmap_mode="r") for part in parts if (part / f"{name}.npy").exists()]
        shape = (sum(len(array) for array in found), *found[0].shape[1:])
        joined_up = np.lib.format.open_memmap(folder / f"gathered-{name}.npy", mode="w+", dtype=found[0].dtype,
                                              shape=shape)
        position = 0
        for array in found:
            joined_up[position:position + len(array)] = array
            position += len(array)
        arrays[name] = joined_up
    return arrays


class Texts:
    """Texts of documents by their number in a pass, from the parts on disk."""

    def __init__(self, parts: list[Path], counts: list[int]):
        self.parts, self.offsets = parts, np.cumsum([0, *counts])

    def __call__(self, rows: np.ndarray) -> list[str]:
        rows, found = np.asarray(rows), {}
        for part in np.unique(np.searchsorted(self.offsets, rows, "right") - 1).tolist():
            start = int(self.offsets[part])
            for batch in spooled(self.parts[part] / "documents.arrow"):
                here = np.unique(rows[(rows >= start) & (rows < start + batch.num_rows)])
                texts = batch.column("text").take(pa.array(here - start)).to_pylist()
                found.update(zip(here.tolist(), texts))
                start += batch.num_rows
        return [found[row] for row in rows.tolist()]


def load_decision(place: Path) -> Decision:
    """A decision, read once a process."""
    told = (place / "decision.json").stat()
    return remembered(place, told.st_ino, told.st_mtime_ns)


@lru_cache(maxsize=2)
def remembered(place: Path, *_: int) -> Decision:
    told = json.loads((place / "decision.json").read_text(encoding="utf-8"))
    with np.load(place / "columns.npz") as file:
        columns = dict(file)
    edits = []
    for name in ("edits", "marks"):
        with np.load(place / f"{name}.npz") as file:
            edits.append(Edits(file["row"], file["start"], file["stop"],
                               json.loads((place / f"{name}.json").read_text(encoding="utf-8"))))
    return Decision(told["offsets"], told["names"], np.load(place / "codes.npy", mmap_mode="r"), columns, *edits)


def sync_files(folder: Path) -> None:
    """Everything in a folder is on the disk."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
