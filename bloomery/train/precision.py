"""Which dtype matrix products run in: measured on this machine, not guessed from its name.

Weights, optimizer state, norms' statistics, softmax and losses stay in fp32 whatever the choice (see `model/linear.py`).
"""

import os
import time
from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]
WORTH = 1.3             # bf16 must beat fp32 by this much to be chosen


def matmul_rate(dtype: torch.dtype, *, size: int = 512, seconds: float = 0.05) -> float:
    """FLOP/s of square matrix products, the best of several short runs."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    out = torch.empty(size, size, dtype=dtype)
    torch.mm(a, b, out=out)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def choose(precision: Precision) -> tuple[torch.dtype, str]:
    """The compute dtype and one sentence about why. `BLOOMERY_PRECISION` overrides `auto`."""
    wanted = os.environ.get("BLOOMERY_PRECISION", "auto") if precision == "auto" else precision
    if wanted != "auto":
        return (torch.bfloat16 if wanted == "bf16" else torch.float32), f"{wanted}, as asked"
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported()
        return (torch.bfloat16 if fast else torch.float32), f"{'bf16' if fast else 'fp32'} on {torch.cuda.get_device_name()}"
    half, full = matmul_rate(torch.bfloat16), matmul_rate(torch.float32)
    measured = f"matrix products reach {half / 1e9:.0f} GFLOP/s in bf16, {full / 1e9:.0f} in fp32"
    return (torch.bfloat16, f"bf16: {measured}") if half > WORTH * full else (torch.float32, f"fp32: {measured}")
