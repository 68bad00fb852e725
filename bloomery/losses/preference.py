"""Preference losses: what a pair of answers, or one rated answer, teaches.

Each function takes one number an answer and returns one loss a pair, (P,), or an answer, (A,); the caller sums and
divides.  For the better answer y_w and the worse y_l to a prompt x that number is

    h = log pi(y|x) - log pi_ref(y|x),      or log pi(y|x) alone in a loss that is `REFERENCE_FREE`,

a sum over the answer's tokens, its turn-end included, in `PER_TOKEN` losses their mean.  beta h is the reward that a
policy implies (Rafailov et al. 2023, eq. 5): the larger beta, the closer to the reference.  `margin` is by how much one
reward should exceed the other.  Defaults are the papers'.  Losses of a reward model's scores are in `ranking.py`.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

ALMOST_SURE = -1e-6     # mean log-probability above which odds are not told apart

# --- pairs --------------------------------------------------------------------------------------------------------


def dpo(h_w: Tensor, h_l: Tensor, *, beta: float = 0.1, smoothing: float = 0.0, margin: Tensor | float = 0.0) -> Tensor:
    """Direct preference optimisation, (P,) nats from two (P,) log-ratios: Rafailov et al. 2023, eq. 7.

    `smoothing` is the chance that a label is flipped (cDPO: Mitchell 2023, eq. 3).  With a `margin` it is ODPO (Amini
    et al. 2024, eq. 6).  SPIN and CPO are the same function of other answers, and of other numbers.
    """
    in_range(beta, smoothing)
    z = beta * (h_w - h_l) - margin                                                      # (P,)
    return -(1 - smoothing) * logsigmoid(z) - smoothing * logsigmoid(-z)


def robust(h_w: Tensor, h_l: Tensor, *, beta: float = 0.1, smoothing: float = 0.1,
           margin: Tensor | float = 0.0) -> Tensor:
    """DPO without the bias of flipped labels: over them its mean is DPO's of right ones. Chowdhury et al. 2024, eq. 6.

    A single loss may be below zero.
    """
    in_range(beta, smoothing)
    right, flipped = dpo(h_w, h_l, beta=beta, margin=margin), dpo(h_l, h_w, beta=beta, margin=-margin)
    return ((1 - smoothing) * right - smoothing * flipped) / (1 - 2 * smoothing)


def hinge(h_w: Tensor, h_l: Tensor, *, beta: float = 0.1, margin: Tensor | float = 0.0) -> Tensor:
    """max(0, 1 - beta (h_w - h_l)): SLiC-HF (Zhao et al. 2023, eq. 3) of log-ratios (RSO: Liu et al. 2024, eq. 7)."""
    in_range(beta)
    return relu(1 - (beta * (h_w - h_l) - margin))


def ipo(h_w: Tensor, h_l: Tensor, *, beta: float = 0.1) -> Tensor:
    """Identity preference optimisation: a gap of 1 / (2 beta), not infinity. Azar et al. 2024, eq. 17.

    h has no beta in it.  The authors' code, and so `ipo`, takes means over tokens; the paper prints sums, `ipo_sum`.
    """
    in_range(beta)
    return (h_w - h_l - 1 / (2 * beta)) ** 2


def simpo(h_w: Tensor, h_l: Tensor, *, beta: float = 2.0, margin: Tensor | float = 1.0) -> Tensor:
    """-log sigmoid(beta (l_w - l_l) - margin) of mean log-probabilities, no reference. Meng et al. 2024, eq. 6."""
    return dpo(h_w, h_l, beta=beta, margin=margin)


def orpo(h_w: Tensor, h_l: Tensor, *, beta: float = 0.1) -> Tensor:
    """-beta log sigmoid(log odds_w - log odds_l), with odds = p / (1 - p), log p a mean. Hong et al. 2024, eq. 7.

    The paper's loss adds the chosen answer's nll (`NLL`), which is what keeps it likely.
    """
    in_range(beta)
    return -beta * logsigmoid(log_odds(h_w) - log_odds(h_l))


def log_odds(logp: Tensor) -> Tensor:
    """log p - log(1 - p) of log p <= 0; what is almost sure counts as p = 1 - 1e-6."""
    logp = logp.clamp(max=ALMOST_SURE)
    return logp - torch.where(logp > -math.log(2), torch.log(-torch.expm1(logp)), torch.log1p(-torch.exp(logp)))


def exo(h_w: Tensor, h_l: Tensor, *, beta: float = 0.1, smoothing: float = 1e-3) -> Tensor:
    """KL(policy || labels) of a pair, the other way round than DPO. Ji et al. 2024, eq. 16."""
    in_range(beta, smoothing)
    if not smoothing:
        raise ValueError("exo needs smoothing above 0: labels that are certain are infinitely far")
    log_w, log_l = logsigmoid(beta * (h_w - h_l)), logsigmoid(beta * (h_l - h_w))
    return log_w.exp() * (log_w - math.log1p(-smoothing)) + log_l.exp() * (log_l - math.log(smoothing))


def nca(h_w: Tensor, h_l: Tensor, *, beta: float = 0.1) -> Tensor:
    """Noise-contrastive alignment: answers are judged one by one, so the chosen does not fall. Chen et al. 2024."""
    in_range(beta)
    return -logsigmoid(beta * h_w) - (logsigmoid(-beta * h_w) + logsigmoid(-beta * h_l)) / 2


def apo_zero(h_w: Tensor, h_l: Tensor, *, beta: float = 0.1) -> Tensor:
    """The chosen up, the rejected down: for answers better than the model's own. D'Oosterlinck et al. 2024, eq. 7."""
    in_range(beta)
    return torch.sigmoid(-beta * h_w) + torch.sigmoid(beta * h_l)


def apo_down(h_w: Tensor, h_l: Tensor, *, beta: float = 0.1) -> Tensor:
    """Both down, the rejected more: for answers worse than the model's own. D'Oosterlinck et al. 2024, eq. 8."""
    in_range(beta)
    return torch.sigmoid(beta * h_w) + torch.sigmoid(-beta * (h_w - h_l))


def sppo(h_w: Tensor, h_l: Tensor, *, beta: float = 1e-3) -> Tensor:
    """Self-play: each log-ratio to half a win, +-1 / (2 beta). Wu et al. 2024, eq. 4.7 with certain labels."""
    in_range(beta)
    return (h_w - 0.5 / beta) ** 2 + (h_l + 0.5 / beta) ** 2


# --- single answers -----------------------------------------------------------------------------------------------

def kto(h: Tensor, desirable: Tensor, kl: Tensor | float, *, beta: float = 0.1, desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0) -> Tensor:
    """Kahneman-Tversky optimisation, (A,) from log-ratios (A,) and whether each answer is wanted (A,) bool.

    w (1 - sigmoid(+-beta (h - kl))): Ethayarajh et al. 2024, eq. 8.  `kl` is where gains turn to losses, `baseline`.
    """
    in_range(beta)
    wanted = 1 - torch.sigmoid(beta * (h - kl))
    unwanted = 1 - torch.sigmoid(beta * (kl - h))
    return torch.where(desirable, desirable_weight * wanted, undesirable_weight * unwanted)


def baseline(mismatched: Tensor) -> Tensor:
    """KTO's estimate of KL(pi || pi_ref), a scalar: the mean log-ratio of answers to other prompts, at least 0."""
    return mismatched.detach().mean().clamp(min=0)


# --- shared -------------------------------------------------------------------------------------------------------

def in_range(beta: float, smoothing: float = 0.0) -> None:
    if beta <= 0 or not 0 <= smoothing < 0.5:
        raise ValueError(f"a preference loss needs beta > 0 and 0 <= smoothing < 0.5, got {beta} and {smoothing}")


# f'(t) of a divergence, t = e^h, in the place of h: DPO tied to the reference by another than the reverse KL, whose
# f'(t) is log t + 1. Wang et al. 2024 (f-DPO), table 1; constants drop out of the difference.
DIVERGENCES = {"reverse_kl": lambda h: h, "forward_kl": lambda h: 1 - torch.exp(-h),
               "js": lambda h: math.log(2) + logsigmoid(h)}

PAIRWISE = {"dpo": dpo, "robust": robust, "hinge": hinge, "ipo": ipo, "ipo_sum": ipo, "dpo_norm": dpo, "spin": dpo,
            "simpo": simpo, "orpo": orpo, "cpo": dpo, "exo": exo, "nca": nca, "apo_zero": apo_zero,
            "apo_down": apo_down, "sppo": sppo}
UNPAIRED = {"kto": kto}

PER_TOKEN = {"ipo", "dpo_norm", "simpo", "orpo"}
REFERENCE_FREE = {"simpo", "orpo", "cpo"}
NLL = {"orpo": 1.0, "cpo": 1.0}         # weight of the chosen answer's nll in the paper's loss: Xu et al. 2024, eq. 5
