"""Where a token stands: rotary positions, by which scores see differences only, and sinusoidal ones, which are added.

Rotary: theta_k = base^(-2k/E), angle = p theta_k (Su et al. 2021).  Two layouts pair the dimensions differently:
half-rotated (k, k + E/2), which Hugging Face Llama checkpoints use and we default to, and interleaved (2k, 2k + 1) of
the paper.  Mixing them inside one model gives wrong scores without any error.  Longer contexts: `rope_scaling.py`.
"""

import torch
from torch import Tensor


def rope_frequencies(head_width: int, base: float | Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Angles per position of the E/2 pairs, (E/2,).

    In fp32 the last bit depends on the order of operations, and angles multiply it by the position: this is the order
    of transformers, whose tables checkpoints were trained with.
    """
    if head_width % 2:
        raise ValueError(f"head_width must be even, got {head_width}")
    return 1.0 / base ** (torch.arange(0, head_width, 2).to(dtype) / head_width)


def rope_table(positions: Tensor, frequencies: Tensor, dtype: torch.dtype, factor: float = 1.0
               ) -> tuple[Tensor, Tensor]:
    """cos and sin of every position times `factor` (YaRN's temperature), each (N, 1, E/2).

    Angles are taken in fp32 at least, as Hugging Face does it: bf16 would lose positions beyond 256.
    """
    wide = torch.promote_types(dtype, torch.float32)
    angles = positions.to(wide)[:, None] * frequencies.to(wide)                          # (N, E/2)
    cos, sin = angles.cos(), angles.sin()
    if factor != 1:
        cos, sin = cos * factor, sin * factor
    return cos.to(dtype)[:, None], sin.to(dtype)[:, None]


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (k, k + E/2) of x (N, heads, E). A narrower table turns the first dimensions only."""
    turned, kept = x.tensor_split((2 * cos.shape[-1],), -1)
    a, b = turned.chunk(2, -1)                                                           # (N, heads, E/2) each
    return torch.cat((a * cos - b * sin, b * cos + a * sin, *([kept] if kept.shape[-1] else ())), -1)


def rope_interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (2k, 2k + 1) of x (N, heads, E): the layout of RoFormer and of Meta's Llama code."""
    turned, kept = x.tensor_split((2 * cos.shape[-1],), -1)
    a, b = turned[..., ::2], turned[..., 1::2]
    turned = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    return torch.cat((turned, kept), -1) if kept.shape[-1] else turned


def interleaved_to_half(head_width: int) -> list[int]:
    """perm with rope(x[perm]) == rope_interleaved(x)[perm]: how Meta's q and k rows become Hugging Face's."""
    return [*range(0, head_width, 2), *range(1, head_width, 2)]


def sinusoidal(positions: Tensor, width: int, *, base: float = 10_000.0, layout: str = "interleaved",
               dtype: torch.dtype = torch.float64) -> Tensor:
    """sin and cos of p / base^(2i/D) for pair i, (N, D), taken in float64 (Vaswani et al. 2017, section 3.5).

    `interleaved` is the paper's order, sin and cos in turn; `concat` is tensor2tensor's and Marian's: all sin, all cos.
    """
    if width % 2:
        raise ValueError(f"width must be even, got {width}")
    if layout not in ("interleaved", "concat"):
        raise ValueError(f"layout must be interleaved or concat, got {layout!r}")
    angles = positions.double()[:, None] * rope_frequencies(width, base).to(positions.device)            # (N, D/2)
    pair = torch.stack((angles.sin(), angles.cos()), -1 if layout == "interleaved" else -2)
    return pair.flatten(1).to(dtype)


TURNS = {"rope": rope, "rope_interleaved": rope_interleaved}
