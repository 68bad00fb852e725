"""Everything a training run is at one moment: weights, optimizer, how far it has come. Nothing else is remembered."""

from dataclasses import dataclass, field

import torch

from bloomery.model.transformer import Transformer
from bloomery.train.optim import OptimizerConfig, optimizers
from bloomery.train.schedule import warmup_cosine


@dataclass
class State:
    model: Transformer
    optimizers: list[torch.optim.Optimizer]
    settings: OptimizerConfig
    steps: int                      # steps of the whole run, which the schedule needs
    step: int = 0                   # optimizer steps done
    tokens: int = 0                 # tokens read so far
    best: dict[str, float] = field(default_factory=dict)       # what hooks must not forget over a resume

    def learning_rate(self) -> float:
        warmup = min(round(self.settings.warmup * self.steps), self.steps - 1)
        return warmup_cosine(self.step, peak=self.settings.lr, warmup=warmup, total=self.steps,
                             floor=self.settings.floor)


def fresh(model: Transformer, settings: OptimizerConfig, *, steps: int) -> State:
    """A run that has not begun."""
    return State(model, optimizers(model, settings), settings, steps)


@dataclass(frozen=True)
class Report:
    """One step as hooks see it: the averaged metrics, the norm before clipping, the rate used, tokens and seconds."""

    metrics: dict[str, float]
    grad_norm: float
    learning_rate: float
    tokens: int
    seconds: float
