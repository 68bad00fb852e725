"""Which steps are refused: those that are not finite, and those far outside what recent steps were.

A refused step changes no weight and no statistic; it is counted, and the next batch is taken.  After `patience`
refusals in a row training stops: then it is not the batch.  The window of recent steps is part of a checkpoint, so that
a resumed run refuses what an undisturbed one would.
"""

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from pydantic import Field

from bloomery.core.config import Settings

FEWEST = 16             # steps seen before anything can be called a spike


class GuardConfig(Settings):
    """What happens at a step that should not be taken."""

    non_finite: Literal["stop", "skip"] = Field("stop", description="when the loss or the gradient is not finite")
    spike: float | None = Field(None, gt=1, description="skip steps whose loss or gradient norm is this many times the "
                                                        "median of recent ones; leave out for never")
    window: int = Field(128, ge=FEWEST, description="recent steps the median is taken over")
    patience: int = Field(5, gt=0, description="refused steps in a row after which training stops")


@dataclass
class Guard:
    """Judges steps in order. All numbers it sees are sums over ranks, so every rank judges alike."""

    config: GuardConfig = GuardConfig()
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    skipped: int = 0                # refused steps of the whole run
    in_a_row: int = 0

    def judge(self, loss: float, norm: float) -> str | None:
        """Why this step must not be taken, or None. Raises `FloatingPointError` when training has to stop."""
        reason = self.reason(loss, norm)
        if reason is None:
            self.in_a_row = 0
            self.losses = [*self.losses, loss][-self.config.window:]
            self.norms = [*self.norms, norm][-self.config.window:]
            return None
        if not math.isfinite(loss + norm) and self.config.non_finite == "stop":
            raise FloatingPointError(reason)
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self.in_a_row > self.config.patience:
            raise FloatingPointError(f"{reason}; {self.in_a_row} steps in a row were refused")
        return reason

    def reason(self, loss: float, norm: float) -> str | None:
        for what, value, recent in (("loss", loss, self.losses), ("gradient norm", norm, self.norms)):
            if not math.isfinite(value):
                return f"the {what} is {value}"
            if self.config.spike and len(recent) >= FEWEST and value > self.config.spike * median(recent):
                return f"the {what} is {value:.4g}, {value / median(recent):.1f} times the median of recent steps"
        return None

    def remembered(self) -> dict:
        """What a checkpoint keeps."""
        return {"losses": self.losses, "norms": self.norms, "skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, saved: dict) -> None:
        self.losses, self.norms = list(saved["losses"]), list(saved["norms"])
        self.skipped, self.in_a_row = saved["skipped"], saved["in_a_row"]
