"""What is really gained as a reward is pushed: the proxy rises for ever, the gold score rises, peaks and falls.

With d = sqrt(KL(pi || pi_start)),

    best of n:  R(d) = d (alpha - beta d)          peak at d = alpha / (2 beta)
    RL:         R(d) = d (alpha - beta log d)      peak at d = exp(alpha / beta - 1)

Gao, Schulman and Hilton 2023, "Scaling laws for reward model overoptimization".  R counts from what the start scores.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LARGEST = 700.0                 # e to this is still a double


@dataclass(frozen=True)
class Curve:
    """The gold score over d: `alpha` is what the first nats bring, `beta` what optimisation costs later."""

    kind: str
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        if self.kind not in BENDS:
            raise ValueError(f"kind must be one of {', '.join(BENDS)}, got {self.kind!r}")

    def __call__(self, d: float) -> float:
        if d < 0:
            raise ValueError(f"d is a distance, got {d}")
        return self.alpha * d - self.beta * BENDS[self.kind](d)

    @property
    def peak(self) -> float:
        """The d beyond which more optimisation hurts; infinity where it never does, 0 where it always does."""
        if self.beta <= 0:
            return math.inf
        if self.kind == "bon":
            return max(0.0, self.alpha / (2 * self.beta))
        exponent = self.alpha / self.beta - 1
        return math.exp(exponent) if exponent < LARGEST else math.inf


def fitted(d: Sequence[float], gold: Sequence[float], kind: str) -> Curve:
    """The curve of least squares through gold scores at distances d. Needs two that are not 0."""
    if len(d) != len(gold) or len({x for x in d if x > 0}) < 2:
        raise ValueError("a gold score for each distance and two distances above 0 are needed")
    terms = np.array([[x, -BENDS[kind](x)] for x in d])
    (alpha, beta), *_ = np.linalg.lstsq(terms, np.array(gold, dtype=np.float64), rcond=None)
    return Curve(kind, float(alpha), float(beta))


BENDS: dict[str, Callable[[float], float]] = {"bon": lambda d: d * d, "rl": lambda d: d * math.log(d) if d else 0.0}
