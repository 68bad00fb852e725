"""Policy-gradient losses: what a drawn token teaches that was better, or worse, than expected.

With log ratios l_t = log pi(y_t) - log pi_old(y_t) and advantages A_t the loss of a token is

    - min(rho_t A_t, clip(rho_t, 1 - low, 1 + high) A_t)              Schulman et al. 2017 (PPO), eq. 7

where rho_t is exp(l_t) (`token`: PPO, GRPO, DAPO), or the whole answer's: exp of the mean of its l_t (`sequence`: Zheng
et al. 2025, GSPO, eq. 7), or of their sum (`answer`: RLOO, which takes an answer for one action).  `reinforce` has no
ratio: -A_t log pi(y_t) (Williams 1992).  All are losses of tokens, (M,); weights and denominators are the batch's
(`advantage.py`).  Left out: estimators of the KL, which are in `align/kl.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

CLAMP = 20.0                    # of a log ratio: e^20 of one token would be the whole loss


class Policy(NamedTuple):
    """The loss of every token (M,), and the ratio it was weighed with (M,)."""

    loss: Tensor
    ratio: Tensor


def token(logp: Tensor, old: Tensor, advantage: Tensor, answer: Tensor, *, low: float, high: float) -> Policy:
    """Every token by its own ratio. `answer` (M,) says whose each token is; here nobody looks."""
    return clipped(logp - old, advantage, low=low, high=high)


def sequence(logp: Tensor, old: Tensor, advantage: Tensor, answer: Tensor, *, low: float, high: float) -> Policy:
    """Every token by the geometric mean of its answer's ratios."""
    return clipped(per_answer(logp - old, answer, mean=True)[answer], advantage, low=low, high=high)


def whole(logp: Tensor, old: Tensor, advantage: Tensor, answer: Tensor, *, low: float, high: float) -> Policy:
    """Every token by the ratio of its whole answer."""
    return clipped(per_answer(logp - old, answer)[answer], advantage, low=low, high=high)


def reinforce(logp: Tensor, old: Tensor, advantage: Tensor, answer: Tensor, *, low: float, high: float) -> Policy:
    """-A log pi: right for what the policy itself has drawn, and for one update of it."""
    return Policy(-advantage * logp, torch.ones_like(logp))


def clipped(log_ratio: Tensor, advantage: Tensor, *, low: float, high: float) -> Policy:
    """PPO's clipped surrogate; `low` below `high` lets unlikely tokens rise further (DAPO's clip-higher)."""
    if not 0 <= low <= 1 or high < 0:
        raise ValueError(f"a ratio is clipped to [1 - low, 1 + high], 0 <= low <= 1, 0 <= high, got {low}, {high}")
    ratio = log_ratio.clamp(-CLAMP, CLAMP).exp()
    return Policy(-torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage), ratio)


def per_answer(x: Tensor, answer: Tensor, *, mean: bool = False) -> Tensor:
    """Sums, or means, of tokens (M,) over the answers they are of, (A,)."""
    count = int(answer.max()) + 1
    sums = x.new_zeros(count).index_add(0, answer, x)
    return sums / torch.bincount(answer, minlength=count).clamp(min=1) if mean else sums


def value_loss(values: Tensor, old: Tensor, returns: Tensor, *, clip: float | None = 0.2) -> tuple[Tensor, Tensor]:
    """Half the squared error of tokens (M,), and where the clipped one was larger. Schulman's code; `clip` None: never.

    The value moves no further than `clip` from what it was when the answer was drawn.
    """
    plain = (values - returns).square()
    if clip is None:
        return plain / 2, torch.zeros_like(plain, dtype=torch.bool)
    held = (torch.clamp(values, old - clip, old + clip) - returns).square()
    return torch.maximum(plain, held) / 2, held > plain


def entropy(logp: Tensor) -> Tensor:
    """-sum_v p log p of whole distributions (..., V): nats, a number each. What is never said adds nothing."""
    return -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(-1)


def truncated(old: Tensor, behaviour: Tensor, cap: float) -> Tensor:
    """min(pi_old / pi_behaviour, cap): what a token weighs that other numbers than the trainer's drew. Yao et al. 2025.

    A sampler in bfloat16, or another engine, is not quite the policy it serves.
    """
    return (old - behaviour).clamp(-CLAMP, CLAMP).exp().clamp(max=cap).detach()


def clip_shares(ratio: Tensor, advantage: Tensor, *, low: float, high: float) -> dict[str, Tensor]:
    """Which tokens (M,) are beyond the bounds that hold them: `low` where worse, `high` where better, either."""
    below, above = (ratio < 1 - low) & (advantage < 0), (ratio > 1 + high) & (advantage > 0)
    return {"low": below, "high": above, "region": below | above}


PolicyLoss = Callable[..., Policy]
POLICY: dict[str, PolicyLoss] = {"token": token, "sequence": sequence, "answer": whole, "reinforce": reinforce}
