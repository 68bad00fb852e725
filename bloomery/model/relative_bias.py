"""Relative position bias: what is added to a score depends on how far a key is from its query, and on the head.

    score_hij = q_hi . k_hj + b_h[bucket(j - i)]                   Raffel et al. 2020, section 2.1

Half of the buckets are exact distances, the rest grow logarithmically up to `furthest`, beyond which all are one.  An
encoder splits its buckets between keys before and behind; a decoder sees none behind.  One table serves all layers of a
stack, so the biases of a batch are made once: what knows them is the memory (`attention.py`), and the layer does not.
"""

import math
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from bloomery.model.cache import Cache
from bloomery.model.config import ModelConfig
from bloomery.model.dot_product import PLAIN, Scoring
from bloomery.model.forest import Segments, padded, width


def bucket(distance: Tensor, *, buckets: int, furthest: int, both: bool) -> Tensor:
    """The bucket of each distance j - i, int64; `both` tells keys behind the query from those before it.

    The logarithm is taken in fp32, as in the code that checkpoints were trained with.
    """
    first = torch.zeros_like(distance)
    if both:
        buckets //= 2
        first, distance = (distance > 0) * buckets, distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    steps = torch.log(distance.clamp(min=1).float() / exact) / math.log(furthest / exact) * (buckets - exact)
    return first + torch.where(distance < exact, distance, (exact + steps.long()).clamp(max=buckets - 1))


class RelativeBias(nn.Module):
    """The table of one stack, (buckets, H)."""

    def __init__(self, heads: int, *, buckets: int, furthest: int, both: bool):
        super().__init__()
        self.weight, self.furthest, self.both = nn.Parameter(torch.zeros(buckets, heads)), furthest, both

    def forward(self, distance: Tensor) -> Tensor:
        """Biases (H, ...) of distances j - i (...)."""
        found = bucket(distance, buckets=len(self.weight), furthest=self.furthest, both=self.both)
        return self.weight[found].movedim(-1, 0)


class BiasedForest:
    """Attention inside a batch of separate runs with a bias; runs of similar length are rows of one product."""

    def __init__(self, segments: Segments, bias: RelativeBias):
        self.segments, self.bias = segments, bias

    @cached_property
    def groups(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of every group of runs: flat indices (B, T), which are real, what is added to scores (B or 1, H, T, T)."""
        by_width: dict[int, list[Tensor]] = {}
        device = self.bias.weight.device
        for first, end in self.segments.runs:
            by_width.setdefault(width(end - first), []).append(torch.arange(first, end))
        found = []
        for runs in by_width.values():
            rows = padded(runs, 1)
            index, real = rows.index.to(device), rows.real.to(device)
            place = torch.arange(index.shape[1], device=device)
            added = self.bias(place - place[:, None])[None]                              # (1, H, T, T)
            if self.segments.causal:                            # padding stands behind: no real query sees it
                added = added.masked_fill(place > place[:, None], -torch.inf)
            elif not real.all():
                added = added.masked_fill(~real[:, None, None], -torch.inf)
            found.append((index, real, added))
        return found

    @cached_property
    def back(self) -> Tensor:
        """Where each flat token stands among those of all groups, (N,)."""
        return torch.cat([index[real] for index, real, _ in self.groups]).argsort()

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring = PLAIN) -> Tensor:
        parts = []
        for index, real, added in self.groups:
            rows = (x[index].transpose(1, 2) for x in (q, k, v))                         # (B, heads, T, E)
            seen = scaled_dot_product_attention(*rows, attn_mask=added.to(q.dtype), scale=scoring.scale,
                                                enable_gqa=q.shape[1] != k.shape[1])
            parts.append(seen.transpose(1, 2)[real])
        return torch.cat(parts)[self.back]


class BiasedCache(Cache):
    """A cache whose scores have a bias; its mask is (B, H, T, S)."""

    def __init__(self, config: ModelConfig, slots: int, capacity: int, bias: RelativeBias, *,
                 dtype: torch.dtype = torch.float32):
        super().__init__(config, slots, capacity, dtype=dtype)
        self.bias, self.kernel = bias, None                     # the kernel knows no bias

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        if window not in self._masks:
            self._masks[window] = super()._mask(window, dtype) + self.bias(-self._back[:, 0]).transpose(0, 1).to(dtype)
        return self._masks[window]
