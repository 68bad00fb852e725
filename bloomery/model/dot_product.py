"""Scaled dot-product attention, softmax(q k^T / sqrt(E) + mask) v, with fewer key heads than query heads if wanted.

Query head h reads key head h // (H / K) (Ainslie et al. 2023).  `attention` is the definition; the others say the same
faster.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bloomery.model.blocked import LONGEST, blocked_causal


@dataclass(frozen=True)
class Scoring:
    """How a query scores a key it may see: cap(q . k * scale), and which keys are too far back to be seen."""

    scale: float | None = None      # None: 1 / sqrt(E)
    window: int | None = None       # a query at position i sees keys with i - j < window; None: all
    softcap: float | None = None    # scores become softcap * tanh(score / softcap); None: as they are


PLAIN = Scoring()


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
