"""Which of two answers wins, and how often: a tally with ties counted half, and the interval it leaves open."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bloomery.core.intervals import wilson


@dataclass(frozen=True)
class Tally:
    """Comparisons of one model's answers with another's. `ValueError` where there was none."""

    wins: int
    ties: int
    losses: int

    def __post_init__(self) -> None:
        if min(self.wins, self.ties, self.losses) < 0 or not self.count:
            raise ValueError(f"a win rate needs comparisons, none of them negative in number, got {self}")

    @property
    def count(self) -> int:
        return self.wins + self.ties + self.losses

    @property
    def rate(self) -> float:
        """The share of wins, ties half."""
        return (self.wins + self.ties / 2) / self.count

    @property
    def decided(self) -> float | None:
        """The share of wins among comparisons that were no tie; None where all were."""
        return self.wins / (self.wins + self.losses) if self.wins + self.losses else None

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's interval of `rate`; cautious where there are ties, since a half varies less than a win."""
        return wilson(self.wins + self.ties / 2, self.count, confidence)

    def metrics(self, name: str = "win_rate") -> dict[str, float]:
        low, high = self.interval()
        return {name: self.rate, f"{name}_low": low, f"{name}_high": high, f"{name}_ties": self.ties / self.count}


def tally(ours: Sequence[float], theirs: Sequence[float]) -> Tally:
    """Scores of two models' answers to the same prompts, compared one by one."""
    pairs = list(zip(ours, theirs, strict=True))
    if wrong := [pair for pair in pairs if not all(map(math.isfinite, pair))]:
        raise FloatingPointError(f"a score is not finite: {wrong[0]}")
    return Tally(sum(a > b for a, b in pairs), sum(a == b for a, b in pairs), sum(a < b for a, b in pairs))
