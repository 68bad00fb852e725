"""Every rank holds all weights: the gradient of a step is a sum with a fixed shape, whoever adds it.

    g = (g_1 + g_2) + (g_3 + g_4),   with 2^k ranks:   each adds a node of this tree, pairs of ranks add the rest

Floating-point addition is not associative, so left to right would give other bits for every number of ranks.  Halves
first give the same: a run may be stopped on one process and go on with two.  One or two micro-batches a rank need no
memory beyond `.grad`, M need log2(M) - 1 more copies.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from bloomery.train.optim import OptimizerConfig, clip_gradients, optimizers
from bloomery.train.team import Team

T = TypeVar("T")


class Replicated:
    """How the ranks of a team share a step when each holds the whole model."""

    def __init__(self, model: nn.Module, team: Team | None = None):
        self.team, self.held = team or Team(), model            # `held` is what the optimizers of this rank change
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def optimizers(self, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
        return optimizers(self.held, config)

    def share(self, count: int) -> range:
        """The micro-batches of a step that are this rank's."""
        return self.team.share(count)

    def collect(self, own: list[T]) -> list[T]:
        """What ranks have to say about their micro-batches, in the order of the micro-batches."""
        return [each for told in self.team.gather(own) for each in told]

    def backward(self, share: range, one: Callable[..., None], count: int) -> None:
        """Leave the step's gradient in `.grad`; `one(i)` runs micro-batch i of `count` forward and backward."""
        self._tree(share, one)
        if self.team.size == 1:
            return
        flags = self.team.gather([p.grad is not None for p in self.parameters])
        used = [p for p, *told in zip(self.parameters, *flags, strict=True) if any(told)]
        for p in used:
            if p.grad is None:
                p.grad = torch.full_like(p, -0.0)               # x + -0.0 is x, also for x = -0.0
        self.team.add([p.grad for p in used])

    def _tree(self, share: range, one: Callable[..., None]) -> None:
        if len(share) <= 2:
            for i in share:
                one(i)
            return
        middle = (len(share) + 1) // 2
        self._tree(share[:middle], one)
        held = {p: p.grad for p in self.parameters if p.grad is not None}
        for p in held:
            p.grad = None
        self._tree(share[middle:], one)
        for p, gradient in held.items():
            p.grad = gradient if p.grad is None else p.grad.add_(gradient)

    def clip(self, limit: float | None) -> float:
        """Scale the gradient down to `limit`; its norm before."""
        return clip_gradients(self.parameters, limit)
