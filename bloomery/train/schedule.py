"""The learning rate as a pure function of the step: it warms up, is held at its peak, falls, and is held at its floor.

    rate = peak (s + 1) / W,  s < W;      rate = peak f((s - S) / (T - S)),  s >= S;      peak in between

`f` falls from 1 to the floor.  Cosine and linear fall right after the warm-up (S = W), `wsd` (warm-up, stable, decay:
Hu et al. 2024) over the last fifth, as 1 - sqrt, which ends lower than a line does (Haegele et al. 2024).  A run that
is held at its peak can be prolonged without having been planned for it.
"""

import math
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from bloomery.core.config import Settings
from bloomery.core.errors import ConfigError

Decay = Callable[[float, float], float]         # (progress, floor) -> share of the peak
Schedule = Literal["cosine", "linear", "constant", "wsd", "wsd-linear"]


class ScheduleConfig(Settings):
    """How the learning rate changes over a run."""

    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    schedule: Schedule = Field("cosine", description="how the rate falls after the warm-up; wsd: held, then 1 - sqrt")
    warmup: float = Field(0.05, ge=0, description="share of the steps spent warming up; a number of steps from 1 on")
    decay: float | None = Field(None, gt=0, le=1, description="share of the steps, at the end, over which the rate "
                                                              "falls; all after the warm-up if left out, for wsd 0.2")
    floor: float = Field(0.1, ge=0, le=1, description="final learning rate as a share of the peak")


def rate(settings: ScheduleConfig, step: int, steps: int) -> float:
    """Learning rate of 0-based `step` in a run of `steps`; after the last step the final value is held.

    Warm-up counts from one, so that the first step learns.  `ValueError` unless 0 <= warm-up < steps.
    """
    warmup = warmup_steps(settings, steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    fall, share = SCHEDULES[settings.schedule]
    start = max(warmup, min(steps - round((settings.decay or share) * steps), steps - 1))
    return settings.lr * fall(max(step - start, 0) / (steps - start), settings.floor)


def warmup_steps(settings: ScheduleConfig, steps: int) -> int:
    """Steps of warm-up. A share always leaves one step after it; a number of steps that does not is an error."""
    if settings.warmup >= max(steps, 1):
        raise ConfigError(f"a warm-up of {settings.warmup:g} steps does not end within a run of {steps}",
                          where="optimizer.warmup", why="the rate would never reach its peak",
                          hint=f"set optimizer.warmup below {steps}, or a share of the steps such as 0.05")
    warmup = min(round(settings.warmup * steps), steps - 1) if settings.warmup < 1 else round(settings.warmup)
    check(warmup, steps)
    return warmup


def warmup_from_zero(step: int, *, peak: float, warmup: int, total: int, floor: float = 0.0,
                     decay: Decay | None = None) -> float:
    """The Hugging Face form: step 0 has rate 0, step `warmup` the peak. After `total` the last value is held."""
    check(warmup, total)
    if step < warmup:
        return peak * step / warmup
    return peak * (decay or cosine)((step - warmup) / (total - warmup), floor)


def cosine(progress: float, floor: float) -> float:
    """From 1 at progress 0 to `floor` at progress 1 and after."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def linear(progress: float, floor: float) -> float:
    return floor + (1 - floor) * (1 - min(progress, 1.0))


def one_minus_sqrt(progress: float, floor: float) -> float:
    return floor + (1 - floor) * (1 - math.sqrt(min(progress, 1.0)))


def constant(progress: float, floor: float) -> float:
    return 1.0


def check(warmup: int, total: int) -> None:
    if total <= 0 or not 0 <= warmup < total:
        raise ValueError(f"a schedule needs 0 <= warmup < total steps, got warmup {warmup} of {total}")


# name: how it falls, and over which share of the steps unless told otherwise
SCHEDULES: dict[str, tuple[Decay, float]] = {
    "cosine": (cosine, 1.0), "linear": (linear, 1.0), "constant": (constant, 1.0),
    "wsd": (one_minus_sqrt, 0.2), "wsd-linear": (linear, 0.2),
}
