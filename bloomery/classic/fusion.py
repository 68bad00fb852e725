"""Several searches made into one: rankings and scores fused, of terms and of embeddings alike.

Reciprocal rank fusion needs places only, so it fuses what cannot be compared: the score of BM25 and a cosine.

    rrf(d) = sum over rankings of  w / (k + rank),      rank from 1, nothing where d is missing      Cormack et al. 2009

With k = 60 the first place of one list weighs little more than the tenth; several lists that agree weigh more.  Sums of
scores, brought to a common scale first, keep how far the first is ahead.  Whatever fuses returns {id: score}, best
first; ids of equal score stand in their own order.
"""

from collections.abc import Hashable, Mapping, Sequence
from math import fsum

import numpy as np

Fused = dict[Hashable, float]


def rrf(rankings: Sequence[Sequence[Hashable]], *, k: float = 60, weights: Sequence[float] | None = None) -> Fused:
    """Fuse rankings of ids, each best first and without repeats; `weights` say how much each ranking is worth."""
    if k < 0:
        raise ValueError(f"k must not be negative, got {k}")
    if any(len(set(ranking)) < len(ranking) for ranking in rankings):
        raise ValueError("an id stands twice in one ranking")
    return fused([{one: 1 / (k + rank) for rank, one in enumerate(ranking, start=1)} for ranking in rankings], weights)


def comb_sum(scores: Sequence[Mapping[Hashable, float]], *, scale: str = "min_max",
             weights: Sequence[float] | None = None) -> Fused:
    """The weighted sum of scores on a common scale (Fox and Shaw 1994); a missing id adds nothing."""
    return fused([scaled(found, scale) for found in scores], weights)


def comb_mnz(scores: Sequence[Mapping[Hashable, float]], *, scale: str = "min_max",
             weights: Sequence[float] | None = None) -> Fused:
    """The weighted sum times how many searches found the id (Fox and Shaw 1994)."""
    total = comb_sum(scores, scale=scale, weights=weights)
    return ordered({one: value * sum(one in found for found in scores) for one, value in total.items()})


def scaled(scores: Mapping[Hashable, float], scale: str) -> Fused:
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale}")
    if not scores:
        return {}
    return dict(zip(scores, SCALES[scale](np.fromiter(scores.values(), float, len(scores))).tolist()))


def min_max(scores: np.ndarray) -> np.ndarray:
    """From 0 to 1; all 1 where they are equal."""
    spread = np.ptp(scores)
    return (scores - scores.min()) / spread if spread else np.ones_like(scores)


def z_score(scores: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1; all 0 where they are equal."""
    return (scores - scores.mean()) / (scores.std() or 1)


def fused(lists: Sequence[Mapping[Hashable, float]], weights: Sequence[float] | None) -> Fused:
    weights = [1] * len(lists) if weights is None else weights
    if len(weights) != len(lists):
        raise ValueError(f"{len(lists)} searches need as many weights, got {len(weights)}")
    ids = dict.fromkeys(one for found in lists for one in found)
    return ordered({one: fsum(weight * found[one] for weight, found in zip(weights, lists) if one in found)
                    for one in ids})                            # fsum: the same terms in any order are a tie


def ordered(scores: Mapping[Hashable, float]) -> Fused:
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))


def directions(vectors: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """What of each vector (N, D) is not common to all, of length one, so that cosines are products; zeros stay zeros.

    The embeddings of a language model all point much the same way, which says nothing of a text: Mu and Viswanath 2018.
    """
    away = np.where(vectors.any(axis=1, keepdims=True), vectors - centre, 0)
    sizes = np.linalg.norm(away, axis=1, keepdims=True)
    return away / np.where(sizes > 0, sizes, 1)


SCALES = {"min_max": min_max, "z_score": z_score, "none": lambda scores: scores}
FUSIONS = {"rrf": rrf, "comb_sum": comb_sum, "comb_mnz": comb_mnz}
