"""Pointwise mutual information: which words meet more often than chance would have it.

    PMI(x, y) = log p(x, y) / (p(x) p(y))           Church & Hanks (1990); at most min(-log p(x), -log p(y))

What p is must be said.  A pair is x before y at a distance below `window` (2: neighbours), inside one sentence, or
either way round where pairs have no direction.  `marginals` says what p(x) and p(y) are:

    pairs   shares of pairs with x on the left, with y on the right: PMI averages to mutual information, never below 0
    words   shares of words
    nltk    shares of words, and p(x, y) too is a count over words, not over pairs

Two words that never meet have PMI -inf and are left out.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import log
from typing import Literal

import numpy as np

Marginals = Literal["pairs", "words", "nltk"]


@dataclass(frozen=True)
class Pairs:
    """Counted pairs: words x and y by number, how often they met, and how often each word was there."""

    words: list[Hashable]
    x: np.ndarray               # (P,) number of the word on the left
    y: np.ndarray               # (P,) and on the right
    counts: np.ndarray          # (P,)
    left: np.ndarray            # (V,) pairs with a word on the left, counted before any filter
    right: np.ndarray           # (V,) and on the right
    single: np.ndarray          # (V,) occurrences of a word
    window: int

    def __len__(self) -> int:
        return len(self.counts)

    def named(self, values: np.ndarray) -> dict[tuple[Hashable, Hashable], float]:
        """A value for each pair of words."""
        return {(self.words[x], self.words[y]): value for x, y, value in
                zip(self.x.tolist(), self.y.tolist(), values.tolist())}

    def matrix(self, vocabulary: Sequence[Hashable] | None = None) -> np.ndarray:
        """(V, V) counts, rows on the left; in the order of `vocabulary`, or of first appearance."""
        vocabulary = self.words if vocabulary is None else vocabulary
        place = {word: number for number, word in enumerate(vocabulary)}
        where = np.array([place.get(word, -1) for word in self.words], np.int64)
        table, inside = np.zeros((len(vocabulary),) * 2, np.int64), (where[self.x] >= 0) & (where[self.y] >= 0)
        table[where[self.x][inside], where[self.y][inside]] = self.counts[inside]
        return table

    def only(self, keep: np.ndarray) -> "Pairs":
        """Some of the pairs; marginals stay those of the whole text."""
        return replace(self, x=self.x[keep], y=self.y[keep], counts=self.counts[keep])

    def frequent(self, min_count: int) -> "Pairs":
        return self.only(self.counts >= min_count)

    def besides(self, stop_words: Collection[Hashable]) -> "Pairs":
        """Without the pairs that hold a stop word."""
        stops = np.array([word in stop_words for word in self.words], bool)
        return self.only(~(stops[self.x] | stops[self.y]))


def numbered(sentences: Iterable[Sequence[Hashable]]) -> tuple[list[Hashable], np.ndarray, np.ndarray]:
    """The words, all sentences as their numbers end to end, and which sentence each is in."""
    numbers: defaultdict[Hashable, int] = defaultdict(count().__next__)
    ids = [np.fromiter(map(numbers.__getitem__, sentence), np.int64, len(sentence)) for sentence in sentences]
    whose = np.repeat(np.arange(len(ids)), [len(sentence) for sentence in ids])
    return list(numbers), np.concatenate(ids) if ids else np.zeros(0, np.int64), whose


def count_pairs(sentences: Iterable[Sequence[Hashable]], *, window: int = 2, directed: bool = True) -> Pairs:
    """Count the pairs of every sentence. Without direction each meeting counts both ways round."""
    if window < 2:
        raise ValueError(f"window must be at least 2, got {window}")
    words, text, whose = numbered(sentences)
    size = max(len(words), 1)
    keys, left, right = [np.zeros(0, np.int64)], np.zeros(size, np.int64), np.zeros(size, np.int64)
    for distance in range(1, window):
        together = whose[distance:] == whose[:-distance]
        x, y = text[:-distance][together], text[distance:][together]
        for a, b in ((x, y),) if directed else ((x, y), (y, x)):
            keys.append(a * size + b)
            left, right = left + np.bincount(a, minlength=size), right + np.bincount(b, minlength=size)
    found, first, counts = np.unique(np.concatenate(keys), return_index=True, return_counts=True)
    order = np.argsort(first, kind="stable")                # as they come in the text
    return Pairs(words, found[order] // size, found[order] % size, counts[order], left, right,
                 np.bincount(text, minlength=size), window)


def probabilities(pairs: Pairs, marginals: Marginals, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(P,) p(x, y), p(x) and p(y). `alpha` below 1 makes rare y likelier: c(y)^alpha / sum (Levy et al. 2015, 3.1)."""
    left, right = (pairs.left, pairs.right) if marginals == "pairs" else (pairs.single, pairs.single)
    raised = np.where(right > 0, right.astype(float) ** alpha, 0)
    whole = pairs.single.sum() * (pairs.window - 1) if marginals == "nltk" else pairs.left.sum()
    return pairs.counts / whole, left[pairs.x] / left.sum(), raised[pairs.y] / raised.sum()


def pmi(pairs: Pairs, *, marginals: Marginals = "pairs", alpha: float = 1.0, base: float = 2) -> np.ndarray:
    """(P,) log p(x, y) / (p(x) p(y)), in bits unless another base is given."""
    p, px, py = probabilities(pairs, marginals, alpha)
    return np.log(p / (px * py)) / log(base)


def ppmi(pairs: Pairs, *, marginals: Marginals = "pairs", alpha: float = 1.0, base: float = 2) -> np.ndarray:
    """(P,) PMI, and 0 for what meets less often than by chance: counts are too few to tell how much less."""
    return np.maximum(pmi(pairs, marginals=marginals, alpha=alpha, base=base), 0)


def npmi(pairs: Pairs, *, marginals: Marginals = "pairs", alpha: float = 1.0) -> np.ndarray:
    """(P,) PMI / -log p(x, y), in [-1, 1]; 1 for words that only come together (Bouma 2009)."""
    p, px, py = probabilities(pairs, marginals, alpha)
    information = -np.log(p)
    return np.where(information > 0, np.log(p / (px * py)) / np.where(information > 0, information, 1), 1.0)


def log_likelihood(pairs: Pairs) -> np.ndarray:
    """(P,) G^2 = 2 sum O ln(O / E) over the four cells of a pair, steadier than PMI for rare ones (Dunning 1993)."""
    whole, both = pairs.left.sum(), pairs.counts.astype(float)
    row, column = pairs.left[pairs.x].astype(float), pairs.right[pairs.y].astype(float)
    cells = ((both, row, column), (row - both, row, whole - column), (column - both, whole - row, column),
             (whole - row - column + both, whole - row, whole - column))
    total = np.zeros(len(both))
    for seen, a, b in cells:
        total += np.where(seen > 0, seen * np.log(np.maximum(seen, 1) * whole / np.maximum(a * b, 1)), 0)
    return 2 * total


def t_score(pairs: Pairs) -> np.ndarray:
    """(P,) (count - expected) / sqrt(count): Church et al. 1991; Manning & Schuetze 1999, 5.3.1."""
    whole = pairs.left.sum()
    return (pairs.counts - pairs.left[pairs.x] * (pairs.right[pairs.y] / whole)) / np.sqrt(pairs.counts)


def pmi3(sentences: Iterable[Sequence[Hashable]], *, min_count: int = 1, stop_words: Collection[Hashable] = (),
         base: float = 2) -> list["Collocation"]:
    """Three neighbours: log p(x, y, z) / (p(x) p(y) p(z)), all shares of words, as NLTK has it; the highest first."""
    words, text, whose = numbered(sentences)
    together = whose[2:] == whose[:-2]
    x, y, z = (text[i:len(text) - 2 + i][together] for i in range(3))
    _, pair = np.unique(x * len(words) + y, return_inverse=True)
    _, first, counts = np.unique(pair * len(words) + z, return_index=True, return_counts=True)
    single = np.bincount(text, minlength=len(words)) / max(len(text), 1)
    x, y, z = x[first], y[first], z[first]
    scores = np.log(counts / len(text) / (single[x] * single[y] * single[z])) / log(base) if len(first) else counts
    found = (Collocation(tuple(words[i] for i in triple), n, score) for *triple, n, score in
             zip(x.tolist(), y.tolist(), z.tolist(), counts.tolist(), scores.tolist()))
    return sorted((c for c in found if c.count >= min_count and not any(word in stop_words for word in c.words)),
                  key=lambda c: (-c.score, -c.count, c.words))


@dataclass(frozen=True)
class Collocation:
    """Words that come together, how often, and how much more than by chance."""

    words: tuple[Hashable, ...]
    count: int
    score: float


def collocations(sentences: Iterable[Sequence[Hashable]], *, measure: str = "npmi", window: int = 2,
                 directed: bool = True, min_count: int = 3, stop_words: Collection[Hashable] = ()) -> list[Collocation]:
    """The pairs of a text that a measure of `MEASURES` puts first; equal ones by count, then by their words."""
    pairs = count_pairs(sentences, window=window, directed=directed).frequent(min_count).besides(stop_words)
    scores = pairs.named(MEASURES[measure](pairs))
    counts = pairs.named(pairs.counts)
    return sorted((Collocation(words, counts[words], score) for words, score in scores.items()),
                  key=lambda c: (-c.score, -c.count, c.words))


MEASURES: dict[str, Callable[[Pairs], np.ndarray]] = {
    "pmi": pmi, "ppmi": ppmi, "npmi": npmi, "log_likelihood": log_likelihood, "t_score": t_score}
