"""The task a classifier learned before the one it learns now: how much of it is forgotten, and EWC against that.

    task + lambda/2 sum_i F_i (theta_i - theta*_i)^2,     F_i = 1/B sum_x (d/d theta_i log p(y|x))^2,   y ~ p(.|x)

over the weights of the trunk, which both tasks share, theta* being those it comes with; each task has its own head
(Kirkpatrick et al. 2017, eq. 3 and section 4.1).  B rows of the old task, one at a time, labels drawn from the model.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from bloomery.core.config import Input, Settings
from bloomery.core.errors import ConfigError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import progress
from bloomery.core.records import unit_hash
from bloomery.finetune.inputs import Input as Encoded
from bloomery.finetune.inputs import forest_of
from bloomery.finetune.labelled import read, renamed
from bloomery.finetune.objectives import scores_of
from bloomery.finetune.predictions import open_judge, scored
from bloomery.losses.retention import add_squares, ewc
from bloomery.model.headed import Headed
from bloomery.train.objective import Metrics
from bloomery.train.state import State


class BeforeConfig(Settings):
    """The task that `model` was trained on before."""

    data: Input = Field(description="rows of it: half of them say what matters to it, the others what is forgotten")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ")
    labels: dict[str, str] = Field({}, description="their label = its name, as it was then")
    ewc: float = Field(0.0, ge=0, description="lambda: how dear the old task is; 0 only measures")
    examples: int = Field(256, gt=0, description="rows to measure the Fisher information on, and as many to tell by")


class Before:
    """Measures the old task with the trunk that is being trained, and is a `State.penalty` where lambda is not 0."""

    def __init__(self, config: BeforeConfig, folder: Path, quarantine: Quarantine):
        judge = open_judge(folder, precision="fp32")
        if judge.encoder.task != "single":
            raise ConfigError("what is kept is a classifier with one label of several", where="classify.before",
                              why=f"{folder} is for {judge.encoder.task}")
        found = [renamed(row, config.labels) for row in read(config.data, config.columns, quarantine)]
        rows = sorted(found, key=lambda row: unit_hash(row.id, "before"))[:2 * config.examples]
        if strange := sorted({str(row.label) for row in rows} - set(judge.encoder.names)):
            raise ConfigError("a label that the model did not learn", where="classify.before.labels",
                              why=", ".join(strange), hint=f"it knows {', '.join(judge.encoder.names)}")
        inputs = [judge.encoder(row)[0] for row in rows]
        self.model, self.weight, self.measured = judge.model, config.ewc, inputs[1::2]
        trunk = self.model.trunk
        self.anchor = {name: p.detach().clone() for name, p in trunk.named_parameters()}
        self.fisher = diagonal(self.model, inputs[::2]) if config.ewc else {}

    def measure(self, model: Headed) -> Metrics:
        """`before_accuracy`: the old head on the trunk as it is now."""
        self.model.trunk = model.trunk
        self.model.to(model.score.weight.device)
        scores = scored(self.model, self.measured)
        right = [int(own.argmax()) == one.truth for own, one in zip(scores, self.measured, strict=True)]
        return {"before_accuracy": float(np.mean(right))}

    def __call__(self, state: State) -> Metrics:
        total = 0.0
        with torch.no_grad():
            for name, p in state.model.trunk.named_parameters():
                value, pull = ewc(p, self.anchor[name].to(p.device), self.fisher[name].to(p.device))
                p.grad = self.weight * pull if p.grad is None else p.grad.add_(pull, alpha=self.weight)
                total += float(value)
        return {"ewc": self.weight * total}


def diagonal(model: Headed, inputs: Sequence[Encoded], *, seed: int = 0) -> dict[str, Tensor]:
    """The diagonal of the Fisher information a row, of the trunk's parameters by name."""
    parameters, draws = dict(model.trunk.named_parameters()), torch.Generator().manual_seed(seed)
    fisher = {name: torch.zeros_like(p) for name, p in parameters.items()}
    model.eval()
    for one in progress(inputs, name="rows of the task before", total=len(inputs)):
        batch = forest_of([one], causal=model.config.causal, typed=model.config.types > 0).beside(model)
        logp = scores_of(model, batch, model.states(batch.ids, batch.segments, batch.types))[0].log_softmax(-1)  # (C,)
        drawn = torch.multinomial(logp.detach().exp().cpu(), 1, generator=draws)
        add_squares([*fisher.values()], [*torch.autograd.grad(logp[drawn].sum(), [*parameters.values()],
                                                              materialize_grads=True)], 1 / len(inputs))
    return fisher
