"""What is minimised: an objective takes the model and a batch and returns a sum, and the batch says what divides it.

    objective(model, batch) -> (sum of the loss, metrics)

Metrics are sums too; the loop adds them over micro-batches and divides them once, by the same count as the loss.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bloomery.core.metrics import progress
from bloomery.data.answers import AnswerBatch, answer_forest, tokens
from bloomery.data.batch import Batch
from bloomery.data.packing import best_fit_decreasing
from bloomery.losses.parallel_ce import linear_cross_entropy, linear_logp
from bloomery.model.forest import Forest
from bloomery.model.linear import ROWS
from bloomery.model.transformer import Transformer

Metrics = dict[str, float]
Objective = Callable[[Transformer, Batch], tuple[Tensor, Metrics]]


def causal_lm(model: Transformer, batch: Batch, *, label_smoothing: float = 0.0,
              z_loss: float = 0.0) -> tuple[Tensor, Metrics]:
    """Sum over positions of weight times -log p(target). Pretraining and fine-tuning differ in their weights only.

    The metric `loss` is -log p without label smoothing and z-loss, so that runs with and without them compare.
    """
    hidden = model(batch.ids, batch.positions, Forest(batch.segments))
    rows, count = trained(batch)
    weights = batch.weights[rows]
    weights[count:] = 0
    loss, figures = linear_cross_entropy(
        hidden[rows], model.head.weight, batch.targets[rows], weights, shadow=model.head.compute_weight(hidden.dtype),
        label_smoothing=label_smoothing, z_loss=z_loss, softcap=model.config.head_softcap)
    return loss, {"loss": float((figures.nll * weights).sum()),
                  "mean_token_accuracy": float((figures.correct * weights).sum())}


def token_logps(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
    """log p of the target at every weighted position, and those positions: both (M,)."""
    hidden = model(batch.ids, batch.positions, Forest(batch.segments))
    rows, count = trained(batch)
    logp = linear_logp(hidden[rows], model.head.weight, batch.targets[rows],
                       shadow=model.head.compute_weight(hidden.dtype), softcap=model.config.head_softcap)
    return logp[:count], rows[:count]


def trained(batch: Batch) -> tuple[Tensor, int]:
    """The positions with weight, which alone go through the head, and how many they are.

    Filled up to a multiple of `ROWS` with other positions, whose results are not used (see `model/linear.py`).
    """
    rows = batch.weights.nonzero()[:, 0]
    return torch.cat([rows, rows.new_zeros(-len(rows) % ROWS)]), len(rows)


def answer_logps(model: Transformer, batch: AnswerBatch) -> Tensor:
    """log pi(y|x) of every answer, summed over its tokens and its turn-end, (A,) in at least fp32."""
    logp, rows = token_logps(model, batch)
    return logp.new_zeros(len(batch.lengths)).index_add(0, batch.answer[rows], logp)


@torch.no_grad()
def score_answers(model: Transformer, prompts: list[list[int]], answers: list[list[list[int]]], *,
                  micro_tokens: int = 8192) -> list[list[float]]:
    """`answer_logps` of any number of prompts, in their order, in batches of about `micro_tokens` tokens."""
    sizes = [tokens(*pair) for pair in zip(prompts, answers, strict=True)]
    out: list[list[float]] = [[] for _ in prompts]
    bins = best_fit_decreasing(sizes, max([micro_tokens, *sizes]))
    for group in progress(bins, name="scoring answers, batches", total=len(bins)):
        batch = answer_forest([prompts[i] for i in group], [answers[i] for i in group])
        scores = iter(answer_logps(model, batch).tolist())
        for i in group:
            out[i] = [next(scores) for _ in answers[i]]
    return out


@torch.no_grad()
def total_nll(model: Transformer, batches: list[Batch]) -> tuple[float, float]:
    """Weighted sum of nll and sum of weights over batches, for validation."""
    nats = count = 0.0
    for batch in batches:
        nats += float(causal_lm(model, batch)[0])
        count += float(batch.weights.sum())
    return nats, count
