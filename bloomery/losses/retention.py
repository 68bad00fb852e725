"""What holds a model to what it knew while it learns something else.

    EWC             task + lambda/2 sum_i F_i (theta_i - theta*_i)^2        Kirkpatrick et al. 2017, eq. 3
    Fisher          F_i = E_x E_{y ~ p(y|x)} (d log p(y|x) / d theta_i)^2   squares of single examples, then the mean
    KL              task + lambda mean_t KL(p_ref(.|x_<t) || p(.|x_<t))     Li & Hoiem 2016, over all of the vocabulary
    auxiliary LM    L3 = L2 + lambda L1, where L1 is the language model's   Radford et al. 2018, eq. 5

The Fisher is "empirical" when y is the label instead of a draw from the model: cheaper, and not the curvature.  Label
smoothing, which also keeps a model from certainty, is a term of `linear_ce.py`.
"""

import torch
from torch import Tensor


def add_squares(fisher: list[Tensor], scores: list[Tensor], weight: float = 1.0) -> None:
    """Add weight * score^2 of one example to a sum. The square of a mean over examples is something else: near zero."""
    torch._foreach_addcmul_(fisher, scores, scores, value=weight)


def ewc(weights: Tensor, anchor: Tensor, fisher: Tensor) -> tuple[Tensor, Tensor]:
    """1/2 sum F (theta - theta*)^2 of one tensor, and its gradient F (theta - theta*)."""
    away = weights - anchor
    pull = fisher * away
    return (pull * away).sum() / 2, pull


def gpt1(task: Tensor, language: Tensor, *, weight: float = 0.5) -> Tensor:
    """L2 + lambda L1: the language model is the auxiliary term, the task is not."""
    if weight < 0:
        raise ValueError(f"the weight of the auxiliary objective must not be negative, got {weight}")
    return task + weight * language


def forward_kl(logp: Tensor, reference: Tensor) -> Tensor:
    """KL(p_ref || p), (N,) nats from log-probabilities (N, V): what the reference finds likely must stay likely."""
    return (reference.exp() * (reference - logp)).sum(-1)


def reverse_kl(logp: Tensor, reference: Tensor) -> Tensor:
    """KL(p || p_ref), (N,): what the reference finds unlikely must stay unlikely, as in preference training."""
    return forward_kl(reference, logp)


KL = {"forward": forward_kl, "reverse": reverse_kl}
