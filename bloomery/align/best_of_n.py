"""The best-of-N curve: what a reward gains as more answers are drawn, and how far that is from the model.

From M answers to each prompt, every subset of N counts (`generate/best_of.py`).  Against N stand the mean reward of the
best, what another reward (`gold`) says of that same answer, and its KL to the model three ways: the bound log N -
(N - 1) / N; the estimate from how likely the kept answers were; and the exact one, were the drawn answers all there
are.  The last is the lowest where answers repeat or tie, as short checked ones do.
"""

import math
from collections.abc import Sequence
from statistics import fmean

from bloomery.align.overoptimization import fitted
from bloomery.generate.best_of import exact_kl, kl_bound, kl_estimate, ranking, win_rate, win_rate_bound

Table = Sequence[Sequence[float]]


def numbers(most: int) -> list[int]:
    """The N of a curve: powers of two, and the most there are."""
    return [*dict.fromkeys([2**power for power in range(most.bit_length()) if 2**power < most] + [most])]


def of_the_best(scores: Sequence[float], values: Sequence[float], n: int) -> float:
    """What `values` say of the answer with the best score, averaged over all subsets of n of them.

    With values = scores it is `expected_best`.  Of equal scores the first is the best.
    """
    subsets = math.comb(len(scores), n)
    upward = ranking(scores)[::-1]
    return math.fsum(math.comb(rank, n - 1) / subsets * values[i] for rank, i in enumerate(upward))


def curve(scores: Table, logps: Table, gold: Table | None = None) -> list[dict[str, float]]:
    """A row for each N, means over prompts; `logps` are the answers' log-probabilities."""
    most, rows = min(map(len, scores)), []
    for n in numbers(most):
        told = [[kl_estimate(logp, n) for logp in own] for own in logps]
        row = {"n": n, "reward": fmean(of_the_best(own, own, n) for own in scores),
               "kl_exact": max(0.0, fmean(exact_kl(even(own), n, own) for own in scores)),
               "kl_estimate": fmean(of_the_best(own, kl, n) for own, kl in zip(scores, told, strict=True)),
               "kl_bound": kl_bound(n), "win_rate": fmean(win_rate(even(own), n, own) for own in scores),
               "win_rate_bound": win_rate_bound(n)}
        if gold:
            row["gold"] = fmean(of_the_best(own, true, n) for own, true in zip(scores, gold, strict=True))
        rows.append(row)
    return rows


def even(own: Sequence[float]) -> list[float]:
    return [1 / len(own)] * len(own)


def peak(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Where the gold score is at its best by Gao et al.'s curve through it: KL and the gain there. {} where unknown.

    Distances are those of the bound, as in the paper.
    """
    if "gold" not in rows[0] or len(rows) < 3:
        return {}
    found = fitted([math.sqrt(row["kl_bound"]) for row in rows], [row["gold"] - rows[0]["gold"] for row in rows], "bon")
    told = {"gold_alpha": found.alpha, "gold_beta": found.beta}
    return told | {"gold_peak_kl": found.peak**2, "gold_peak_gain": found(found.peak)} \
        if math.isfinite(found.peak) else told


def by_n(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """The curve as metrics, one table for each quantity, which the report draws: `best_of_n/reward` = {"1": ...}."""
    return {f"best_of_n/{name}": {str(row["n"]): row[name] for row in rows} for name in rows[0] if name != "n"}
