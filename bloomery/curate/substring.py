"""Repeated passages: every run of at least n symbols that stands twice anywhere, whatever is around it.

    sorted      a suffix array by divsufsort (Mori), equal windows stand side by side; 6 to 10 bytes of memory a byte
    windows     a rolling 64-bit hash of each window, by ranges of the hash, as many passes as memory asks for

Both mark the same windows: hashes that are equal are compared symbol by symbol.  A window lies within one document, so
nothing is found across two and no separator is needed.  Lee et al. 2022, section 4.1, who cut every copy (`keep =
"none"`); by default the first copy stays.  Symbols are bytes, of which 200 are about Lee's 50 tokens, or tokens.

A cut begins and ends at a character and, unless `snap` says otherwise, at the edge of a word.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.kernels import needed
from bloomery.curate.edits import Edits
from bloomery.curate.scan import buffers
from bloomery.curate.signatures import folding
from bloomery.curate.step import Findings, Gathered
from bloomery.text.tokenizer import Tokenizer, load_tokenizer

SUFFIX_BYTES, WINDOW_BYTES = 10, 24             # memory a symbol: text, suffix, two marks; or hash, place and a sort
SORTED_FAST = 1 << 28           # bytes of hashes sorted at a time: all 30 MB at once took 7.1 s, in parts 5.8 s


class Substring(Settings):
    """How long a repeated passage is, and what is cut of it."""

    n: int = Field(200, ge=2, description="symbols of the shortest passage: bytes, or tokens of the tokenizer")
    tokenizer: Input | None = Field(None, description="folder with a tokenizer; then n counts tokens (50 in the paper)")
    keep: Literal["first", "none"] = Field("first", description="whether the first copy stays")
    snap: Literal["word", "character"] = Field("word", description="where a cut may begin and end")
    method: Literal["auto", "sorted", "windows"] = Field("auto", description="auto: sorted where memory allows")
    min_left: int = Field(20, ge=0, description="characters a document must have left after a cut")


def by_suffixes(text: np.ndarray, starts: np.ndarray, n: int, *, keep_first: bool = False,
                memory: int = 0) -> np.ndarray:
    """(N,) where a repeated window of n symbols begins; text (N,) of documents that begin at `starts` (R+1,)."""
    whole, repeated = np.zeros(len(text), bool), np.zeros(len(text), bool)
    loops = needed("curate/substring")
    loops.mark_whole(starts, n, whole)
    if whole.any():
        loops.mark_sorted(text, suffixes(text), n, whole, keep_first, repeated)
    return repeated


def suffixes(text: np.ndarray) -> np.ndarray:
    """(N,) the places of a text in the order of what begins there; int64 where int32 is too small."""
    try:
        from pydivsufsort import divsufsort
    except ModuleNotFoundError:
        raise InputError("a suffix array needs pydivsufsort", hint="pip install pydivsufsort, or substring.method="
                         "windows, which finds the same") from None
    return divsufsort(np.require(text, requirements=("C", "W")))


def by_windows(text: np.ndarray, starts: np.ndarray, n: int, *, keep_first: bool = False,
               memory: int = 1 << 32) -> np.ndarray:
    """The same, in as many passes over the text as it takes to stay below `memory` bytes."""
    whole, repeated = np.zeros(len(text), bool), np.zeros(len(text), bool)
    loops = needed("curate/substring")
    loops.mark_whole(starts, n, whole)
    bits = int(np.ceil(np.log2(max(len(text) * WINDOW_BYTES / min(memory, SORTED_FAST), 1))))
    nothing = np.empty(0, np.uint64), np.empty(0, np.int64)
    for shard in range(1 << bits):
        count = loops.hashed(text, n, whole, shard, bits, *nothing)
        hashes, places = np.empty(count, np.uint64), np.empty(count, np.int64)
        if count:
            loops.hashed(text, n, whole, shard, bits, hashes, places)
            order = np.argsort(hashes, kind="stable")       # equal hashes stay in the order of their places
            loops.mark_equal(text, hashes[order], places[order], n, keep_first, repeated)
    return repeated


def covered(repeated: np.ndarray, starts: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranges that marked windows cover: the document, the first symbol in it and the one behind the last, (M,) each."""
    loops, nothing = needed("curate/substring"), np.empty(0, np.int64)
    count = loops.ranges(repeated, starts, n, nothing, nothing, nothing)
    found = tuple(np.empty(count, np.int64) for _ in range(3))
    if count:
        loops.ranges(repeated, starts, n, *found)
    return found


def duplicate_ranges(documents: list[list[int]], n: int, *, keep_first: bool = False,
                     method: str = "sorted") -> list[list[tuple[int, int]]]:
    """Of each document the half-open ranges that windows of n symbols cover which stand twice or more anywhere."""
    if n < 1:
        raise ValueError(f"a window has at least one symbol, got {n}")
    starts = np.cumsum([0, *map(len, documents)])
    text = np.array([symbol for document in documents for symbol in document], np.int64)
    _, small = np.unique(text, return_inverse=True)         # ranks of symbols, whatever they are
    marked = METHODS[method](small.astype(np.uint32), starts, n, keep_first=keep_first)
    out: list[list[tuple[int, int]]] = [[] for _ in documents]
    for row, begin, end in zip(*(each.tolist() for each in covered(marked, starts, n))):
        out[row].append((begin, end))
    return out


def spans(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a text and behind which byte each ends."""
    read = tokenizer.backend.encode(text, add_special_tokens=False)
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    ends = np.cumsum(1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000))
    stops = np.array([stop for _, stop in read.offsets], np.int64)
    return np.array(read.ids, np.uint32), np.concatenate(([0], ends))[stops]


class Passages:
    """The step: texts are gathered as symbols, and what is repeated in them is cut."""

    def __init__(self, options: Substring | None = None):
        self.options = options or Substring()
        self.tokenizer = load_tokenizer(Path(self.options.tokenizer)) if self.options.tokenizer else None

    def gather(self, batch: pa.RecordBatch) -> dict[str, np.ndarray]:
        data, offsets = buffers(batch.column("text"))
        found = {"bytes": data[offsets[0]:offsets[-1]], "size": np.diff(offsets)}
        if self.tokenizer is None:
            return found
        read = [spans(self.tokenizer, text) for text in batch.column("text").to_pylist()]
        return found | {"token": np.concatenate([ids for ids, _ in read]),
                        "ends": np.concatenate([ends for _, ends in read]),
                        "tokens": np.array([len(ids) for ids, _ in read], np.int64)}

    def decide(self, gathered: Gathered) -> Findings:
        symbols, sizes = ("bytes", "size") if self.tokenizer is None else ("token", "tokens")
        starts = np.concatenate(([0], np.cumsum(gathered[sizes])))
        method = self.options.method
        if method == "auto":
            fits = find_spec("pydivsufsort") and len(gathered[symbols]) * SUFFIX_BYTES <= gathered.memory
            method = "sorted" if fits else "windows"
        marked = METHODS[method](gathered[symbols], starts, self.options.n, keep_first=self.options.keep == "first",
                                 memory=gathered.memory)
        return self.findings(gathered, *covered(marked, starts, self.options.n))

    def findings(self, gathered: Gathered, row: np.ndarray, begin: np.ndarray, end: np.ndarray) -> Findings:
        """Ranges of symbols as cuts of bytes, and who has too little left."""
        first = np.concatenate(([0], np.cumsum(gathered["size"])))
        if self.tokenizer is not None:
            opens = np.concatenate(([0], np.cumsum(gathered["tokens"])))[row]
            ends = gathered["ends"]
            begin, end = np.where(begin > 0, ends[np.maximum(opens + begin - 1, 0)], 0), ends[opens + end - 1]
        loops = needed("curate/substring")
        begin, end = loops.snapped(gathered["bytes"], first[row] + begin, first[row] + end, first[row],
                                   first[row + 1], folding(), self.options.snap == "word")
        cut = begin < end
        row, begin, end = row[cut], begin[cut], end[cut]
        lost = np.bincount(row, loops.characters(gathered["bytes"], begin, end), gathered.documents)
        whole = loops.characters(gathered["bytes"], first[:-1], first[1:])
        short = (lost > 0) & (whole - lost < self.options.min_left)
        account = {"passages": len(row), "bytes": int((end - begin).sum()), "documents": int((lost > 0).sum())}
        return Findings(["repeated_passages" if one else None for one in short],
                        {"repeated_share": lost / np.maximum(whole, 1)},
                        Edits.cuts(row, begin - first[row], end - first[row]), account=account)


METHODS: dict[str, Callable[..., np.ndarray]] = {"sorted": by_suffixes, "windows": by_windows}
