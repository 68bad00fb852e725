"""Documents as counts of terms, term by term: what TF-IDF and BM25 are computed from.

The postings of a term are the documents that hold it, in order, and how often each does.  All of them lie end to end in
flat arrays, so a formula of counts is one line of numpy.  A term is anything that can be hashed and sorted: a word, a
token's id.
"""

from array import array
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Postings:
    """Postings of term v are the entries from starts[v] to starts[v + 1]."""

    terms: list                 # (V,) sorted
    starts: np.ndarray          # (V+1,) int64
    documents: np.ndarray       # (P,) int32, ascending within a term
    counts: np.ndarray          # (P,) int32
    lengths: np.ndarray         # (N,) int64, terms of each document

    @cached_property
    def numbers(self) -> dict[Hashable, int]:
        """The number of each term."""
        return {term: number for number, term in enumerate(self.terms)}

    @property
    def frequencies(self) -> np.ndarray:
        """How many documents hold each term, (V,)."""
        return np.diff(self.starts)


def count(documents: Iterable[Sequence[Hashable]]) -> Postings:
    """Count the terms of documents, which are read once; about 10 million terms a second on one core.

    Raises `ValueError` where there is no document.
    """
    numbers: defaultdict[Hashable, int] = defaultdict()
    numbers.default_factory = numbers.__len__                   # a new term gets the next number
    seen, lengths = array("i"), array("q")
    for document in documents:
        seen.extend(map(numbers.__getitem__, document))
        lengths.append(len(document))
    if not lengths:
        raise ValueError("nothing to count: there are no documents")
    lengths, size = np.array(lengths), len(lengths)
    terms = sorted(numbers)
    place = np.empty(len(terms), np.int64)                      # of each number among the sorted terms
    place[np.fromiter(map(numbers.__getitem__, terms), np.int64, len(terms))] = np.arange(len(terms))
    entries = place[np.frombuffer(seen, np.intc)] * size + np.repeat(np.arange(size), lengths)
    entries, counts = np.unique(entries, return_counts=True)
    term, document = np.divmod(entries, size)
    starts = np.concatenate([[0], np.bincount(term, minlength=len(terms)).cumsum()])
    return Postings(terms, starts, document.astype(np.int32), counts.astype(np.int32), lengths)


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """The places of the k largest of (N,) scores, best first; of equal ones the lowest place wins."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if k < len(scores):
        least = np.partition(scores, -k)[-k]
        above = np.flatnonzero(scores > least)
        chosen = np.concatenate([above, np.flatnonzero(scores == least)[:k - len(above)]])
    else:
        chosen = np.arange(len(scores))
    return chosen[np.lexsort((chosen, -scores[chosen]))]
