"""Does a reward mean what it says?  A difference d between two scores claims that the first answer wins with
probability sigmoid(d); on pairs whose winner is known that claim can be checked.

    confidence sigmoid(|d|) in [1/2, 1],   right where d > 0
    ECE    sum_b n_b / n |right_b - confidence_b|  over equal bins of confidence      (Naeini et al. 2015)
    Brier  mean (sigmoid(d) - 1)^2                                                    (Brier 1950)
    temperature T: sigmoid(d / T) with the T that makes the labels likeliest          (Guo et al. 2017)

d (P,) is always the winner's score less the loser's; a difference of 0 is wrong.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

BINS = 10
COLDEST, HOTTEST = 1e-3, 1e3            # temperatures looked at: beyond, a model is always or never sure
HALVINGS = 60


@dataclass(frozen=True)
class Bin:
    """The pairs whose confidence lies in [low, high); the last bin has its end."""

    low: float
    high: float
    count: int
    confidence: float
    right: float


def reliability(differences: Tensor, bins: int = BINS) -> list[Bin]:
    """What the reliability diagram shows; a bin without pairs has nan for both shares."""
    confidence, right = differences.abs().sigmoid(), (differences > 0).to(differences.dtype)
    place = ((confidence - 0.5) * 2 * bins).long().clamp(0, bins - 1)
    counts = torch.bincount(place, minlength=bins)
    means = [torch.bincount(place, weights=of, minlength=bins) / counts for of in (confidence, right)]
    return [Bin(0.5 + 0.5 * b / bins, 0.5 + 0.5 * (b + 1) / bins, int(counts[b]), float(means[0][b]),
                float(means[1][b])) for b in range(bins)]


def ece(differences: Tensor, bins: int = BINS) -> float:
    """Expected calibration error: how far confidence and the share that is right are apart, on average."""
    found = [b for b in reliability(differences, bins) if b.count]
    return sum(b.count * abs(b.right - b.confidence) for b in found) / len(differences)


def brier(differences: Tensor) -> float:
    return float(((differences.sigmoid() - 1) ** 2).mean())


def nll(differences: Tensor) -> float:
    """Nats a label, ln 2 for a model that knows nothing."""
    return float(-logsigmoid(differences).mean())


def accuracy(differences: Tensor) -> float:
    return float((differences > 0).double().mean())


def temperature(differences: Tensor) -> float:
    """The T for which sigmoid(d / T) makes the labels likeliest; the nll is convex in 1 / T, so its slope is halved in.

    A model that is right more often than not has a finite one; one that is wrong more often gets the hottest there is.
    """
    if not len(differences):
        raise ValueError("a temperature of no pairs")
    d = differences.double()
    cold, hot = COLDEST, HOTTEST
    for _ in range(HALVINGS):
        middle = (cold * hot) ** 0.5
        surer_is_better = float((d * torch.sigmoid(-d / middle)).mean()) > 0
        cold, hot = (cold, middle) if surer_is_better else (middle, hot)
    return (cold * hot) ** 0.5


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's r; 0 where one of them does not vary."""
    x, y = (v.double() - v.double().mean() for v in (x, y))
    scale = float(x.norm() * y.norm())
    return float(x @ y) / scale if scale else 0.0
