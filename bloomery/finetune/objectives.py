"""What a task minimises: the states that are read, the scores they get, and a loss an example (`losses/`)."""

from collections.abc import Callable

import torch
from torch import Tensor

from bloomery.finetune.auxiliary import language_loss
from bloomery.finetune.inputs import TaskForest
from bloomery.losses.classification import any_of, one_of, one_of_group, squared
from bloomery.losses.retention import gpt1
from bloomery.losses.token import IGNORE
from bloomery.model.headed import Headed, pooled
from bloomery.train.objective import Metrics, Objective


def scores_of(model: Headed, batch: TaskForest, hidden: Tensor) -> Tensor:
    """Scores of every run that is read (M, C); of two runs of one example, of the sum of their states (B, C)."""
    states = pooled(hidden, batch.segments, model.shape.pooling)[batch.reads]
    if model.shape.task == "choice" or len(batch.each) == len(batch.owner):
        return model.read(states)
    return model.read(states.new_zeros(len(batch.each), states.shape[1]).index_add(0, batch.owner, states))


def single(model: Headed, batch: TaskForest, hidden: Tensor) -> tuple[Tensor, Tensor]:
    scores = scores_of(model, batch, hidden)
    return one_of(scores, batch.truths), scores.argmax(-1) == batch.truths


def multi(model: Headed, batch: TaskForest, hidden: Tensor) -> tuple[Tensor, Tensor]:
    scores = scores_of(model, batch, hidden)
    return any_of(scores, batch.truths), ((scores > 0) == (batch.truths > 0.5)).all(-1)


def regression(model: Headed, batch: TaskForest, hidden: Tensor) -> tuple[Tensor, Tensor]:
    losses = squared(scores_of(model, batch, hidden), batch.truths)
    return losses, torch.zeros_like(losses)


def choice(model: Headed, batch: TaskForest, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the answers to a question: Radford et al. 2018, section 3.3."""
    scores, owner = scores_of(model, batch, hidden)[:, 0], batch.owner
    first = torch.searchsorted(owner, torch.arange(len(batch.each), device=hidden.device))
    losses = one_of_group(scores, owner, first + batch.truths)
    best = scores.new_full((len(batch.each),), -torch.inf).scatter_reduce(0, owner, scores, "amax")
    return losses, scores[first + batch.truths] >= best


def tagging(model: Headed, batch: TaskForest, hidden: Tensor) -> tuple[Tensor, Tensor]:
    truths, asked = batch.truths, batch.truths != IGNORE
    scores, losses = model.read(hidden[asked]), hidden.new_zeros(len(truths), dtype=torch.float32)
    right = torch.zeros_like(asked)
    right[asked] = scores.argmax(-1) == truths[asked]
    return losses.to(scores.dtype).masked_scatter(asked, one_of(scores, truths[asked])), right


def objective(task: str, *, auxiliary: float = 0.0) -> Objective:
    """The task's loss summed over examples by their weight, and `auxiliary` times the language model's beside it."""
    def loss(model: Headed, batch: TaskForest) -> tuple[Tensor, Metrics]:
        hidden = model.states(batch.ids, batch.segments, batch.types)
        losses, right = TASKS[task](model, batch, hidden)
        each = batch.each.to(losses)
        own = (losses * each).sum()
        told = {"accuracy": float((right * each).sum())} if task != "regression" else {}
        if not auxiliary or not batch.scale:
            return own, {"loss": float(own.detach()), **told}
        language = language_loss(model, batch, hidden)
        total = gpt1(own, language, weight=auxiliary)
        return total, {"loss": float(total.detach()), "task_loss": float(own.detach()),
                       "lm_loss": float(language.detach()), **told}

    return loss


TASKS: dict[str, Callable[[Headed, TaskForest, Tensor], tuple[Tensor, Tensor]]] = {
    "single": single, "multi": multi, "regression": regression, "choice": choice, "tagging": tagging}
