"""The learning rate as a function of the step: linear warm-up, then cosine to a floor, which is then held."""

import math
from collections.abc import Callable


def warmup_cosine(step: int, *, peak: float, warmup: int, total: int, floor: float = 0.1) -> float:
    """Rate of 0-based `step`: peak (step + 1) / warmup, then cosine from peak to floor * peak at `total`, then held.

    Warm-up counts from one, so that the first step learns; `warmup_from_zero` is the other convention.
    """
    check(warmup, total)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * cosine((step - warmup) / (total - warmup), floor)


def warmup_from_zero(step: int, *, peak: float, warmup: int, total: int, floor: float = 0.0,
                     decay: Callable[[float, float], float] | None = None) -> float:
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


def check(warmup: int, total: int) -> None:
    if total <= 0 or not 0 <= warmup < total:
        raise ValueError(f"a schedule needs 0 <= warmup < total steps, got warmup {warmup} of {total}")
