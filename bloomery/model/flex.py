"""Attention on a forest for GPUs: FlexAttention (Dong et al. 2024), one kernel whose mask is a function of two tokens.

Token i sees token j when j's run is i's own or one it continues, j stands no later on its path (or in a run that sees
all of itself), and the window reaches it.  Runs are numbered depth first, so that a run and all that continues it are
the numbers from `enter` to `leave`: the first condition is enter[j] <= enter[i] < leave[j], two comparisons.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import pad

from bloomery.model.dot_product import Scoring

TILE = 128              # tokens are rounded up to a multiple of this, so that few lengths are compiled


@dataclass(frozen=True)
class Paths:
    """Per token, (N,) int64: its run's number, the first number behind all that continue it, its place on its path."""

    enter: Tensor
    leave: Tensor
    position: Tensor
    ahead: Tensor | None    # the last place that a token sees, where that is not its own

    def rounded(self, device: torch.device) -> "Paths":
        """On a device, with a root of its own at the end that fills the last tile."""
        extra, last = -len(self.enter) % TILE, int(self.leave.max())
        return Paths(pad(self.enter, (0, extra), value=last).to(device),
                     pad(self.leave, (0, extra), value=last + 1).to(device),
                     torch.cat([self.position, torch.arange(extra)]).to(device),
                     None if self.ahead is None else torch.cat([self.ahead, torch.arange(extra)]).to(device))


def mask_of(paths: Paths, window: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """FlexAttention's `mask_mod`: does token i see token j?"""
    enter, leave, position = paths.enter, paths.leave, paths.position
    last = position if paths.ahead is None else paths.ahead

    def sees(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = (enter[j] <= enter[i]) & (enter[i] < leave[j]) & (position[j] <= last[i])
        if window is None:
            return seen
        away = position[i] - position[j]
        return seen & ((away if paths.ahead is None else away.abs()) < window)

    return sees


def block_mask(paths: Paths, window: int | None, device: torch.device) -> BlockMask:
    """Which tiles of the (N, N) scores are seen at all, made once for all layers with one window."""
    paths = paths.rounded(device)
    length = len(paths.enter)
    make = compiled(create_block_mask) if device.type == "cuda" else create_block_mask
    return make(mask_of(paths, window), None, None, length, length, device=device)


def flex(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask, scoring: Scoring) -> Tensor:
    """q (N, H, E), k and v (N, K, E) -> (N, H, E)."""
    cap = scoring.softcap

    def capped(score: Tensor, batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    extra = mask.seq_lengths[0] - len(q)
    rows = [pad(x, (0, 0, 0, 0, 0, extra)).transpose(0, 1)[None] for x in (q, k, v)]     # (1, heads, N, E)
    attend = compiled(flex_attention) if q.is_cuda else flex_attention
    out = attend(*rows, score_mod=None if cap is None else capped, block_mask=mask, scale=scoring.scale,
                 enable_gqa=q.shape[1] != k.shape[1])
    return out[0].transpose(0, 1)[:len(q)]


@cache
def compiled(function: Callable) -> Callable:
    """Compiled once a process; without it FlexAttention computes every score."""
    return torch.compile(function)
