"""Rotary positions: q and k are turned by an angle proportional to their position, so that scores see differences only.

theta_k = base^(-2k/E), angle = p theta_k (Su et al. 2021).  Two layouts pair the dimensions differently: half-rotated
(k, k + E/2), which Hugging Face Llama checkpoints use and we default to, and interleaved (2k, 2k + 1) of the paper.
Mixing them inside one model gives wrong scores without any error.
"""

import torch
from torch import Tensor


def rope_frequencies(head_width: int, base: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Angles per position of the E/2 pairs, (E/2,).

    In fp32 the last bit depends on the order of operations, and angles multiply it by the position: this is the order
    of transformers, whose tables checkpoints were trained with.
    """
    if head_width % 2:
        raise ValueError(f"head_width must be even, got {head_width}")
    return 1.0 / base ** (torch.arange(0, head_width, 2).to(dtype) / head_width)


def rope_table(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of every position, each (N, 1, E/2).

    Angles are taken in fp32 at least, as Hugging Face does it: bf16 would lose positions beyond 256.
    """
    wide = torch.promote_types(dtype, torch.float32)
    angles = positions.to(wide)[:, None] * frequencies.to(wide)                          # (N, E/2)
    return angles.cos().to(dtype)[:, None], angles.sin().to(dtype)[:, None]


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (k, k + E/2) of x (N, heads, E)."""
    a, b = x.chunk(2, -1)                                                                # (N, heads, E/2) each
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def rope_interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (2k, 2k + 1) of x (N, heads, E): the layout of RoFormer and of Meta's Llama code."""
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)


def interleaved_to_half(head_width: int) -> list[int]:
    """perm with rope(x[perm]) == rope_interleaved(x)[perm]: how Meta's q and k rows become Hugging Face's."""
    return [*range(0, head_width, 2), *range(1, head_width, 2)]
