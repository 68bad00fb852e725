"""An average of the weights over the steps of training, often better than the last ones, above all at a constant rate.

    a <- d a + (1 - d) w,      d = min(decay, (1 + s) / (10 + s))   at step s

(Polyak & Juditsky 1992).  The average begins short and grows long, so that the first weights are soon forgotten.  It
follows from the weights and the step alone: a checkpoint needs its tensors and nothing else.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bloomery.core.errors import InputError
from bloomery.train.optim import own
from bloomery.train.state import Report, State


class Ema:
    """The average of a model's trainable weights; as a hook it takes in the weights after every step."""

    def __init__(self, model: nn.Module, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.weights.items()}

    def __call__(self, state: State, report: Report) -> None:
        self.update(state.step)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average, weights = ([own(t) for t in part.values()] for part in (self.average, self.weights))
        torch._foreach_lerp_(average, weights, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average for weights inside, to be validated or exported, and its own again after."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Swap the model's weights and the average."""
        for name, weight in self.weights.items():
            held = weight.detach().clone()
            weight.copy_(self.average[name])
            self.average[name].copy_(held)

    def tensors(self) -> dict[str, Tensor]:
        """The average by parameter name, for a checkpoint."""
        return dict(self.average)

    @torch.no_grad()
    def restore(self, saved: dict[str, Tensor]) -> None:
        """Put a saved average back by name; `InputError` lists what does not match."""
        missing, extra = sorted(self.average.keys() - saved), sorted(saved.keys() - self.average)
        if missing or extra:
            raise InputError("the averaged weights do not fit the model",
                             why=f"missing {missing[:5]}, unexpected {extra[:5]}")
        for name, tensor in self.average.items():
            tensor.copy_(saved[name])
