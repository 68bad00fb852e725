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
class PreferenceBatch(AnswerBatch):
    """Pairs: answer 2 p is the chosen one of pair p, 2 p + 1 the rejected one."""

    reference: Tensor       # (2P,) float32 log-probability of each answer under the reference


def tokens(prompt: list[int], answers: list[list[int]]) -> int:
    """Tokens of a prompt and its answers in a forest, the prompt counted once."""
    return len(prompt) - 1 + sum(map(len, answers))


def answer_forest(prompts: list[list[int]], answers: list[list[list[int]]]) -> AnswerBatch:
    """Prompts (P lists of ids) and the answers to each as one batch; `count` is the number of prompts."""
    runs: list[Run] = []
    owner: list[int] = []
    lengths: list[int] = []
    for prompt, group in zip(prompts, answers, strict=True):
        root = len(runs)
        runs.append(Run(prompt[:-1], prompt[1:], [0.0] * (len(prompt) - 1)))
        owner += [-1] * (len(prompt) - 1)
        for ids in group:
            runs.append(Run([prompt[-1], *ids[:-1]], ids, [1.0] * len(ids), root))
            owner += [len(lengths)] * len(ids)
            lengths.append(len(ids))
    return AnswerBatch(**vars(forest(runs, count=float(len(prompts)))), answer=torch.tensor(owner),
                       lengths=torch.tensor(lengths))
