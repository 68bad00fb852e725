"""Answers to a prompt as a forest: the prompt once, every answer a child that continues it.

The prompt's run stops one token early and each answer's run begins with the prompt's last token, so that every position
has one target and the first answer token is predicted in the child.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bloomery.data.batch import Batch, Run, forest


@dataclass(frozen=True)
class AnswerBatch(Batch):
    """Prompts with their answers; answers are numbered in order, prompt after prompt."""

    answer: Tensor          # (N,) int64 which answer a position predicts for, -1 in prompts
    lengths: Tensor         # (A,) int64 tokens of each answer, its turn-end included


@dataclass(frozen=True)
class ReferencedBatch(AnswerBatch):
    """Answers beside what the reference thinks of them."""

    reference: Tensor       # (A,) float32 log-probability of each answer under the reference


@dataclass(frozen=True)
class PreferenceBatch(ReferencedBatch):
    """Pairs: answer 2 p is the chosen one of pair p, 2 p + 1 the rejected one."""

    margin: Tensor          # (P,) float32 by how much the chosen one is better, 0 where nobody said
    share: Tensor           # (P,) float32 the share of votes it got


@dataclass(frozen=True)
class RatingBatch(ReferencedBatch):
    """Rated answers, one to a prompt, and apart from them, since it has no gradient, one to another prompt to each."""

    mismatched: ReferencedBatch     # the same prompts, by whose answers the KL is estimated
    desirable: Tensor       # (A,) bool
    group: Tensor           # (A,) int64 which KL estimate of this batch an answer is held against
    scale: dict[bool, float]    # answers of the step / those of them that are (un)desirable: a metric's own mean


def tokens(prompt: list[int], answers: list[list[int]]) -> int:
    """Tokens of a prompt and its answers in a forest, the prompt counted once."""
    return len(prompt) - 1 + sum(map(len, answers))


def answer_forest(prompts: list[list[int]], answers: list[list[list[int]]], *, tail: float = 1.0,
                  prompts_count: bool = False) -> AnswerBatch:
    """Prompts (P lists of ids) and the answers to each as one batch; `count` is the number of prompts.

    `tail` is what tokens count beyond the length of the shortest answer to the same prompt (LD-DPO: Liu et al. 2024,
    arXiv 2409.06411).  If `prompts_count`, each prompt is trained too: one more answer, numbered after all others.
    """
    runs: list[Run] = []
    owner: list[int] = []
    lengths: list[int] = []
    total = sum(map(len, answers))
    for number, (prompt, group) in enumerate(zip(prompts, answers, strict=True)):
        root, shared = len(runs), min(map(len, group), default=0)
        runs.append(Run(prompt[:-1], prompt[1:], [float(prompts_count)] * (len(prompt) - 1)))
        owner += [total + number if prompts_count else -1] * (len(prompt) - 1)
        for ids in group:
            runs.append(Run([prompt[-1], *ids[:-1]], ids, [1.0] * shared + [tail] * (len(ids) - shared), root))
            owner += [len(lengths)] * len(ids)
            lengths.append(len(ids))
    lengths += [len(prompt) - 1 for prompt in prompts if prompts_count]
    return AnswerBatch(**vars(forest(runs, count=float(len(prompts)))), answer=torch.tensor(owner),
                       lengths=torch.tensor(lengths))
