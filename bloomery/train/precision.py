"""Which dtype matrix products run in: measured on this machine, not guessed from its name.

Weights, optimizer state, norms' statistics and losses stay in fp32 whatever the choice (see `model/linear.py`).
"""

import os
import time
from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]
WORTH = 1.3             # bf16 must beat fp32 by this much to be chosen
STEADY = 8              # products in a row that are no faster before the best counts as found


def matmul_rate(dtype: torch.dtype, *, size: int = 512, seconds: float = 0.05) -> float:
    """FLOP/s of square matrix products where training would run: what the machine can do, however busy it is now.

    Other programs only ever make a product slower, so the best of many counts.  A lone thread is tried as well: when
    another program has a core, the threads of one product wait for each other and all of them look alike (measured on
    two cores with one taken: 8 ms instead of 0.3 ms for every product, so that bf16 seemed no faster than fp32).
    """
    if torch.cuda.is_available():
        return 2 * size**3 / fastest_product(dtype, size, seconds, "cuda")
    threads = torch.get_num_threads()
    times = []
    try:
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            times.append(fastest_product(dtype, size, seconds, "cpu"))
    finally:
        torch.set_num_threads(threads)
    return 2 * size**3 / min(times)


def fastest_product(dtype: torch.dtype, size: int, seconds: float, device: str) -> float:
    """Seconds of the fastest product seen: of `seconds` at least, and until the last `STEADY` were no faster."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty(size, size, dtype=dtype, device=device)
    torch.mm(a, b, out=out)
    best, steady, begin = float("inf"), 0, time.perf_counter()
    while (waited := time.perf_counter() - begin) < seconds or (steady < STEADY and waited < 10 * seconds):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        if device == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - start
        best, steady = (took, 0) if took < 0.99 * best else (min(best, took), steady + 1)
    return best


def choose(precision: Precision) -> tuple[torch.dtype, str]:
    """The compute dtype and one sentence about why. `BLOOMERY_PRECISION` overrides `auto`."""
    wanted = os.environ.get("BLOOMERY_PRECISION", "auto") if precision == "auto" else precision
    if wanted != "auto":
        return (torch.bfloat16 if wanted == "bf16" else torch.float32), f"{wanted}, as asked"
    if torch.cuda.is_available():
        name, fast = ("bf16", True) if torch.cuda.is_bf16_supported() else ("fp32", False)
        return (torch.bfloat16 if fast else torch.float32), f"{name} on {torch.cuda.get_device_name()}"
    half, full = matmul_rate(torch.bfloat16), matmul_rate(torch.float32)
    measured = f"matrix products reach {half / 1e9:.0f} GFLOP/s in bf16, {full / 1e9:.0f} in fp32"
    return (torch.bfloat16, f"bf16: {measured}") if half > WORTH * full else (torch.float32, f"fp32: {measured}")
