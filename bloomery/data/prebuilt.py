"""Token files that other tools made: bare uint16 (nanoGPT), or behind a header (llm.c, modded-nanogpt).

    nanoGPT                 train.bin val.bin                        uint16 ids and nothing else
    llm.c, modded-nanogpt   *_train_*.bin *_val_*.bin, many files    256 int32 (magic, version, ids), then the ids

Document ends follow from the end-of-text id when it is known.  A `meta.pkl` beside them is never opened: a pickle can
run code.  Left out: lengths in bytes, which these files do not hold, and so bits per byte.
"""

import re
from pathlib import Path

import numpy as np

from bloomery.core.errors import InputError
from bloomery.core.metrics import progress

HEADER = 256                                                    # int32
MAGIC = {20240520: np.dtype("<u2"), 20240801: np.dtype("<u4")}  # llm.c's GPT-2 and Llama 3 files
NAMES = {"train": re.compile(r"(.*_)?train(_.*)?\.bin"), "validation": re.compile(r"(.*_)?val(id|idation)?(_.*)?\.bin")}
BLOCK = 1 << 24                                                 # ids scanned at a time


class Joined:
    """Several arrays as one that is as long as all of them; a read copies what it asks for."""

    def __init__(self, parts: list[np.ndarray]):
        self.parts, self.bounds = parts, np.cumsum([0, *map(len, parts)])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def __getitem__(self, places: slice | np.ndarray) -> np.ndarray:
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        part = np.searchsorted(self.bounds, places, "right") - 1
        out = np.empty(places.shape, self.dtype)
        for index in np.unique(part):
            here = part == index
            out[here] = self.parts[index][places[here] - self.bounds[index]]
        return out


def bin_files(folder: Path, split: str) -> list[Path]:
    """The files of a split by name; none when the folder holds no such files."""
    return sorted(path for path in Path(folder).glob("*.bin") if NAMES[split].fullmatch(path.name))


def open_bins(folder: Path, split: str) -> np.ndarray | Joined:
    """All ids of a split, memory-mapped; `InputError` when a file is not what its header or its name says."""
    files = bin_files(folder, split)
    if not files:
        there = ", ".join(sorted(path.name for path in Path(folder).glob("*.bin")))
        raise InputError(f"no token file for the {split} split", where=str(folder), why=f"its .bin files are {there}",
                         hint="name them train.bin and val.bin")
    parts = [open_bin(path) for path in files]
    return parts[0] if len(parts) == 1 else Joined(parts)


def open_bin(path: Path) -> np.ndarray:
    """One file, memory-mapped, with or without a header."""
    size = path.stat().st_size
    head = np.fromfile(path, "<i4", count=min(HEADER, size // 4))
    dtype = MAGIC.get(int(head[0])) if len(head) == HEADER else None
    if dtype:
        if size != 4 * HEADER + int(head[2]) * dtype.itemsize:
            raise InputError("a token file was cut short", where=str(path),
                             why=f"its header says {head[2]} ids of {dtype.itemsize} bytes, it has {size} bytes",
                             hint="copy or make it again")
        return np.memmap(path, dtype, mode="r", offset=4 * HEADER, shape=(int(head[2]),))
    if size % 2 or not size:
        raise InputError("not a token file", where=str(path), why=f"{size} bytes are no array of 16-bit ids",
                         hint="other widths are read from llm.c's files, which have a header")
    return np.memmap(path, "<u2", mode="r")


def scanned(tokens: np.ndarray | Joined, eos: int | None, name: str) -> tuple[int, np.ndarray]:
    """The largest id, and where documents end; one document when there is no end-of-text."""
    largest, ends = 0, []
    for start in progress(range(0, len(tokens), BLOCK), name=f"{name}, blocks", total=-(-len(tokens) // BLOCK)):
        block = tokens[start:start + BLOCK]
        largest = max(largest, int(block.max()))
        if eos is not None:
            ends.append(np.flatnonzero(block == eos) + start + 1)
    found = np.concatenate(ends) if ends else np.empty(0, np.int64)
    return largest, found if len(found) and found[-1] == len(tokens) else np.append(found, len(tokens))
