"""Best of n: draw n answers, keep the one that scores best, and know how far that has moved from the model.

Over outcomes of distinct reward, F being the share of the model's probability that scores no better than i,

    q_i = F_i^n - F_(i-1)^n,    KL(q || p) = sum_i q_i log (q_i / p_i) <= log n - (n - 1) / n.

Outcomes of one reward share their q in proportion to p, since the first of equals is kept.  The bound is met only where
no outcome has a mass of its own: of two equally likely ones the best of 16 is log 2 away at most, where the bound says
1.835 (Beirami et al. 2025).  Several reward models are one ensemble (Coste et al. 2024), `ENSEMBLES`.
"""

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor


def best_of(scores: Sequence[float]) -> int:
    """Index of the best score, the first of equals. Raises `FloatingPointError` where one is not finite."""
    return ranking(scores)[0]


def ranking(scores: Sequence[float]) -> list[int]:
    """Indices from the best score to the worst, equals in their order."""
    if not scores:
        raise ValueError("there is no score to choose from")
    if wrong := [i for i, score in enumerate(scores) if not math.isfinite(score)]:
        raise FloatingPointError(f"score {wrong[0]} of {len(scores)} is {scores[wrong[0]]}")
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def levels(probabilities: Sequence[float], rewards: Sequence[float] | None = None) -> list[float]:
    """Probability of each distinct reward, from the worst to the best; without `rewards` outcomes are in that order."""
    if not probabilities or min(probabilities) < 0 or abs(math.fsum(probabilities) - 1) > 1e-6:
        raise ValueError(f"probabilities must be at least 0 and sum to 1, got a sum of {math.fsum(probabilities)}")
    ranks = range(len(probabilities)) if rewards is None else rewards
    pairs = sorted(zip(ranks, probabilities, strict=True))
    sums = [math.fsum(p for _, p in group) for _, group in groupby(pairs, key=lambda pair: pair[0])]
    return [p for p in sums if p > 0]


def best_of_n(probabilities: Sequence[float], n: int, rewards: Sequence[float] | None = None) -> list[float]:
    """The distribution q of the best of n over `levels`."""
    at_least_one(n)
    below, out = 0.0, []
    for p in levels(probabilities, rewards):
        out.append((below + p) ** n - below ** n)
        below += p
    return out


def exact_kl(probabilities: Sequence[float], n: int, rewards: Sequence[float] | None = None) -> float:
    """KL(best of n || one) in nats for a finite distribution; outcomes of equal reward are one level."""
    pairs = zip(best_of_n(probabilities, n, rewards), levels(probabilities, rewards), strict=True)
    return math.fsum(q * math.log(q / p) for q, p in pairs if q > 0)


def kl_bound(n: int) -> float:
    """log n - (n - 1) / n, which the KL never exceeds and comes near only without ties. Beirami et al. 2025."""
    at_least_one(n)
    return math.log(n) - (n - 1) / n


def kl_estimate(logp: float, n: int) -> float:
    """The KL when all one knows is log p of the answer that was kept. Beirami et al. 2025, section 4.

    Exact where that answer is the best there is and no other has a mass of its own; `kl_bound` for an unlikely one.
    """
    at_least_one(n)
    p = min(math.exp(logp), 1.0)
    if p == 1 or n == 1:
        return 0.0
    others = math.exp(n * math.log1p(-p))                       # none of n draws is this answer
    below = math.log(n) + (n - 1) * math.log1p(-p) - (n - 1) / n
    drawn = -math.expm1(n * math.log1p(-p))
    return others * below + (drawn * (math.log(drawn) - logp) if drawn else 0.0)


def win_rate(probabilities: Sequence[float], n: int, rewards: Sequence[float] | None = None) -> float:
    """How often the best of n beats one draw, ties half."""
    below, total = 0.0, []
    for q, p in zip(best_of_n(probabilities, n, rewards), levels(probabilities, rewards), strict=True):
        total.append(q * (below + p / 2))
        below += p
    return math.fsum(total)


def win_rate_bound(n: int) -> float:
    """n / (n + 1), which `win_rate` never exceeds. Beirami et al. 2025, section 5."""
    at_least_one(n)
    return n / (n + 1)


def expected_best(scores: Sequence[float], n: int) -> float:
    """What the best of n would score on average, from M >= n draws: sum_r C(r - 1, n - 1) / C(M, n) score_(r).

    Unbiased, and every subset of n draws counts once; r is the rank from the worst. Nakano et al. 2021.
    """
    if not 1 <= n <= len(scores):
        raise ValueError(f"n must be between 1 and the number of scores ({len(scores)}), got {n}")
    subsets = math.comb(len(scores), n)
    return math.fsum(math.comb(rank, n - 1) / subsets * score for rank, score in enumerate(sorted(scores)))


def at_least_one(n: int) -> None:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")


def mean(scores: Tensor, k: float) -> Tensor:
    return scores.mean(0)


def worst(scores: Tensor, k: float) -> Tensor:
    """Worst-case optimisation: what the most sceptical member says. Coste et al. 2024."""
    return scores.amin(0)


def lower(scores: Tensor, k: float) -> Tensor:
    """A lower confidence bound: the mean less k population standard deviations."""
    return scores.mean(0) - k * scores.std(0, correction=0)


def variance(scores: Tensor, k: float) -> Tensor:
    """Uncertainty-weighted optimisation: the mean less k population variances. Coste et al. 2024."""
    return scores.mean(0) - k * scores.var(0, correction=0)


def combine(scores: Sequence[Sequence[float]], how: str = "mean", k: float = 1.0) -> list[float]:
    """One score for each of n answers from those of all members, (models, n). Members must share a scale."""
    if how not in ENSEMBLES:
        raise ValueError(f"how must be one of {', '.join(ENSEMBLES)}, got {how!r}")
    return ENSEMBLES[how](table(scores), k).tolist()


def disagreement(scores: Sequence[Sequence[float]]) -> list[float]:
    """Population standard deviation over members for each answer: it rises when a reward is being hacked."""
    return table(scores).std(0, correction=0).tolist()


def table(scores: Sequence[Sequence[float]]) -> Tensor:
    if not scores or len({len(row) for row in scores}) != 1:
        raise ValueError("every member must score every answer, and there must be one")
    return torch.tensor(scores, dtype=torch.float64)                                     # (models, n)


ENSEMBLES = {"mean": mean, "min": worst, "lower": lower, "variance": variance}
