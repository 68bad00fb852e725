"""Losses of a label: scores in, one loss an example out, in nats or squared units; the caller weighs, sums and divides.

    one of C      -log softmax(s)_y                                     y outside [0, C) is a `ValueError`
    any of C      mean over c of -[y_c log sigmoid(s_c) + (1 - y_c) log sigmoid(-s_c)]
    a number      mean over outputs of (s - y)^2
    one of those  -log softmax over the scores with the same owner: answers of one question, tokens of one window

Not sigma(s) for one of several: its probabilities would not add up to one (Devlin et al. 2019, section 4).
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from bloomery.losses.token import token_nll


def one_of(scores: Tensor, truths: Tensor) -> Tensor:
    """(B,) from scores (B, C) and truths (B,)."""
    if len(truths) and not 0 <= int(truths.min()) <= int(truths.max()) < scores.shape[-1]:
        raise ValueError(f"labels must lie in [0, {scores.shape[-1]}), got {int(truths.min())} to {int(truths.max())}")
    return token_nll(scores, truths)


def any_of(scores: Tensor, truths: Tensor, positive: Tensor | None = None) -> Tensor:
    """(B,) from scores (B, C) and truths (B, C) in [0, 1]; `positive` (C,) multiplies what a label that holds costs."""
    return binary_cross_entropy_with_logits(scores, truths.to(scores), reduction="none", pos_weight=positive).mean(-1)


def squared(scores: Tensor, truths: Tensor) -> Tensor:
    """(B,) from scores (B, C) and truths (B, C)."""
    return (scores - truths.to(scores)).square().mean(-1)


def one_of_group(scores: Tensor, owner: Tensor, right: Tensor) -> Tensor:
    """(Q,) from scores (A,), the group each belongs to (A,) in [0, Q), and the place of the right one of each (Q,)."""
    groups = len(right)
    top = scores.detach().new_full((groups,), -torch.inf).scatter_reduce(0, owner, scores.detach(), "amax")
    total = scores.new_zeros(groups).index_add(0, owner, (scores - top[owner]).exp())
    return top + total.log() - scores[right]
