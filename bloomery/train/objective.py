"""What is minimised: an objective takes the model and a batch and returns a sum, and the batch says what divides it.

    objective(model, batch) -> (sum of the loss, metrics)

Metrics are sums too; the loop adds them over micro-batches and divides them once, by the same count as the loss.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bloomery.data.batch import Batch
from bloomery.data.likelihood import trained
from bloomery.data.tasks import TaskBatch
from bloomery.losses.linear_ce import with_bias
from bloomery.losses.parallel_ce import linear_cross_entropy
from bloomery.model.forest import Forest
from bloomery.model.token_rows import learned_rows
from bloomery.model.transformer import Transformer

Metrics = dict[str, float]
Objective = Callable[[Transformer, Batch], tuple[Tensor, Metrics]]
Term = Callable[[Transformer, Batch, Tensor, Tensor], tuple[Tensor, Metrics]]       # hidden states (M, D) at rows (M,)


def causal_lm(model: Transformer, batch: Batch, *, label_smoothing: float = 0.0,
              z_loss: float = 0.0, entropy: bool = False, terms: tuple[Term, ...] = ()) -> tuple[Tensor, Metrics]:
    """Sum over positions of weight times -log p(target). Pretraining and fine-tuning differ in their weights only.

    The metric `loss` is -log p without label smoothing and z-loss, so that runs with and without them compare.
    `entropy` is told where it is asked for: of the predictions, in nats.  `terms` add to the sum what they make of the
    hidden states at the trained positions.
    """
    typed = () if batch.types is None else (batch.types,)
    hidden = model(batch.ids, batch.positions, Forest(batch.segments), *typed)
    return token_loss(model, batch, hidden, label_smoothing=label_smoothing, z_loss=z_loss, entropy=entropy,
                      terms=terms)


def token_loss(model: Transformer, batch: Batch, hidden: Tensor, *, label_smoothing: float = 0.0, z_loss: float = 0.0,
               entropy: bool = False, terms: tuple[Term, ...] = ()) -> tuple[Tensor, Metrics]:
    """The same from the hidden states (N, D): whoever has them for something else too reads them once."""
    rows, count = trained(batch)
    weights = batch.weights[rows]
    weights[count:] = 0
    weight, learned = learned_rows(model.head)
    states, shadow = hidden[rows], model.head.compute_weight(hidden.dtype)
    if model.config.head_transform:
        states, weight, shadow = with_bias(model.transform(states), weight, shadow, model.head.bias)
    loss, figures = linear_cross_entropy(
        states, weight, batch.targets[rows], weights, shadow=shadow, learned=learned, label_smoothing=label_smoothing,
        z_loss=z_loss, softcap=model.config.head_softcap, entropy=entropy)
    metrics = {"loss": float((figures.nll * weights).sum()),
               "mean_token_accuracy": float((figures.correct * weights).sum())}
    if entropy:
        metrics["entropy"] = float((figures.entropy * weights).sum())
    if isinstance(batch, TaskBatch):
        metrics |= batch.told | by_task(batch, (figures.nll * weights)[:count], rows[:count])
    for term in terms:
        more, told = term(model, batch, hidden[rows[:count]], rows[:count])
        loss, metrics = loss + more, metrics | told
    return loss, metrics


def by_task(batch: TaskBatch, nll: Tensor, rows: Tensor) -> Metrics:
    """`loss/<task>` of the tasks in a batch, from the weighted nll (M,) of the trained positions rows (M,)."""
    if not batch.scale:
        return {}
    task = batch.task[rows]
    sums = nll.new_zeros(len(batch.scale), dtype=torch.float64).index_add(0, task, nll.double()).tolist()
    return {f"loss/{name}": sums[i] * batch.scale[name] for i, name in enumerate(batch.scale)}


@torch.no_grad()
def total_nll(model: Transformer, batches: list[Batch]) -> tuple[float, float]:
    """Weighted sum of nll and sum of weights over batches, for validation."""
    nats = count = 0.0
    for batch in batches:
        nats += float(causal_lm(model, batch.beside(model))[0])
        count += float(batch.weights.sum())
    return nats, count
