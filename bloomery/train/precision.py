"""Which dtype matrix products run in: measured on this machine, not guessed from its name.

Weights, optimizer state, norms' statistics and losses stay in fp32 whatever the choice (see `model/linear.py`).
"""

import os
import time
from typing import Literal

import torch

from bloomery.model.config import GATED, ModelConfig

Precision = Literal["auto", "bf16", "fp32"]
WORTH = 1.3             # bf16 must beat fp32 by this much to be chosen
HEAD_ROWS = 1024        # rows that the head takes at a time, about
STEADY = 8              # products in a row that are no faster before the best counts as found


Product = tuple[int, int, int]         # rows, inputs, outputs


def products(config: ModelConfig, tokens: int) -> list[Product]:
    """The matrix products of one block and the head for `tokens` tokens."""
    d, attention = config.width, config.heads * config.head_width
    return [(tokens, d, attention + 2 * config.kv_heads * config.head_width), (tokens, attention, d),
            (tokens, d, (2 if config.activation in GATED else 1) * config.hidden), (tokens, config.hidden, d),
            (min(tokens, HEAD_ROWS), d, config.vocabulary)]


def products_rate(dtype: torch.dtype, shapes: list[Product], *, seconds: float = 0.02) -> float:
    """FLOP/s over the products of a model. Small ones are slower than large ones, in bf16 far more than in fp32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    took = sum(fastest_product(dtype, shape, seconds, device) for shape in shapes)
    return sum(2 * rows * inputs * outputs for rows, inputs, outputs in shapes) / took


def matmul_rate(dtype: torch.dtype, *, size: int = 512, seconds: float = 0.05) -> float:
    """FLOP/s of square matrix products where training would run: what the machine can do, however busy it is now.

    Other programs only ever make a product slower, so the best of many counts.  A lone thread is tried as well: when
    another program has a core, the threads of one product wait for each other and all of them look alike (measured on
    two cores with one taken: 8 ms instead of 0.3 ms for every product, so that bf16 seemed no faster than fp32).
    """
    if torch.cuda.is_available():
        return 2 * size**3 / fastest_product(dtype, (size, size, size), seconds, "cuda")
    threads = torch.get_num_threads()
    times = []
    try:
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            times.append(fastest_product(dtype, (size, size, size), seconds, "cpu"))
    finally:
        torch.set_num_threads(threads)
    return 2 * size**3 / min(times)


def fastest_product(dtype: torch.dtype, shape: Product, seconds: float, device: str) -> float:
    """Seconds of the fastest product seen: of `seconds` at least, and until the last `STEADY` were no faster."""
    rows, inputs, outputs = shape
    a, b = torch.randn(rows, inputs, device=device).to(dtype), torch.randn(inputs, outputs, device=device).to(dtype)
    out = torch.empty(rows, outputs, dtype=dtype, device=device)
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


def choose(precision: Precision, shapes: list[Product] | None = None) -> tuple[torch.dtype, str]:
    """The compute dtype and one sentence about why. `BLOOMERY_PRECISION` overrides `auto`.

    With `shapes` (see `products`) the model's own products are timed, else a square one.
    """
    wanted = os.environ.get("BLOOMERY_PRECISION", "auto") if precision == "auto" else precision
    if wanted != "auto":
        return (torch.bfloat16 if wanted == "bf16" else torch.float32), f"{wanted}, as asked"
    if torch.cuda.is_available():
        name, fast = ("bf16", True) if torch.cuda.is_bf16_supported() else ("fp32", False)
        return (torch.bfloat16 if fast else torch.float32), f"{name} on {torch.cuda.get_device_name()}"
    half, full = (products_rate(dtype, shapes) if shapes else matmul_rate(dtype)
                  for dtype in (torch.bfloat16, torch.float32))
    whose = "the model's" if shapes else "matrix"
    measured = f"{whose} products reach {half / 1e9:.0f} GFLOP/s in bf16, {full / 1e9:.0f} in fp32"
    return (torch.bfloat16, f"bf16: {measured}") if half > WORTH * full else (torch.float32, f"fp32: {measured}")
