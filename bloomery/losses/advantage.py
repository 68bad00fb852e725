"""Advantages: by how much each drawn token, or answer, was better than what was to be expected.

Of whole answers, rewards R (P, G) of G answers to each of P prompts, NaN where nobody could say:

    group      (R - mean of its group) / (deviation + 1e-4)      Shao et al. 2024 (GRPO); without the division Dr. GRPO
    rloo        R - mean of the others of its group              Kool et al. 2019; Ahmadian et al. 2024
    batch       R - mean of the others of the batch              REINFORCE with a baseline: Williams 1992

Of tokens, with a critic's values V_t of the state *before* token t (Schulman et al. 2016):

    delta_t = r_t + gamma V_(t+1) - V_t,      A_t = delta_t + gamma lambda A_(t+1),      return_t = A_t + V_t

What all of it is divided by is data too: `DENOMINATORS` gives every answer the weight of its tokens, and what it adds
to the count by which the summed loss is divided.  Flat tokens (M,) are those of all answers, one after the other, and
`lengths` (A,) says how many are whose.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

SMALL = 1e-4                    # added to a deviation of rewards: TRL's, outside the root
TINY = 1e-8                     # added to a variance of tokens

# --- whole answers --------------------------------------------------------------------------------------------------


def group_relative(rewards: Tensor, *, scale: str = "group") -> Tensor:
    """Against the mean of one's own group, in units of the `group`'s deviation, the `batch`'s, or as it is (`none`)."""
    several(rewards)
    apart = rewards - rewards.nanmean(1, keepdim=True)                                  # (P, G)
    if scale == "none":
        return apart.nan_to_num()
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    spread = deviation(rewards if scale == "group" else rewards.reshape(1, -1))
    return (apart / (spread[:, None] + SMALL)).nan_to_num()


def rloo(rewards: Tensor) -> Tensor:
    """Against the mean of the others of the group: a baseline that does not depend on the answer itself."""
    several(rewards)
    return left_out(rewards)


def batch_baseline(rewards: Tensor) -> Tensor:
    """Against the mean of all others of the batch, whatever their prompts; groups of one will do."""
    return left_out(rewards.reshape(1, -1)).view_as(rewards)


def left_out(rewards: Tensor) -> Tensor:
    """R - mean of the others of its row = (R - mean) n / (n - 1); 0 for one that is missing or alone."""
    n = (~rewards.isnan()).sum(1, keepdim=True)
    return ((rewards - rewards.nanmean(1, keepdim=True)) * n / (n - 1)).nan_to_num(posinf=0.0, neginf=0.0)


def deviation(rewards: Tensor) -> Tensor:
    """The standard deviation of each row's known values, without bias, (P,); NaN of fewer than two."""
    n = (~rewards.isnan()).sum(1)
    squares = (rewards - rewards.nanmean(1, keepdim=True)).square().nansum(1)
    return torch.where(n > 1, (squares / (n - 1)).sqrt(), torch.nan)


def without_spread(rewards: Tensor) -> Tensor:
    """Which groups teach nothing, (P,) bool: all their known rewards are equal."""
    return deviation(rewards).nan_to_num() < TINY


def several(rewards: Tensor) -> None:
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(f"answers are compared within their group: rewards (P, G) with G >= 2 are needed, got "
                         f"{tuple(rewards.shape)}")


# --- tokens ---------------------------------------------------------------------------------------------------------

def token_rewards(kl: Tensor, scores: Tensor, lengths: Tensor, *, beta: float) -> Tensor:
    """-beta kl_t, and the score at an answer's last token: (M,) from kl (M,), scores (A,). Ziegler et al. 2019."""
    if beta < 0:
        raise ValueError(f"beta must be at least 0, got {beta}")
    return (-beta * kl).index_add(0, lengths.cumsum(0) - 1, scores.to(kl.dtype))


def gae(rewards: Tensor, values: Tensor, lengths: Tensor, *, gamma: float = 1.0,
        lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Advantages and returns of tokens, both (M,), from rewards and values (M,). Nothing follows an answer's end."""
    if not 0 <= gamma <= 1 or not 0 <= lam <= 1:
        raise ValueError(f"gamma and lambda must lie in [0, 1], got {gamma} and {lam}")
    r, v = rows(rewards, lengths), rows(values, lengths)                                # (A, T)
    after, advantage, found = torch.zeros_like(v[:, 0]), torch.zeros_like(v[:, 0]), []
    for t in reversed(range(v.shape[1])):                       # behind an end r = v = 0, so that both stay 0
        advantage = r[:, t] + gamma * after - v[:, t] + gamma * lam * advantage
        after = v[:, t]
        found.append(advantage)
    flat = torch.stack(found[::-1], 1)[inside(lengths)]                                 # (M,)
    return flat, flat + values


def whiten(x: Tensor, *, shift: bool = True) -> Tensor:
    """(x - mean) / deviation over all of (M,); without `shift` the mean is put back. One alone stays as it is."""
    if len(x) < 2:
        return x
    white = (x - x.mean()) * torch.rsqrt(x.var() + TINY)
    return white if shift else white + x.mean()


def rows(flat: Tensor, lengths: Tensor) -> Tensor:
    """(M,) as one row an answer, (A, T), filled up with zeros."""
    return pad_sequence(list(flat.split(lengths.tolist())), batch_first=True)


def inside(lengths: Tensor) -> Tensor:
    """Which places of those rows are tokens, (A, T) bool."""
    return torch.arange(int(lengths.max())) < lengths[:, None]


# --- what a loss is divided by --------------------------------------------------------------------------------------

def by_answer(lengths: Tensor, group: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """The mean over answers of each one's mean over its tokens. Shao et al. 2024, eq. 3."""
    return 1 / lengths.clamp(min=1), torch.ones_like(lengths, dtype=torch.float64)


def by_group(lengths: Tensor, group: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """The mean over groups of the mean over all tokens of a group: TRL's `bnpo`, with a group for its local batch."""
    tokens = torch.zeros(int(group.max()) + 1, dtype=torch.float64).index_add(0, group, lengths.double())[group]
    return 1 / tokens.clamp(min=1), 1 / torch.bincount(group)[group].double()


def by_token(lengths: Tensor, group: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """The mean over all tokens, so that long answers weigh more. Yu et al. 2025 (DAPO), eq. 8; PPO's."""
    return torch.ones_like(lengths, dtype=torch.float64), lengths.double()


def by_budget(lengths: Tensor, group: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """The sum over tokens over how many there could have been, which no length biases. Liu et al. 2025 (Dr. GRPO)."""
    whole = torch.ones_like(lengths, dtype=torch.float64)
    return whole, longest * whole


def by_sum(lengths: Tensor, group: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """The mean over answers of the sum over tokens: the policy gradient as it is derived. Williams 1992."""
    whole = torch.ones_like(lengths, dtype=torch.float64)
    return whole, whole


Denominator = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
SCALES = ("group", "batch", "none")
ADVANTAGE = {"group": group_relative, "rloo": rloo, "batch": batch_baseline}
DENOMINATORS: dict[str, Denominator] = {"grpo": by_answer, "bnpo": by_group, "dapo": by_token, "dr_grpo": by_budget,
                                        "sum": by_sum}
