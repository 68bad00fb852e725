"""Token files: a corpus as one flat, memory-mapped array of ids, with document boundaries beside it.

    train.bin         uint16 or uint32, little-endian: every document's tokens followed by one end-of-text id
    train.ends.npy    int64 (documents,): where each document ends in train.bin, its end-of-text included
    train.bytes.npy   int64 (documents,): UTF-8 bytes of each document, for bits per byte
    shards.json       dtype, vocabulary, eos and counts; validation.* likewise
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bloomery.core.errors import InputError

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Shard:
    """One split, opened without reading it."""

    tokens: np.ndarray      # (tokens,) memory-mapped
    ends: np.ndarray        # (documents,) int64
    bytes_: np.ndarray      # (documents,) int64
    eos: int
    vocabulary: int
    tokenizer: str = ""     # SHA-256 of the tokenizer.json it was made with, "" when another tool made it

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


def open_shard(folder: Path, split: str) -> Shard:
    """Open `train` or `validation` of a shards folder."""
    folder = Path(folder)
    if not (folder / "shards.json").is_file():
        raise InputError("not a folder of token shards", where=str(folder), why="it has no shards.json",
                         hint="make one with: bloomery shards data=DOCUMENTS tokenizer=TOKENIZER out=FOLDER")
    about = json.loads((folder / "shards.json").read_text(encoding="utf-8"))
    tokens = np.memmap(folder / f"{split}.bin", dtype=token_dtype(about["vocabulary"]), mode="r")
    ends, bytes_ = (np.load(folder / f"{split}.{part}.npy") for part in ("ends", "bytes"))
    return Shard(tokens, ends, bytes_, about["eos"], about["vocabulary"], about.get("tokenizer", ""))
