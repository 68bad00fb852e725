"""Token files: a corpus as one flat, memory-mapped array of ids, with document boundaries beside it.

    train.bin         uint16 or uint32, little-endian: every document's tokens followed by one end-of-text id
    train.ends.npy    int64 (documents,): where each document ends in train.bin, its end-of-text included
    train.bytes.npy   int64 (documents,): UTF-8 bytes of each document, for bits per byte
    shards.json       dtype, vocabulary, eos and counts; validation.* likewise

A folder without `shards.json` whose `.bin` files another tool made is read as well (see `prebuilt.py`).
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bloomery.core.errors import InputError
from bloomery.data.prebuilt import Joined, bin_files, open_bins, scanned

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Shard:
    """One split, opened without reading it."""

    tokens: np.ndarray | Joined     # (tokens,) memory-mapped
    ends: np.ndarray                # (documents,) int64
    bytes_: np.ndarray | None       # (documents,) int64, None when they are not known
    eos: int | None                 # None: documents are not told apart
    vocabulary: int
    tokenizer: str = ""             # SHA-256 of the tokenizer.json it was made with, "" when another tool made it

    def document(self, index: int) -> np.ndarray:
        """The tokens of a document with its end-of-text."""
        return self.tokens[self.ends[index - 1] if index else 0:self.ends[index]]


def token_dtype(vocabulary: int) -> str:
    return "<u2" if vocabulary <= 2**16 else "<u4"


class ShardWriter:
    """Append documents to a split; `close` writes the boundaries."""

    def __init__(self, folder: Path, split: str, *, eos: int, vocabulary: int):
        self.folder, self.split, self.eos = Path(folder), split, eos
        self.dtype = np.dtype(token_dtype(vocabulary))
        self.file = (self.folder / f"{split}.bin").open("wb")
        self.lengths: list[int] = []
        self.bytes_: list[int] = []

    def add(self, ids: list[int], bytes_: int) -> None:
        self.file.write(np.asarray([*ids, self.eos], self.dtype).tobytes())
        self.lengths.append(len(ids) + 1)
        self.bytes_.append(bytes_)

    def close(self) -> dict[str, int]:
        """Documents, tokens and bytes written."""
        self.file.close()
        np.save(self.folder / f"{self.split}.ends.npy", np.cumsum(np.asarray(self.lengths, np.int64)))
        np.save(self.folder / f"{self.split}.bytes.npy", np.asarray(self.bytes_, np.int64))
        return {"documents": len(self.lengths), "tokens": sum(self.lengths), "bytes": sum(self.bytes_)}


def open_shard(folder: Path, split: str, *, vocabulary: int | None = None, eos: int | None = None) -> Shard:
    """Open `train` or `validation` of a shards folder, or of a folder with another tool's `.bin` files.

    The latter do not say what their ids mean: `vocabulary` is then the largest id of both splits plus one unless it is
    given, and documents are told apart only when `eos` is.
    """
    folder = Path(folder)
    if (folder / "shards.json").is_file():
        about = json.loads((folder / "shards.json").read_text(encoding="utf-8"))
        tokens = np.memmap(folder / f"{split}.bin", dtype=token_dtype(about["vocabulary"]), mode="r")
        ends, bytes_ = (np.load(folder / f"{split}.{part}.npy") for part in ("ends", "bytes"))
        return Shard(tokens, ends, bytes_, about["eos"], about["vocabulary"], about.get("tokenizer", ""))
    if not any(bin_files(folder, name) for name in SPLITS):
        raise InputError("not a folder of token shards", where=str(folder), why="it has no shards.json",
                         hint="make one with: bloomery shards data=DOCUMENTS tokenizer=TOKENIZER out=FOLDER")
    tokens = open_bins(folder, split)
    largest, ends = scanned(tokens, eos, f"reading {split} ids")
    if vocabulary is None:
        others = (scanned(open_bins(folder, name), None, f"reading {name} ids")[0] for name in SPLITS if name != split)
        vocabulary = max(largest, *others) + 1
    if largest >= vocabulary:
        raise InputError("the token files use ids that the vocabulary does not have", where=str(folder),
                         why=f"the largest id of {split} is {largest}, the vocabulary has {vocabulary}",
                         hint="give the tokenizer they were made with")
    return Shard(tokens, ends, None, eos, vocabulary)


SAMPLED, PIECES = 1 << 20, 64       # bytes at both ends of a large file, and blocks of 4 KiB between, that are hashed


def fingerprint_of(folder: Path) -> dict[str, str]:
    """What each file of a shards folder is, by name: its size and a hash, read in milliseconds however large it is.

    Files to 4 MiB, document ends and byte counts are hashed whole; of a larger `.bin` its size, both ends and 64 evenly
    spaced blocks.  So any change of length, order of documents, tokenizer or vocabulary shows, as does a file that was
    made again; a few ids edited in the middle of a large file do not (`bloomery verify` compares every byte).
    """
    found = {}
    for path in sorted(p for p in Path(folder).iterdir() if p.suffix in (".bin", ".npy") or p.name == "shards.json"):
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with open(path, "rb") as file:
            if path.suffix != ".bin" or size <= 4 * SAMPLED:
                digest.update(file.read())
            else:
                middle = [(size * piece // (PIECES + 1), 4096) for piece in range(1, PIECES + 1)]
                for start, length in ((0, SAMPLED), *middle, (size - SAMPLED, SAMPLED)):
                    file.seek(start)
                    digest.update(file.read(length))
        found[path.name] = f"{size}:{digest.hexdigest()[:16]}"
    return found
