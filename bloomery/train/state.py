"""Everything a training run is at one moment: weights, optimizer, how far it has come. Nothing else is remembered."""

from dataclasses import dataclass, field
from typing import Protocol

import torch

from bloomery.model.transformer import Transformer
from bloomery.train.guard import Guard
from bloomery.train.optim import OptimizerConfig
from bloomery.train.parallel import Sharded
from bloomery.train.replicas import Replicated
from bloomery.train.schedule import rate
from bloomery.train.team import Team


class Penalty(Protocol):
    """What depends on the weights alone: adds its gradient to `.grad` of a step, once, whatever its micro-batches."""

    def __call__(self, state: "State") -> dict[str, float]: ...


@dataclass
class State:
    model: Transformer
    optimizers: list[torch.optim.Optimizer]
    settings: OptimizerConfig
    steps: int                      # steps of the whole run, which the schedule needs
    step: int = 0                   # optimizer steps done
    tokens: int = 0                 # tokens read so far
    best: dict[str, float] = field(default_factory=dict)       # what hooks must not forget over a resume
    guard: Guard = field(default_factory=Guard)                 # which steps are refused
    penalty: Penalty | None = None  # a function of the weights that is minimised beside the objective
    ranks: Replicated | Sharded = field(kw_only=True)           # how processes share a step

    @property
    def team(self) -> Team:
        return self.ranks.team

    def learning_rate(self) -> float:
        return rate(self.settings, self.step, self.steps)


def fresh(model: Transformer, settings: OptimizerConfig, *, steps: int,
          ranks: Replicated | Sharded | None = None) -> State:
    """A run that has not begun, by this process alone or by `ranks`."""
    ranks = ranks or Replicated(model)
    return State(model, ranks.optimizers(settings), settings, steps, ranks=ranks)


@dataclass(frozen=True)
class Report:
    """One step as hooks see it: the averaged metrics, the norm before clipping, the rate used, tokens and seconds."""

    metrics: dict[str, float]
    grad_norm: float
    learning_rate: float
    tokens: int
    seconds: float
    refused: str | None = None      # why this step was not taken
