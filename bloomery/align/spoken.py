"""How likely drawn tokens are, as training sees them: under the distribution they were drawn from.

    log pi(y_t) = log softmax(logits_t / temperature)[y_t],      over what top-k and top-p leave, where they cut

A ratio of two policies means something only if both are read alike, so temperature, and cuts where they are trained
with, belong to the policy.  Of cuts the drawn token is always among what is left, also once the policy has moved.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bloomery.data.batch import Batch
from bloomery.data.likelihood import trained
from bloomery.generate.sampling import AS_IS, Sampling, filtered
from bloomery.losses.parallel_ce import linear_logp
from bloomery.model.forest import Forest
from bloomery.model.token_rows import learned_rows
from bloomery.model.transformer import Transformer


@dataclass(frozen=True)
class Spoken:
    """The trained positions of a batch: where they are (M,), log p of each token (M,), the states before them (M, D).

    `spread` is log p of every token there, (M, V), where somebody needs it.
    """

    rows: Tensor
    logp: Tensor
    hidden: Tensor
    spread: Tensor | None = None


def spoken(model: Transformer, batch: Batch, how: Sampling = AS_IS, *, whole: bool = False) -> Spoken:
    """Log-probabilities of a batch's targets as `how` draws them; `whole` distributions cost (M, V) numbers."""
    hidden = model(batch.ids, batch.positions, Forest(batch.segments))
    rows, count = trained(batch)
    states, targets = hidden[rows], batch.targets[rows]
    if whole or cuts(how):
        spread = distribution(model.logits(states), how, targets)[:count]                # (M, V)
        logp = spread.gather(-1, targets[:count, None])[:, 0]
        return Spoken(rows[:count], logp, states[:count], spread)
    weight, learned = learned_rows(model.head)
    cap, heat = model.config.head_softcap, how.temperature
    logp = linear_logp(states if heat == 1 else states / heat, weight, targets, learned=learned,
                       shadow=model.head.compute_weight(hidden.dtype), softcap=cap and cap / heat)
    return Spoken(rows[:count], logp[:count], states[:count])


def distribution(logits: Tensor, how: Sampling, targets: Tensor) -> Tensor:
    """log p of every token (M, V); what is cut is -inf, `targets` (M,) never are."""
    if not cuts(how):
        return (logits / how.temperature).log_softmax(-1)
    left = (filtered(logits.detach(), how) > -torch.inf).scatter_(-1, targets[:, None], True)
    return (logits / how.temperature).masked_fill(~left, -torch.inf).log_softmax(-1)


def cuts(how: Sampling) -> bool:
    """Whether a sampler leaves tokens out."""
    return bool(how.top_k) or how.top_p < 1 or how.min_p > 0 or how.typical_p < 1

