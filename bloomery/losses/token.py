"""Token losses: cross-entropy of the next token, from logits. Natural logarithms, sums and counts kept apart.

    loss = sum_t w_t * -log softmax(logits_t)[y_t]  /  sum_t w_t

The fused form that never holds all logits is `linear_ce.py`; these are the definitions.
"""

import math

import torch
from torch import Tensor

IGNORE = -100


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p of each target, (N,) nats in at least fp32, from logits (N, V)."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.logsumexp(-1) - wide.gather(-1, targets[:, None])[:, 0]


def smoothed(targets: Tensor, classes: int, smoothing: float) -> Tensor:
    """Targets under label smoothing, (N, V): (1 - e) onehot + e / V. Szegedy et al. 2016, section 7."""
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label smoothing must be in [0, 1], got {smoothing}")
    uniform = torch.full((len(targets), classes), smoothing / classes, dtype=torch.float64, device=targets.device)
    return uniform.scatter_add_(-1, targets[:, None], torch.full_like(uniform[:, :1], 1 - smoothing))


def soft_nll(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy with a distribution instead of one target, (N,) nats: - sum_v q_v log p_v."""
    return -(logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1) * wanted).sum(-1)


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
