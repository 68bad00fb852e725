"""Preference losses: what a pair of answers teaches.

Each function takes log-ratios and returns one loss per pair; the caller sums and divides.  With
    h_w = log pi(y_w|x) - log pi_ref(y_w|x),   h_l likewise for the rejected answer,
DPO is -log sigmoid(beta (h_w - h_l)).  Log-probabilities are sums over the answer's tokens, its end of turn included.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def dpo(h_w: Tensor, h_l: Tensor, *, beta: float = 0.1, smoothing: float = 0.0) -> Tensor:
    """Direct preference optimisation, (P,) nats from two (P,) log-ratios.

    `smoothing` is the chance that a label is flipped: Rafailov et al. 2023, eq. 7; Mitchell 2023, eq. 3.
    """
    if beta <= 0 or not 0 <= smoothing < 0.5:
        raise ValueError(f"dpo needs beta > 0 and 0 <= smoothing < 0.5, got {beta} and {smoothing}")
    z = beta * (h_w - h_l)                                                               # (P,)
    return -(1 - smoothing) * logsigmoid(z) - smoothing * logsigmoid(-z)


def bradley_terry(r_w: Tensor, r_l: Tensor, *, margin: Tensor | float = 0.0) -> Tensor:
    """-log sigmoid(r_w - r_l - margin): how surprising a label is under two scores. Bradley & Terry 1952."""
    return -logsigmoid(r_w - r_l - margin)


PAIRWISE = {"dpo": dpo}
