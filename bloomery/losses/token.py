"""Token losses: cross-entropy of the next token, from logits. Natural logarithms, sums and counts kept apart.

    loss = sum_t w_t * -log softmax(logits_t)[y_t]  /  sum_t w_t

The fused form that never holds all logits is `linear_ce.py`; this one is the definition.
"""

import math

import torch
from torch import Tensor

IGNORE = -100


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p of each target, (N,) nats in at least fp32, from logits (N, V)."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.logsumexp(-1) - wide.gather(-1, targets[:, None])[:, 0]


def shifted(labels: Tensor) -> Tensor:
    """Labels (..., T) with IGNORE -> what logits[:, t] should predict: the label at t + 1, nothing after the last."""
    return torch.cat((labels[..., 1:], torch.full_like(labels[..., :1], IGNORE)), -1)


def perplexity(nats: float, tokens: float) -> float:
    """exp(sum of nll / number of tokens) over a whole corpus; never a mean of per-document perplexities."""
    if tokens <= 0:
        raise ValueError("no target tokens: nothing to average over")
    return math.exp(nats / tokens)


def bits_per_byte(nats: float, bytes_: int) -> float:
    """Sum of nll in bits over the UTF-8 bytes it predicts: comparable between tokenizers."""
    if bytes_ <= 0:
        raise ValueError("no bytes: nothing to average over")
    return nats / math.log(2) / bytes_
