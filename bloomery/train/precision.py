"""Where a model is computed, and in which dtype its matrix products run: measured here, not guessed from a name.

A model is where its weights are, and whoever gives it something to read puts it there (`Batch.beside`).  Weights,
optimizer state, norms' statistics and losses stay in fp32 whatever the choice (see `model/linear.py`).
"""

import os
import time
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field

from bloomery.core.config import Free
from bloomery.core.errors import ConfigError
from bloomery.model.config import GATED, ModelConfig

Precision = Literal["auto", "bf16", "fp32"]
Device = Annotated[str, Free(), Field(description="cpu, cuda, cuda:1, mps, or auto: a GPU if there is one, else cpu")]
WORTH = 1.3             # bf16 must beat fp32 by this much to be chosen
HEAD_ROWS = 1024        # rows that the head takes at a time, about
STEADY = 8              # products in a row that are no faster before the best counts as found


Product = tuple[int, int, int]         # rows, inputs, outputs


class Asking(Protocol):
    """A configuration, as far as it is about the machine."""

    precision: Precision
    device: str


def placed(device: str = "auto") -> torch.device:
    """Where models are computed. `BLOOMERY_DEVICE` overrides `auto`; of `torchrun`'s ranks each has a GPU of its own.

    `ConfigError` for a device that is not here.
    """
    name = os.environ.get("BLOOMERY_DEVICE", "auto") if device == "auto" else device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
        module = torch.get_device_module(found)
    except RuntimeError as error:
        raise ConfigError(f"{name} is no device", where="device", why=str(error).splitlines()[0],
                          hint="auto, cpu, cuda, cuda:1 or mps") from error
    if found.type == "cpu":
        return found
    if found.index is not None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(f"ranks cannot all be on {name}", where="device",
                          hint=f"device={found.type} gives each a GPU of its own")
    found = torch.device(found.type, found.index or int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", 0))))
    count = module.device_count() if module.is_available() else 0
    if found.index >= count:
        built = f"with CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise ConfigError(f"there is no {found} here", where="device",
                          why=f"torch {torch.__version__}, built {built}, sees {count} devices of this kind",
                          hint="device=cpu, or BLOOMERY_DEVICE=cpu in the environment")
    if found.type == "cuda":
        torch.cuda.set_device(found)                            # whose memory and speed are asked for elsewhere
    return found


def machine(config: Asking) -> tuple[torch.dtype, torch.device]:
    """The compute dtype and the device of a configuration."""
    return choose(config.precision, device=config.device)[0], placed(config.device)


def products(config: ModelConfig, tokens: int) -> list[Product]:
    """The matrix products of one block and the head for `tokens` tokens."""
    d, attention = config.width, config.heads * config.head_width
    return [(tokens, d, attention + 2 * config.kv_heads * config.head_width), (tokens, attention, d),
            (tokens, d, (2 if config.activation in GATED else 1) * config.hidden), (tokens, config.hidden, d),
            (min(tokens, HEAD_ROWS), d, config.vocabulary)]


def products_rate(dtype: torch.dtype, shapes: list[Product], *, seconds: float = 0.02, device: str = "cpu") -> float:
    """FLOP/s over the products of a model. Small ones are slower than large ones, in bf16 far more than in fp32."""
    took = sum(fastest_product(dtype, shape, seconds, device) for shape in shapes)
    return sum(2 * rows * inputs * outputs for rows, inputs, outputs in shapes) / took


def matmul_rate(dtype: torch.dtype, *, size: int = 512, seconds: float = 0.05, device: str = "auto") -> float:
    """FLOP/s of square matrix products where training would run: what the machine can do, however busy it is now.

    Other programs only ever make a product slower, so the best of many counts.  A lone thread is tried as well: when
    another program has a core, the threads of one product wait for each other and all of them look alike (measured on
    two cores with one taken: 8 ms instead of 0.3 ms for every product, so that bf16 seemed no faster than fp32).
    """
    if (where := placed(device)).type != "cpu":
        return 2 * size**3 / fastest_product(dtype, (size, size, size), seconds, str(where))
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
        if device != "cpu":
            torch.get_device_module(device).synchronize()
        took = time.perf_counter() - start
        best, steady = (took, 0) if took < 0.99 * best else (min(best, took), steady + 1)
    return best


def choose(precision: Precision, shapes: list[Product] | None = None, *,
           device: str = "auto") -> tuple[torch.dtype, str]:
    """The compute dtype and one sentence about why. `BLOOMERY_PRECISION` overrides `auto`.

    With `shapes` (see `products`) the model's own products are timed, else a square one.
    """
    wanted = os.environ.get("BLOOMERY_PRECISION", "auto") if precision == "auto" else precision
    if wanted != "auto":
        return (torch.bfloat16 if wanted == "bf16" else torch.float32), f"{wanted}, as asked"
    if (where := placed(device)).type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return (torch.bfloat16, f"bf16 on {torch.cuda.get_device_name(where)}") if fast else \
            (torch.float32, f"fp32 on {torch.cuda.get_device_name(where)}, which has no bf16")
    if where.type != "cpu":
        return torch.float32, f"fp32 on {where}"
    half, full = (products_rate(dtype, shapes) if shapes else matmul_rate(dtype, device="cpu")
                  for dtype in (torch.bfloat16, torch.float32))
    whose = "the model's" if shapes else "matrix"
    measured = f"{whose} products reach {half / 1e9:.0f} GFLOP/s in bf16, {full / 1e9:.0f} in fp32"
    return (torch.bfloat16, f"bf16: {measured}") if half > WORTH * full else (torch.float32, f"fp32: {measured}")
