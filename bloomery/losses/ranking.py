"""Ranking losses: what an order of answers says about their scores.

A score r is a reward up to a constant: only differences count.  Of two answers the better one wins with probability
sigmoid(r_w - r_l) (Bradley & Terry 1952); of K the whole order has the probability

    prod_k  exp(r_k) / sum_(j >= k) exp(r_j)             best first (Plackett 1975; Luce 1959)

or each of its pairs is taken for itself, as InstructGPT does (Ouyang et al. 2022, eq. 1): a prompt is one element of a
batch however many pairs it has, so that no answer is seen more often than another.  Equal ranks are ties.
"""

from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

TIED = 7                        # answers tied at most before worse ones: 7! orders are summed


def bradley_terry(r_w: Tensor, r_l: Tensor, *, margin: Tensor | float = 0.0, share: Tensor | float = 1.0) -> Tensor:
    """How surprising it is that w was preferred, (P,) nats from two (P,) scores.

    `margin` >= 0 is what the scores should differ by at least (Touvron et al. 2023, eq. 2); `share` the share of votes
    for w, 1/2 being a tie: the cross-entropy with that soft label.
    """
    z = r_w - r_l - margin                                                               # (P,)
    return -share * logsigmoid(z) - (1 - share) * logsigmoid(-z)


def centring(r_w: Tensor, r_l: Tensor) -> Tensor:
    """(r_w + r_l)^2: holds scores near mean 0, which their differences leave open. Eisenstein et al. 2023."""
    return (r_w + r_l) ** 2


def ordered_pairs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """(better, worse) for every two answers of different rank, 1 being best; equal ranks give no pair."""
    return [(i, j) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]]


def all_pairs(scores: Tensor, ranks: Sequence[int]) -> Tensor:
    """The mean of `bradley_terry` over the ordered pairs of one prompt's answers, from scores (K,)."""
    pairs = torch.tensor(told(scores, ranks))
    return bradley_terry(scores[pairs[:, 0]], scores[pairs[:, 1]]).mean()


def plackett_luce(scores: Tensor, ranks: Sequence[int]) -> Tensor:
    """-log of the probability of an order, from scores (K,).

    An order that ties leave open counts as all the orders it may be; what is tied for the last place says nothing.
    """
    told(scores, ranks)
    levels = [[i for i, rank in enumerate(ranks) if rank == level] for level in sorted(set(ranks))]
    loss = scores.new_zeros(())
    for place, level in enumerate(levels[:-1]):
        if len(level) > TIED:
            raise ValueError(f"{len(level)} answers are tied before worse ones, plackett_luce sums over {TIED} at most")
        behind = scores[[i for later in levels[place + 1:] for i in later]].logsumexp(0)
        orders = scores[torch.tensor(list(permutations(level)))]                         # (orders, tied)
        among = torch.cat([orders, behind.expand(len(orders), 1)], 1).flip(1).logcumsumexp(1).flip(1)[:, :-1]
        loss = loss - (orders - among).sum(1).logsumexp(0)
    return loss


def told(scores: Tensor, ranks: Sequence[int]) -> list[tuple[int, int]]:
    """The ordered pairs of ranks that fit the scores; `ValueError` where they do not, or tell nothing."""
    if scores.shape != (len(ranks),):
        raise ValueError(f"scores {tuple(scores.shape)} of {len(ranks)} ranked answers")
    if not (pairs := ordered_pairs(ranks)):
        raise ValueError(f"ranks {list(ranks)} order nothing: two answers of different rank are needed")
    return pairs


RANKING = {"all_pairs": all_pairs, "plackett_luce": plackett_luce}
