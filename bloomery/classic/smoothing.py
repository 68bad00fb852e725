"""Smoothing: how much probability goes to what was counted, and how much to shorter contexts.

Every method here is two arrays an order, and one recursion (`ngram.py`) that does the rest:

    p(w|h) = own(h w) + share(h) p(w|h')            h' is h without its oldest symbol; order 0 is uniform

`own` is what a gram has for itself, `share` what its context leaves to the shorter one: 1 minus the sum of `own`, and 1
where nothing followed it.  c counts a gram, c(h) its context as a history (a word that ends the text is none for it: so
rows sum to 1), N1+(h) the distinct symbols after it.  Chen & Goodman (1999) compare them all.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bloomery.classic.grams import Tally

FALLBACK = (0.5, 1.0, 1.5)      # discounts where too few grams are counted once, twice and thrice: kenlm's, by choice


@dataclass(frozen=True)
class Smoothing:
    """`estimate` gives (own, share) of one order; `alone` methods leave nothing to shorter contexts, only to `base`."""

    estimate: Callable[[Tally], tuple[np.ndarray, np.ndarray]]
    continuation: bool = False  # lower orders count distinct left neighbours
    alone: bool = False
    uniform: bool = True        # order 0 is uniform over the vocabulary; else nothing: what was not seen has p = 0


def shared(tally: Tally, mass: np.ndarray) -> np.ndarray:
    """(C,) mass / c(h), 1 where nothing follows h."""
    return np.where(tally.totals > 0, mass / np.maximum(tally.totals, 1), 1.0)


def relative(tally: Tally, counts: np.ndarray) -> np.ndarray:
    """(G,) counts / c(h)."""
    return counts / np.maximum(tally.totals, 1)[tally.grams.context]


def mle() -> Smoothing:
    """Maximum likelihood: c / c(h). What was not seen is impossible, and its perplexity infinite."""
    def estimate(tally: Tally) -> tuple[np.ndarray, np.ndarray]:
        return relative(tally, tally.counts), shared(tally, np.zeros_like(tally.totals))
    return Smoothing(estimate, alone=True, uniform=False)


def add_k(k: float = 1.0) -> Smoothing:
    """Laplace (k = 1), Lidstone: (c + k) / (c(h) + k V), which is MLE mixed with the uniform distribution over V."""
    if not k > 0:
        raise ValueError(f"k must be above 0, got {k}")

    def estimate(tally: Tally) -> tuple[np.ndarray, np.ndarray]:
        whole = tally.totals + k * tally.size
        return tally.counts / whole[tally.grams.context], k * tally.size / whole
    return Smoothing(estimate, alone=True)


def interpolated(weights: float | tuple[float, ...] = 0.5) -> Smoothing:
    """Jelinek & Mercer (1980): w_n c / c(h) + (1 - w_n) p(w|h'); `jelinek_mercer.py` learns a weight for each order."""
    def estimate(tally: Tally) -> tuple[np.ndarray, np.ndarray]:
        w = weights if isinstance(weights, int | float) else weights[min(tally.order, len(weights)) - 1]
        if not 0 <= w <= 1:
            raise ValueError(f"weights must lie in [0, 1], got {w}")
        return w * relative(tally, tally.counts), np.where(tally.totals > 0, 1 - w, 1.0)
    return Smoothing(estimate)


def witten_bell() -> Smoothing:
    """Witten & Bell (1991), method C: (c + N1+(h) p(w|h')) / (c(h) + N1+(h)). A varied context leaves more."""
    def estimate(tally: Tally) -> tuple[np.ndarray, np.ndarray]:
        kinds = tally.kinds()
        whole = np.maximum(tally.totals + kinds, 1)
        return tally.counts / whole[tally.grams.context], np.where(tally.totals > 0, kinds / whole, 1.0)
    return Smoothing(estimate)


def discounted(tally: Tally, discount: float | None) -> tuple[np.ndarray, np.ndarray]:
    """(max(c - d, 0) / c(h), d N1+(h) / c(h)); d = n1 / (n1 + 2 n2) unless given (Ney, Essen & Kneser 1994)."""
    once, twice = tally.frequency(1), tally.frequency(2)
    d = discount if discount is not None else once / (once + 2 * twice) if once else 0.5
    return relative(tally, np.maximum(tally.counts - d, 0)), shared(tally, d * tally.kinds())


def absolute(discount: float | None = None) -> Smoothing:
    """Absolute discounting, interpolated: Kneser-Ney without its counts of left neighbours."""
    return Smoothing(lambda tally: discounted(tally, discount))


def kneser_ney(discount: float | None = None) -> Smoothing:
    """Interpolated Kneser-Ney with one discount an order: Kneser & Ney 1995; Chen & Goodman 1999, eq. 24."""
    return Smoothing(lambda tally: discounted(tally, discount), continuation=True)


def nltk_kneser_ney(discount: float = 0.1) -> Smoothing:
    """NLTK's: the same discount at every order but the first, which has none and so knows nothing unseen."""
    return Smoothing(lambda tally: discounted(tally, discount if tally.order > 1 else 0.0), continuation=True,
                     uniform=False)


def discounts(tally: Tally) -> tuple[float, float, float]:
    """D1, D2, D3+ of modified Kneser-Ney, Chen & Goodman 1999, eq. 26; `FALLBACK` where a text is too small."""
    n1, n2, n3, n4 = (tally.frequency(count) for count in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return FALLBACK
    y = n1 / (n1 + 2 * n2)
    found = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    return found if all(0 <= d <= count for count, d in enumerate(found, start=1)) else FALLBACK


def modified_kneser_ney() -> Smoothing:
    """Three discounts an order, for grams counted once, twice and more often: Chen & Goodman 1999, eq. 24-27."""
    def estimate(tally: Tally) -> tuple[np.ndarray, np.ndarray]:
        d1, d2, d3 = discounts(tally)
        taken = np.array([0.0, d1, d2, d3])[np.minimum(tally.counts, 3)]
        left = d1 * tally.kinds(1, 1) + d2 * tally.kinds(2, 2) + d3 * tally.kinds(3)
        return relative(tally, tally.counts - taken), shared(tally, left)
    return Smoothing(estimate, continuation=True)


SMOOTHING = {"mle": mle, "add_k": add_k, "interpolated": interpolated, "witten_bell": witten_bell,
             "absolute": absolute, "kneser_ney": kneser_ney, "modified_kneser_ney": modified_kneser_ney,
             "nltk_kneser_ney": nltk_kneser_ney}
