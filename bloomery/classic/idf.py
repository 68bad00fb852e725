"""How much it says that a document holds a term: the inverse document frequency in the forms people use.

Of N documents, n hold the term.  Sparck Jones 1972 took ln N/n; Robertson and Sparck Jones 1976 the odds
(N - n + 1/2) / (n + 1/2), whose logarithm is negative for a term that more than half of the documents hold.  Lucene
adds 1 *inside* the logarithm and so stays positive; added outside, as is sometimes printed, a term of every document
still weighs less than nothing.  Logarithms are natural unless `log` is another: N/n = 10^4 weighs 9.21, with log10 4.
"""

from collections.abc import Callable

import numpy as np

Log = Callable[[np.ndarray], np.ndarray]


def plain(n: np.ndarray, total: int, log: Log = np.log) -> np.ndarray:
    """ln N/n: 0 for a term of every document. ATIRE's too."""
    return log(total / n)


def plus_one(n: np.ndarray, total: int, log: Log = np.log) -> np.ndarray:
    """ln N/n + 1, so that no term weighs nothing: scikit-learn with `smooth_idf=False`."""
    return log(total / n) + 1


def smooth(n: np.ndarray, total: int, log: Log = np.log) -> np.ndarray:
    """As if one more document held every term: scikit-learn's default."""
    return log((1 + total) / (1 + n)) + 1


def odds(n: np.ndarray, total: int, log: Log = np.log) -> np.ndarray:
    """ln (N - n + 1/2)/(n + 1/2): Robertson and Sparck Jones 1976. Negative where n > N/2."""
    return log((total - n + 0.5) / (n + 0.5))


def robertson(n: np.ndarray, total: int, log: Log = np.log) -> np.ndarray:
    """The odds, or 0 where they are negative."""
    return np.maximum(odds(n, total, log), 0)


def okapi(n: np.ndarray, total: int, log: Log = np.log) -> np.ndarray:
    """The odds, or a quarter of their mean over the vocabulary where they are negative, as rank_bm25 has it."""
    found = odds(n, total, log)
    return np.where(found < 0, found.mean() / 4, found)


def lucene(n: np.ndarray, total: int, log: Log = np.log) -> np.ndarray:
    """ln(1 + (N - n + 1/2)/(n + 1/2)): never negative."""
    return log(1 + (total - n + 0.5) / (n + 0.5))


def bm25l(n: np.ndarray, total: int, log: Log = np.log) -> np.ndarray:
    """ln (N + 1)/(n + 1/2): Lv and Zhai 2011a."""
    return log((total + 1) / (n + 0.5))


def bm25_plus(n: np.ndarray, total: int, log: Log = np.log) -> np.ndarray:
    """ln (N + 1)/n: Lv and Zhai 2011b."""
    return log((total + 1) / n)


def one(n: np.ndarray, total: int, log: Log = np.log) -> np.ndarray:
    """Every term weighs the same."""
    return np.ones_like(n, dtype=float)


IDF = {"plain": plain, "plus_one": plus_one, "smooth": smooth, "odds": odds, "robertson": robertson, "okapi": okapi,
       "lucene": lucene, "bm25l": bm25l, "bm25+": bm25_plus, "none": one}
