"""One look at a batch of texts, from which all heuristic rules are decided: counts, and hashes of what may repeat.

A text has words (at white space, or as English is tokenized: `words.py`), lines as `str.splitlines` has them, rows as
`split("\\n")` has them, and parts, which blank lines separate.  `scan` returns the counts of every document in one
table and the hashes and lengths of its words, rows and parts one after another, which repetition rules count
(`repetition.py`) and others may use again.

With numba the scan is compiled (`scan_kernel.py`, some fifty times as fast); what stands here defines it and serves
without.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, chain
from statistics import median
from threading import local
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from bloomery.core.kernels import kernel
from bloomery.curate.characters import MARKS, SYMBOL, TERMINAL, classes
from bloomery.curate.words import english

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")           # Rae et al. 2021, A1.1
BULLETS = "•-*"                                                                 # of which sources take two or three
SHORT = 30                                                                      # characters of FineWeb's short lines
HISTOGRAM = 64                                                                  # word lengths told apart for a median
WHOLE, PRIME, SEED = (1 << 64) - 1, 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93

Count = IntEnum("Count", [
    "CHARACTERS", "VISIBLE", "DIGITS", "HASHES", "ELLIPSES", "NEWLINES",        # of the text; visible: no white space
    "WORDS", "WORD_CHARACTERS", "LONGEST_WORD", "MEDIAN_WORD",
    "SOLID_WORDS", "SOLID_CHARACTERS",                                          # words that are not only punctuation
    "LETTER_WORDS", "MARKED_WORDS", "STOP_WORDS", "STOP_OCCURRENCES",           # with a letter; with # or …; distinct
    "LINES", "FILLED_LINES", "ELLIPSIS_LINES", "DOT_LINES", "DASH_LINES", "STAR_LINES",
    "FILLED_ROWS", "ENDED_ROWS", "SHORT_ROWS"], start=0)                        # ended: with terminal punctuation


class Pieces(NamedTuple):
    """Pieces of N documents, one after another: those of document d are edges[d] to edges[d + 1]."""

    hashes: np.ndarray                                                                  # (P,) uint64
    lengths: np.ndarray                                                                 # (P,) int32, characters
    filled: np.ndarray                                                                  # (P,) bool: not blank
    edges: np.ndarray                                                                   # (N + 1,) int64

    def of(self, document: int) -> slice:
        return slice(self.edges[document], self.edges[document + 1])


@dataclass(frozen=True)
class Scan:
    """What was counted in N documents, and their words, rows and parts (`Pieces`)."""

    table: np.ndarray                                                                   # (N, len(Count)) float64
    words: Pieces
    rows: Pieces
    parts: Pieces

    def __getitem__(self, count: Count) -> np.ndarray:
        return self.table[:, count]

    def __len__(self) -> int:
        return len(self.table)


def buffers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of an Arrow large_string array and where each text begins and the last ends, without a copy."""
    if texts.type != pa.large_string():
        raise ValueError(f"texts are large_string, got {texts.type}")
    if texts.null_count:
        raise ValueError(f"{texts.null_count} texts are null")
    _, offsets, data = texts.buffers()
    edges = np.frombuffer(offsets, np.int64)[texts.offset:texts.offset + len(texts) + 1] if len(texts) else \
        np.zeros(1, np.int64)
    return np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8), edges


def scan(texts: pa.Array, *, split: str = "white", stop_words: Iterable[str] = STOP_WORDS, short: int = SHORT) -> Scan:
    """Scan a large_string array; `split` is "white" or "english". `ValueError` for another, or over 62 stop-words."""
    if split not in SPLITS or len(stops := tuple(stop_words)) > 62:
        raise ValueError(f"split is one of {', '.join(SPLITS)} and there are at most 62 stop-words")
    if not (loops := kernel("curate/scan")):
        return plain_scan(texts.to_pylist(), split, stops, short)
    data, offsets = buffers(texts)
    size, documents = int(offsets[-1] - offsets[0]), len(texts)
    table = np.zeros((documents, len(Count)))
    shortest = 1 if split == "english" else 2               # bytes a word takes, with the space behind it
    words, rows, parts = (_room(size // least + documents, documents) for least in (shortest, 1, 1))
    hashes = np.array([digest(word.encode()) for word in stops], np.uint64)
    loops.scan(data, offsets, classes(), split == "english", hashes, short, table, words, rows, parts)
    return Scan(table, *map(_filled, (words, rows, parts)))


class Last(local):
    """The last scan of each thread, with the texts it is of, which stay where they are as long as it does."""

    asked: tuple | None = None
    texts: pa.Array | None = None
    found: Scan | None = None


LAST = Last()


def scanned(texts: pa.Array, *, split: str = "white", stop_words: Iterable[str] = STOP_WORDS,
            short: int = SHORT) -> Scan:
    """`scan`, remembered for the steps that look at the same batch one after another."""
    data, offsets = buffers(texts)
    asked = data.ctypes.data, offsets.ctypes.data, len(texts), split, tuple(stop_words), short
    if LAST.asked != asked or LAST.found is None:
        LAST.asked, LAST.texts, LAST.found = asked, texts, scan(texts, split=split, stop_words=stop_words, short=short)
    return LAST.found


def _room(pieces: int, documents: int) -> Pieces:
    """Place for so many pieces: memory that is never written costs nothing."""
    return Pieces(np.empty(pieces, np.uint64), np.empty(pieces, np.int32), np.empty(pieces, np.bool_),
                  np.zeros(documents + 1, np.int64))


def _filled(pieces: Pieces) -> Pieces:
    used = pieces.edges[-1]
    return Pieces(pieces.hashes[:used], pieces.lengths[:used], pieces.filled[:used], pieces.edges)


# --- the same in plain Python: what a scan is ----------------------------------------------------------------------

def digest(text: bytes) -> int:
    """64 bits of a piece, multiplied in eight bytes at a time; unequal ones share it with odds of 2^-64 a pair."""
    state = (len(text) ^ SEED) * PRIME & WHOLE
    for at in range(0, len(text) // 8 * 8 + 1, 8):
        state = (state ^ int.from_bytes(text[at:at + 8], "little")) * PRIME & WHOLE
        state ^= state >> 32
    return state


def plain_scan(texts: list[str], split: str = "white", stops: tuple[str, ...] = STOP_WORDS, short: int = SHORT) -> Scan:
    """What `scan` returns, without a compiler."""
    words = [SPLITS[split](text) for text in texts]
    rows = [[row for row in text.split("\n") if row] for text in texts]
    table = [counts(text, own, parts, stops, short) for text, own, parts in zip(texts, words, rows)]
    return Scan(np.array(table, np.float64).reshape(len(texts), len(Count)), pieces(words), pieces(rows),
                pieces(list(map(paragraphs, texts))))


def pieces(found: list[list[str]]) -> Pieces:
    """Strings of each document as their hashes."""
    flat, edges = list(chain.from_iterable(found)), list(accumulate(map(len, found), initial=0))
    return Pieces(np.array([digest(piece.encode()) for piece in flat], np.uint64),
                  np.array(list(map(len, flat)), np.int32), np.array([not piece.isspace() for piece in flat], np.bool_),
                  np.array(edges, np.int64))


def paragraphs(text: str) -> list[str]:
    """What stands between blank lines; white space around the text is no part of it."""
    parts = [part.removeprefix("\n") for part in text.strip().split("\n\n")]
    return [part for part in parts if part]


def counts(text: str, words: list[str], rows: list[str], stops: tuple[str, ...], short: int) -> list[float]:
    """One row of the table."""
    kinds = classes()
    sizes = list(map(len, words))
    solid = [word for word in words if not all(kinds[ord(character)] & SYMBOL for character in word)]
    met = [word for word in words if word in stops]
    lines = [line.strip() for line in text.splitlines()]
    rows = [row for row in rows if not row.isspace()]
    return [len(text), sum(map(len, text.split())), sum(map(text.count, "0123456789")), text.count("#"),
            text.count("...") + text.count("…"), text.count("\n"),
            len(words), sum(sizes), max(sizes, default=0),
            median(min(size, HISTOGRAM - 1) for size in sizes) if sizes else 0,
            len(solid), sum(map(len, solid)), sum(any(map(str.isalpha, word)) for word in words),
            sum(any(mark in word for mark in MARKS) for word in words), len(set(met)), len(met),
            len(lines), sum(map(bool, lines)), sum(line.endswith(("...", "…")) for line in lines),
            *(sum(line.startswith(bullet) for line in lines) for bullet in BULLETS),
            len(rows), sum(bool(kinds[ord(row[-1])] & TERMINAL) for row in rows),
            sum(len(row) <= short for row in rows)]


def split_english(text: str) -> list[str]:
    return [word for chunk in text.split() for word in english(chunk, classes())]


SPLITS: dict[str, Callable[[str], list[str]]] = {"white": str.split, "english": split_english}
