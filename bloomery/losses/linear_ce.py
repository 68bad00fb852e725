"""The head and its cross-entropy in one, so that the (N, V) logits never exist.

    nll_t = logsumexp_v(h_t . W_v) - h_t . W_{y_t}

`linear_cross_entropy` knows its weights beforehand and makes the gradients in the forward pass: three matrix products
in all.  `linear_logp` returns log-probabilities to be used in any loss, and makes the logits of a block of rows again
in the backward pass.  Rows go through in blocks of `BLOCK_BYTES` of fp32 logits: more would fall out of the cache (a
softmax over four times the elements took 28 times as long).  Matrix products run in the dtype of the hidden states,
everything else in fp32.
"""

import torch
from torch import Tensor

BLOCK_BYTES = 8 * 2**20         # fp32 logits of one block
HELD_BYTES = 64 * 2**20         # gradients of logits kept for one product with the hidden states


def block_rows(vocabulary: int, bytes_each: int, limit: int) -> int:
    return max(16, limit // (vocabulary * bytes_each))


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class LinearCrossEntropy(torch.autograd.Function):
    """Weighted sum of nll and the nll of every row; gradients of the sum are ready when forward returns."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, shadow: Tensor, targets: Tensor,
                weights: Tensor) -> tuple[Tensor, Tensor]:
        rows, vocabulary = len(hidden), len(shadow)
        nll = torch.empty(rows, dtype=wide(hidden.dtype), device=hidden.device)
        needed = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        d_hidden = torch.empty_like(hidden) if needed else None
        d_weight = torch.zeros_like(shadow, dtype=weight.dtype) if ctx.needs_input_grad[1] else None
        held = block_rows(vocabulary, hidden.element_size(), HELD_BYTES)
        step = block_rows(vocabulary, 4, BLOCK_BYTES)
        gradient = hidden.new_empty(min(held, rows), vocabulary) if needed else None
        for start in range(0, rows, held):
            end = min(start + held, rows)
            for first in range(start, end, step):
                part = slice(first, min(first + step, end))
                scores = (hidden[part] @ shadow.T).to(nll.dtype)                         # (block, V)
                picked, top = scores.gather(-1, targets[part, None])[:, 0], scores.amax(-1, keepdim=True)
                mass = scores.sub_(top).exp_().sum(-1)                                   # one exponential for both uses
                nll[part] = mass.log() + top[:, 0] - picked
                if gradient is not None:                                                 # w (softmax - onehot)
                    scores.mul_((weights[part] / mass)[:, None])
                    scores.scatter_add_(-1, targets[part, None], -weights[part, None].to(scores.dtype))
                    gradient[first - start:part.stop - start] = scores
            if gradient is not None:
                block = gradient[:end - start]
                torch.mm(block, shadow, out=d_hidden[start:end])
                if d_weight is not None:
                    d_weight += block.T @ hidden[start:end]
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight = ctx.saved_tensors
        return (d_hidden * grad if d_hidden is not None else None,
                d_weight * grad if d_weight is not None else None, None, None, None)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, *,
                         shadow: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum of weights * nll, a scalar, and each row's nll (N,) without gradient.

    hidden (N, D), weight (V, D), targets (N,) in [0, V), weights (N,).  `shadow` is the weight in the dtype of `hidden`
    when it is at hand.  Raises `ValueError` when no row has weight.
    """
    if not bool((weights != 0).any()):
        raise ValueError("no target tokens: every weight is 0")
    shadow = weight.detach().to(hidden.dtype) if shadow is None else shadow
    return LinearCrossEntropy.apply(hidden, weight, shadow, targets, weights)


class LinearLogp(torch.autograd.Function):
    """log p of each target; the backward pass makes each block's logits again."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, shadow: Tensor, targets: Tensor) -> Tensor:
        lse = torch.empty(len(hidden), dtype=wide(hidden.dtype), device=hidden.device)
        picked = torch.empty_like(lse)
        step = block_rows(len(shadow), 4, BLOCK_BYTES)
        for first in range(0, len(hidden), step):
            part = slice(first, first + step)
            logits = (hidden[part] @ shadow.T).to(lse.dtype)
            picked[part] = logits.gather(-1, targets[part, None])[:, 0]
            lse[part] = logits.logsumexp(-1)
        ctx.save_for_backward(hidden, weight, shadow, targets, lse)
        return picked - lse

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, shadow, targets, lse = ctx.saved_tensors
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        step = block_rows(len(shadow), 4, BLOCK_BYTES)
        for first in range(0, len(hidden), step):
            part = slice(first, first + step)
            logits = (hidden[part] @ shadow.T).to(lse.dtype)
            logits.sub_(lse[part, None]).exp_().mul_(-grad[part, None])                  # grad (onehot - softmax)
            logits.scatter_add_(-1, targets[part, None], grad[part, None])
            block = logits.to(hidden.dtype)
            torch.mm(block, shadow, out=d_hidden[part])
            if d_weight is not None:
                d_weight += block.T @ hidden[part]
        return d_hidden, d_weight, None, None


def linear_logp(hidden: Tensor, weight: Tensor, targets: Tensor, *, shadow: Tensor | None = None) -> Tensor:
    """log softmax(hidden W^T)[target], (N,) nats <= 0 in at least fp32, differentiable in `hidden` and `weight`."""
    shadow = weight.detach().to(hidden.dtype) if shadow is None else shadow
    return LinearLogp.apply(hidden, weight, shadow, targets)
