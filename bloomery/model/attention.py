"""Scaled dot-product attention, softmax(q k^T / sqrt(E) + mask) v, with fewer key heads than query heads if wanted.

Query head h reads key head h // (H / K) (Ainslie et al. 2023).  The module projects and turns; what a query may see
is the memory's business: `memory.attend(layer, q, k, v)` (see `forest.py` and `cache.py`).
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from bloomery.model.blocked import LONGEST, blocked_causal
from bloomery.model.linear import Linear
from bloomery.model.positions import rope


class Memory(Protocol):
    """What attention may look at: a training batch (`Forest`) or what was decoded before (`Cache`)."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (N, H, E), k and v (N, K, E), keys already turned -> (N, H, E)."""
        ...


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The definition, for tests and small inputs: q (..., H, T, E), k and v (..., K, S, E), mask (..., T, S).

    True in the mask means seen; a query that sees no key returns zeros. Vaswani et al. 2017, eq. 1.
    """
    heads, key_heads = q.shape[-3], k.shape[-3]
    if heads % key_heads:
        raise ValueError(f"query heads ({heads}) must be a multiple of key heads ({key_heads})")
    k, v = (x.repeat_interleave(heads // key_heads, -3) for x in (k, v))
    scores = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1).nan_to_num(0.0) if mask is not None else scores.softmax(-1)
    return weights.to(v.dtype) @ v


def padded_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The fast form for rows padded on the right: q (B, H, T, E), k, v (B, K, S, E); no mask means causal."""
    if q.dtype == torch.bfloat16 and not q.is_cuda and k.shape[2] <= LONGEST:
        return blocked_causal(q, k, v) if mask is None else masked_attention(q, k, v, mask)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None,
                                        enable_gqa=q.shape[1] != k.shape[1])


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Plain products for short rows in bf16, where the flash kernel's backward pass takes three times as long.

    mask (B, 1, T, S); every query must see a key.
    """
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.mT                                            # (B, H, T, S)
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v


class Attention(nn.Module):
    """x (N, D) -> (N, D). q, k and v are one matrix, rows in that order."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_width: int):
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, head_width
        self.qkv = Linear(width, (heads + 2 * kv_heads) * head_width)
        self.output = Linear(heads * head_width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, memory: Memory, layer: int) -> Tensor:
        qkv = self.qkv(x).view(len(x), -1, self.head_width)                              # (N, H + 2K, E)
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), 1)
        seen = memory.attend(layer, rope(q, cos, sin), rope(k, cos, sin), v)             # (N, H, E)
        return self.output(seen.flatten(1))
