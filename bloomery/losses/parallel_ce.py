"""The head of `linear_ce.py` when its rows, the vocabulary, may be split over processes.

    lse_t = logsumexp_r(lse_t of rank r),     p_tv = softmax_v(logits of rank r) exp(lse_tr - lse_t)

Shoeybi et al. 2019, section 3: each rank makes the logits of its own slice, four figures a row go round, and the
gradient of the hidden states is summed.  No rank ever has the logits of the whole vocabulary.

A split weight is a DTensor, known by its mesh: to import that engine takes half a second, and one process needs none.
"""

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from bloomery.losses import linear_ce
from bloomery.losses.linear_ce import FusedHead, HeadRows, HeadTerms, Kernel, RowsHead, softmax_


class SplitHead(FusedHead):
    """`FusedHead` of one slice of the vocabulary; targets count from its first row and may lie in another slice."""

    def __init__(self, hidden: Tensor, shadow: Tensor, targets: Tensor, weights: Tensor | None, terms: HeadTerms, *,
                 group: dist.ProcessGroup, vocabulary: int):
        super().__init__(hidden, shadow, targets, weights, terms)
        self.group, self.vocabulary = group, vocabulary

    def run(self, d_hidden: Tensor | None, d_weight: Tensor | None) -> HeadRows:
        rows = super().run(d_hidden, d_weight)
        if d_hidden is not None:
            dist.all_reduce(d_hidden, group=self.group)
        return rows

    def visit(self, part: slice, product: Tensor, *, differentiate: bool) -> None:
        scores, slope = self.logits(part, self.shadow, product)
        targets, columns = self.targets[part], len(self.shadow)
        here = (targets >= 0) & (targets < columns)
        own = self.lse.new_zeros(5, len(targets))
        own[0] = torch.where(here, scores.gather(-1, targets.clamp(0, columns - 1)[:, None])[:, 0], 0.0)
        own[1] = scores.sum(-1) / self.vocabulary
        own[2], own[3] = softmax_(scores)
        if self.terms.entropy:
            own[4] = torch.special.entr(scores).sum(-1)
        every = [torch.empty_like(own) for _ in range(self.group.size())]
        dist.all_gather(every, own, group=self.group)
        picked, mean, top, lse, entropy = torch.stack(every, 1)                          # (ranks, block) each
        self.picked[part], self.mean[part] = picked.sum(0), mean.sum(0)
        self.top[part], self.lse[part] = top.amax(0), lse.logsumexp(0)
        if self.terms.entropy:                                  # of a mixture of disjoint parts
            away = lse - self.lse[part]
            self.entropy[part] = (away.exp() * (entropy - away)).sum(0)
        if differentiate:
            share = (own[3] - self.lse[part]).exp()                              # probability of this slice together
            product.copy_(self.gradient_(scores, slope, part, targets, share))


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, *,
                         shadow: Tensor | None = None, learned: Tensor | None = None,
                         **terms: float | None) -> tuple[Tensor, HeadRows]:
    """As in `linear_ce.py`; `weight` may be split by rows, or be some rows of `shadow` alone: those in `learned`."""
    if not hasattr(weight, "device_mesh"):
        return linear_ce.linear_cross_entropy(hidden, weight, targets, weights, shadow=shadow, kernel=whole(learned),
                                              **terms)
    slice_, targets, kernel = split(weight, targets)
    return linear_ce.linear_cross_entropy(hidden, slice_, targets, weights, kernel=kernel, **terms)


def linear_logp(hidden: Tensor, weight: Tensor, targets: Tensor, *, shadow: Tensor | None = None,
                learned: Tensor | None = None, softcap: float | None = None) -> Tensor:
    """As in `linear_ce.py`; `weight` may be split by rows, or be some rows of `shadow` alone: those in `learned`."""
    if not hasattr(weight, "device_mesh"):
        return linear_ce.linear_logp(hidden, weight, targets, shadow=shadow, softcap=softcap, kernel=whole(learned))
    slice_, targets, kernel = split(weight, targets)
    return linear_ce.linear_logp(hidden, slice_, targets, softcap=softcap, kernel=kernel)


def whole(learned: Tensor | None) -> Kernel:
    """The kernel of a head on one process, of which all rows may learn or only these."""
    return FusedHead if learned is None else partial(RowsHead, learned=learned)


def split(weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, partial]:
    """This rank's rows of a split head, the targets as they count from its first row, and the kernel for both."""
    if len(weight.placements) != 1 or not weight.placements[0].is_shard(0):
        raise ValueError(f"a head must be split by rows over one group, not {weight.placements}")
    slice_, mesh = weight.to_local(), weight.device_mesh
    if len(slice_) * mesh.size() != len(weight):
        raise ValueError(f"{len(weight)} rows cannot be split evenly over {mesh.size()} ranks")
    kernel = partial(SplitHead, group=mesh.get_group(), vocabulary=len(weight))
    return slice_, targets - mesh.get_local_rank() * len(slice_), kernel
