"""A batch is a forest of token runs: tokens lie flat, nothing is padded, and the loss's normalisation is data.

`weights` say which positions are trained and how much, `count` what the summed loss is divided by.  GRPO's and SFT's
denominators are values here, not branches in the loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch
from torch import Tensor, nn

from bloomery.model.forest import Segments, roots


@dataclass(frozen=True)
class Batch:
    ids: Tensor             # (N,) int64
    targets: Tensor         # (N,) int64  the token each position should predict
    weights: Tensor         # (N,) float32  0 = not trained
    positions: Tensor       # (N,) int64  position along its own path (prefix + run), what RoPE sees
    segments: Segments
    count: float            # what the summed loss is divided by, before the sum over micro-batches and ranks
    types: Tensor | None = field(default=None, kw_only=True)    # (N,) int64  of an encoder that has them; None: all 0

    def to(self, device: torch.device) -> Self:
        """The batch there, but for `segments`, which Python reads. From pinned memory nobody waits for the copy."""
        if self.ids.device == device:
            return self
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: x.to(device) if isinstance(x, Batch) else
                                x.to(device, non_blocking=device.type == "cuda")
                                for name, x in own.items() if isinstance(x, Tensor | Batch)})

    def beside(self, model: nn.Module) -> Self:
        """The batch where the weights of a model are."""
        return self.to(next(model.parameters()).device)


@dataclass(frozen=True)
class Run:
    """One run of tokens: position t reads ids[t] and should predict targets[t], weighted by weights[t]."""

    ids: Sequence[int]
    targets: Sequence[int]
    weights: Sequence[float]
    parent: int = -1        # index of the run it continues, -1 for a root


def sequence(tokens: list[int], weights: Sequence[float]) -> Run:
    """A whole sequence as one root: token t predicts token t + 1, with that next token's weight."""
    return Run(tokens[:-1], tokens[1:], [float(w) for w in weights[1:]])


def forest(runs: list[Run], *, count: float | None = None) -> Batch:
    """Lay runs end to end. `count` defaults to the sum of weights; `ValueError` when nothing is trained."""
    segments = roots([len(run.ids) for run in runs])
    parents = torch.tensor([run.parent for run in runs], dtype=torch.int32)
    offsets: list[int] = []                                     # path length before each run
    for run in runs:
        offsets.append(offsets[run.parent] + len(runs[run.parent].ids) if run.parent >= 0 else 0)
    weights = torch.tensor([w for run in runs for w in run.weights], dtype=torch.float32)
    if not bool((weights != 0).any()):
        raise ValueError("no target tokens: every weight is 0")
    return Batch(
        ids=torch.tensor([i for run in runs for i in run.ids]),
        targets=torch.tensor([t for run in runs for t in run.targets]),
        weights=weights,
        positions=torch.cat([torch.arange(o, o + len(run.ids)) for o, run in zip(offsets, runs, strict=True)]),
        segments=Segments(segments.start, parents),
        count=float(weights.sum()) if count is None else count)


def rectangle(rows: Tensor, *, offset: int = 0) -> Batch:
    """Rows (B, T+1) of token ids as B roots of T tokens, every position trained."""
    ids, targets = rows[:, :-1].flatten(), rows[:, 1:].flatten()
    count, width = len(rows), rows.shape[1] - 1
    return Batch(ids, targets, torch.ones(len(ids)), torch.arange(offset, offset + width).repeat(count),
                 roots([width] * count), float(len(ids)))
