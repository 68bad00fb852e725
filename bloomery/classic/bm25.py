"""BM25: ranking by terms, with a frequency that saturates and a length that is forgiven.

    score(q, d) = sum over t in q of  idf(t) f (k1 + 1) / (f + K),     K = k1 (1 - b + b |d| / mean |d|)

f is how often t stands in d (Robertson and Zaragoza 2009, eq. 3.15).  k1 says how slowly f saturates, b how far a long
document is discounted.  Variants differ in idf (`idf.py`), in the factor k1 + 1, which changes no ranking, and in what
keeps a long document from losing against one without the term.  Kamphuis et al. 2020 set most of them side by side.

A term's share of the score of a document depends on no query, so it is computed when the index is made and a query only
adds up the postings of its terms (Lù 2024, BM25S).  On disk they are flat arrays that are mapped, not read.
"""

import json
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bloomery.classic.idf import IDF
from bloomery.classic.postings import best, count
from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import InputError

ARRAYS = ("starts", "documents", "weights")
MADE = "index.json"                     # written last: where it stands, the rest is whole


def ratio(f: np.ndarray, relative: np.ndarray, k1: float, delta: float) -> np.ndarray:
    """f / (f + K) with K = k1 times the `relative` length 1 - b + b |d| / mean |d|: from 0 to 1."""
    return f / (f + k1 * relative)


def scaled(f: np.ndarray, relative: np.ndarray, k1: float, delta: float) -> np.ndarray:
    """The ratio times k1 + 1, so that a term that stands once in a document of mean length counts 1."""
    return (k1 + 1) * ratio(f, relative, k1, delta)


def lifted(f: np.ndarray, relative: np.ndarray, k1: float, delta: float) -> np.ndarray:
    """BM25L: delta is added to the frequency that is corrected for length. Lv and Zhai 2011a, eq. 5."""
    c = f / relative + delta
    return (k1 + 1) * c / (k1 + c)


def bounded(f: np.ndarray, relative: np.ndarray, k1: float, delta: float) -> np.ndarray:
    """BM25+: a document that holds the term gets delta at least, however long it is. Lv and Zhai 2011b, eq. 9."""
    return scaled(f, relative, k1, delta) + delta


class Variant(NamedTuple):
    idf: str
    frequency: Callable
    delta: float = 0.0


VARIANTS = {"lucene": Variant("lucene", ratio), "robertson": Variant("robertson", ratio),
            "atire": Variant("plain", scaled), "bm25l": Variant("bm25l", lifted, 0.5),
            "bm25+": Variant("bm25+", bounded, 1.0), "okapi": Variant("okapi", scaled),
            "textbook": Variant("lucene", scaled), "odds": Variant("odds", scaled)}


@dataclass(frozen=True)
class BM25:
    """An index of documents: shares of the score, term by term. Made by `build`, or `open_index` from a folder."""

    terms: Mapping[Hashable, int]
    starts: np.ndarray          # (V+1,) int64
    documents: np.ndarray       # (P,) int32
    weights: np.ndarray         # (P,) float32, what the term adds to the document's score
    size: int                   # N documents

    def scores(self, query: Iterable[Hashable]) -> np.ndarray:
        """The score of every document, (N,) float32. A term counts as often as the query has it, an unknown one 0."""
        found = np.zeros(self.size, np.float32)
        for term in query:
            number = self.terms.get(term)
            if number is not None:
                own = slice(self.starts[number], self.starts[number + 1])
                np.add.at(found, self.documents[own], self.weights[own])
        return found

    def search(self, query: Iterable[Hashable], k: int = 10) -> list[tuple[int, float]]:
        """The k best documents of those with a score, with their scores, best first; the lower number wins a tie."""
        scores = self.scores(query)
        found = np.flatnonzero(scores)
        found = found[best(scores[found], k)]
        return list(zip(found.tolist(), scores[found].tolist()))

    def save(self, folder: Path) -> None:
        """Write the index; one that is open somewhere else stays readable there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MADE).unlink(missing_ok=True)
        for name in ARRAYS:
            write_array(folder / f"{name}.npy", getattr(self, name))
        write_atomic(folder / "terms.json", json.dumps(list(self.terms), ensure_ascii=False))
        write_atomic(folder / MADE, json.dumps({"documents": self.size, "terms": len(self.terms),
                                                "postings": len(self.documents)}))


def build(documents: Iterable[Sequence[Hashable]], *, variant: str = "lucene", k1: float = 1.5, b: float = 0.75,
          delta: float | None = None) -> BM25:
    """Index documents, each a sequence of terms. `delta` is BM25L's and BM25+'s, 0.5 and 1 in their papers.

    Raises `ValueError` for a variant or a value that is none, and where there are no documents.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant}")
    if k1 < 0 or not 0 <= b <= 1:
        raise ValueError(f"k1 must not be negative and b must lie between 0 and 1, got {k1} and {b}")
    chosen, postings = VARIANTS[variant], count(documents)
    size = len(postings.lengths)
    mean = postings.lengths.mean() or 1                                     # 0: no document has a term
    relative = 1 - b + b * postings.lengths / mean                          # (N,)
    frequency = chosen.frequency(postings.counts, relative[postings.documents], k1,
                                 chosen.delta if delta is None else delta)
    idf = IDF[chosen.idf](postings.frequencies, size) if postings.terms else np.zeros(0)
    weights = np.repeat(idf, postings.frequencies) * frequency
    return BM25(postings.numbers, postings.starts, postings.documents, weights.astype(np.float32), size)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write beside and put in place: who has mapped what stood there keeps it."""
    with open(path.with_suffix(".part"), "wb") as file:
        np.save(file, array)
    os.replace(path.with_suffix(".part"), path)


def open_index(folder: Path) -> BM25:
    """Map an index that was saved: its postings are read from disk when a query asks for them.

    Raises `InputError` where there is none, or its files do not belong together.
    """
    folder = Path(folder)
    if not (folder / MADE).is_file():
        raise InputError("no search index", where=str(folder), why=f"there is no {MADE}, which is written last",
                         hint="make it again")
    about = json.loads((folder / MADE).read_text(encoding="utf-8"))
    starts, documents, weights = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS)
    terms = json.loads((folder / "terms.json").read_text(encoding="utf-8"))
    if not (len(documents) == len(weights) == about["postings"] == starts[-1] and
            len(starts) - 1 == len(terms) == about["terms"]):
        raise InputError("a damaged search index", where=str(folder), why="its files do not belong together",
                         hint="delete the folder and make it again")
    return BM25({term: number for number, term in enumerate(terms)}, starts, documents, weights, about["documents"])
