"""Contrastive loss: of all texts of a batch, which one belongs to this one?

    -log  exp(s_ii / tau) / sum_j exp(s_ij / tau),      s_ij = cosine of query i and passage j, tau the temperature

InfoNCE with the other passages of the batch as negatives (van den Oord et al. 2018, eq. 4; Henderson et al. 2017,
section 4.2; Karpukhin et al. 2020, section 3.2).  A passage that is right too is no negative, so it is left out of the
sum.  Left out: queues of negatives from earlier batches, which go stale.
"""

import torch
from torch import Tensor


def in_batch(cosines: Tensor, right: Tensor, *, temperature: float = 0.05, known: Tensor | None = None) -> Tensor:
    """(Q,) nats from cosines (Q, P) and the right passage of each query (Q,).

    `known` (Q, P) says what else is right.  Raises `ValueError` for a temperature that is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    scores = cosines / temperature
    own = scores.gather(1, right[:, None])                                               # (Q, 1)
    if known is not None:
        others = known.scatter(1, right[:, None], False)
        scores = scores.masked_fill(others, -torch.inf)
    return scores.logsumexp(1) - own[:, 0]
