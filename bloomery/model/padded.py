"""Attention of rows that see nothing but themselves: which of several equal forms is the fastest."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bloomery.model.blocked import CAUSAL, LONGEST, Blocked, Sees
from bloomery.model.dot_product import PLAIN, Scoring


def padded_attention(q: Tensor, k: Tensor, v: Tensor, sees: Sees = CAUSAL, scoring: Scoring = PLAIN) -> Tensor:
    """q (B, H, T, E) over k and v (B, K, S, E) -> (B, H, T, E); every query must see a key.

    In fp32 this is torch's kernel, and so gives the very numbers of transformers.
    """
    reach = min(k.shape[2], sees.window or k.shape[2])
    short = q.dtype == torch.bfloat16 and not q.is_cuda and reach <= LONGEST
    if short or scoring.softcap is not None:
        return Blocked.apply(q, k, v, sees, scoring)
    plain = sees.causal and sees.hidden is None and (sees.window or reach) >= k.shape[2]
    mask = None if plain else visible(sees, q.shape[2], k)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=plain, scale=scoring.scale,
                                        enable_gqa=q.shape[1] != k.shape[1])


def visible(sees: Sees, tokens: int, k: Tensor) -> Tensor:
    """The mask of `sees`, (B or 1, 1, T, S) bool: True is seen."""
    mask = torch.ones(tokens, k.shape[2], dtype=torch.bool, device=k.device)
    if sees.causal:
        mask = mask.tril()
        mask = mask.triu(1 - sees.window) if sees.window else mask
    return mask[None, None] if sees.hidden is None else mask & ~sees.hidden
