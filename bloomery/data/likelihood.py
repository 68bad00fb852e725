"""How likely a model finds given tokens: log-probabilities over a forest, for training, evaluation and serving."""

import torch
from torch import Tensor

from bloomery.core.metrics import progress
from bloomery.data.answers import AnswerBatch, answer_forest, tokens
from bloomery.data.batch import Batch
from bloomery.data.packing import best_fit_decreasing
from bloomery.losses.parallel_ce import linear_logp
from bloomery.model.forest import Forest
from bloomery.model.linear import ROWS
from bloomery.model.token_rows import learned_rows
from bloomery.model.transformer import Transformer


def token_logps(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
    """log p of the target at every weighted position, and those positions: both (M,)."""
    hidden = model(batch.ids, batch.positions, Forest(batch.segments))
    rows, count = trained(batch)
    weight, learned = learned_rows(model.head)
    logp = linear_logp(hidden[rows], weight, batch.targets[rows], learned=learned,
                       shadow=model.head.compute_weight(hidden.dtype), softcap=model.config.head_softcap)
    return logp[:count], rows[:count]


def trained(batch: Batch) -> tuple[Tensor, int]:
    """The positions with weight, which alone go through the head, and how many they are.

    Filled up to a multiple of `ROWS` with other positions, whose results are not used (see `model/linear.py`).
    """
    rows = batch.weights.nonzero()[:, 0]
    return torch.cat([rows, rows.new_zeros(-len(rows) % ROWS)]), len(rows)


def answer_logps(model: Transformer, batch: AnswerBatch, *, sums: torch.dtype | None = None) -> Tensor:
    """log pi(y|x) of every answer, summed over its tokens and its turn-end by their weight, (A,) in at least fp32.

    Added up in `sums`, by default what the tokens have: 65 of them, -375 in all, are off by 8e-5 in fp32.
    """
    logp, rows = token_logps(model, batch)
    logp = logp.to(sums or logp.dtype) * batch.weights[rows]
    return logp.new_zeros(len(batch.lengths)).index_add(0, batch.answer[rows], logp)


@torch.no_grad()
def score_answers(model: Transformer, prompts: list[list[int]], answers: list[list[list[int]]], *,
                  micro_tokens: int = 8192, sums: torch.dtype | None = None, tail: float = 1.0) -> list[list[float]]:
    """`answer_logps` of any number of prompts, in their order, in batches of about `micro_tokens` tokens."""
    sizes = [tokens(*pair) for pair in zip(prompts, answers, strict=True)]
    out: list[list[float]] = [[] for _ in prompts]
    bins = best_fit_decreasing(sizes, max([micro_tokens, *sizes]))
    for group in progress(bins, name="scoring answers, batches", total=len(bins)):
        batch = answer_forest([prompts[i] for i in group], [answers[i] for i in group], tail=tail).beside(model)
        scores = iter(answer_logps(model, batch, sums=sums).tolist())
        for i in group:
            out[i] = [next(scores) for _ in answers[i]]
    return out
