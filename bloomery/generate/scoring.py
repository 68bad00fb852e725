"""Scores of answers: a reward model, several as an ensemble, or any function as a verifier.

All of them are `Reward`s: prompts and a list of answers to each in, one number an answer out.  A reward model reads a
prompt once, its answers as branches of it, and renders both as training does (`text/chat.py`).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Protocol

import torch

from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.data.packing import best_fit_decreasing
from bloomery.generate.best_of import ENSEMBLES, combine
from bloomery.model.forest import Segments, roots
from bloomery.model.scalar import ScalarModel, load_scalar
from bloomery.text.chat import load_renderer

Prompts = Sequence[tuple[Message, ...]]
Completions = Sequence[Sequence[str]]
Scores = list[list[float]]


class Reward(Protocol):
    def __call__(self, prompts: Prompts, completions: Completions) -> Scores:
        """One score for every answer to every prompt; more is better."""
        ...


def completion_forest(prompts: list[list[int]], completions: list[list[list[int]]]) -> tuple[torch.Tensor, Segments]:
    """Prompts as roots, each followed by its answers as children: ids (N,) and who continues whom."""
    runs, parents = [], []
    for prompt, group in zip(prompts, completions, strict=True):
        parents += [-1, *[len(runs)] * len(group)]
        runs += [prompt, *group]
    segments = Segments(roots(list(map(len, runs))).start, torch.tensor(parents, dtype=torch.int32))
    return torch.tensor([i for run in runs for i in run]), segments


@torch.no_grad()
def score_completions(model: ScalarModel, prompts: list[list[int]], completions: list[list[list[int]]], *,
                      micro_tokens: int = 8192) -> Scores:
    """The first scalar of `model` at the end of every answer, in batches of about `micro_tokens` tokens.

    What a lone prompt's answers score depends on nothing else. Raises `InputError` for what the context cannot hold.
    """
    context, device = model.trunk.config.context, model.score.weight.device
    for row, (prompt, group) in enumerate(zip(prompts, completions, strict=True)):
        for at, ids in enumerate(group):
            if not 0 < len(prompt) + len(ids) <= context:
                raise InputError("an answer cannot be scored", where=f"prompt {row}, answer {at}",
                                 why=f"they are {len(prompt) + len(ids)} tokens, the reward model reads 1 to {context}",
                                 hint="generate fewer tokens, or take a reward model with a longer context")
    sizes = [len(prompt) + sum(map(len, group)) for prompt, group in zip(prompts, completions, strict=True)]
    out: Scores = [[] for _ in prompts]
    asked = [row for row, group in enumerate(completions) if group]
    for chosen in best_fit_decreasing([sizes[row] for row in asked], max([micro_tokens, *sizes])):
        rows = [asked[i] for i in chosen]
        ids, segments = completion_forest([prompts[row] for row in rows], [completions[row] for row in rows])
        scores = iter(model.scores(ids.to(device), segments)[segments.parent >= 0, 0].tolist())
        for row in rows:
            out[row] = [next(scores) for _ in completions[row]]
    return out


class RewardModel:
    """The reward model of a folder: a `...ForSequenceClassification` with one label, its tokenizer beside it."""

    def __init__(self, folder: Path, *, compute: torch.dtype = torch.float32, dtype: torch.dtype = torch.float32,
                 device: torch.device | str = "cpu"):
        self.model, self.renderer = load_scalar(folder, compute=compute, dtype=dtype).to(device), load_renderer(folder)
        if self.model.labels != 1:
            raise InputError("not a reward model", where=str(folder),
                             why=f"it gives {self.model.labels} numbers, a reward is one",
                             hint="give a folder whose config.json lists one label in id2label")

    def __call__(self, prompts: Prompts, completions: Completions) -> Scores:
        return score_completions(self.model, [self.renderer.prompt(tuple(messages)) for messages in prompts],
                                 [[self.answer(text) for text in group] for group in completions])

    def answer(self, text: str) -> list[int]:
        """An answer as training renders it; a model that said nothing said its turn-end, and is scored for that."""
        return self.renderer.answer(text) if text.strip() else [self.renderer.end]


class Standardised:
    """A reward in units of its own spread: (r - mean) / deviation, so that members of an ensemble share a scale."""

    def __init__(self, reward: Reward, mean: float, deviation: float):
        if not (math.isfinite(mean) and 0 < deviation < math.inf):
            raise ValueError(f"a mean and a deviation above 0 are needed, got {mean} and {deviation}")
        self.reward, self.mean, self.deviation = reward, mean, deviation

    def __call__(self, prompts: Prompts, completions: Completions) -> Scores:
        return [[(score - self.mean) / self.deviation for score in group]
                for group in self.reward(prompts, completions)]


def standardised(reward: Reward, prompts: Prompts, completions: Completions) -> Standardised:
    """`reward` with mean 0 and deviation 1 over these answers, which all members should be measured on."""
    scores = [score for group in reward(prompts, completions) for score in group]
    if not scores or not (deviation := pstdev(scores)):
        raise InputError("a reward cannot be standardised", why=f"its {len(scores)} scores do not differ",
                         hint="measure it on answers of different quality")
    return Standardised(reward, fmean(scores), deviation)


class Ensemble:
    """Several rewards as one: `how` is mean, min, lower (mean - k deviations) or variance (mean - k variances)."""

    def __init__(self, rewards: Sequence[Reward], how: str = "mean", *, k: float = 1.0):
        if not rewards or how not in ENSEMBLES:
            raise ValueError(f"an ensemble needs members and one of {', '.join(ENSEMBLES)}, "
                             f"got {len(rewards)} and {how!r}")
        self.rewards, self.how, self.k = list(rewards), how, k

    def members(self, prompts: Prompts, completions: Completions) -> list[Scores]:
        """What every member says."""
        return [reward(prompts, completions) for reward in self.rewards]

    def __call__(self, prompts: Prompts, completions: Completions) -> Scores:
        return [combine(group, self.how, self.k) for group in zip(*self.members(prompts, completions), strict=True)]


class Verifier:
    """A function (prompt, answer) -> number. Where it raises, or its number is not finite, the answer scores 0.

    `failures` counts those by what went wrong: a verifier that breaks must not look like a model that is bad.
    """

    def __init__(self, function: Callable[[tuple[Message, ...], str], float]):
        self.function, self.failures = function, Counter()

    def __call__(self, prompts: Prompts, completions: Completions) -> Scores:
        return [[self.score(tuple(messages), text) for text in group]
                for messages, group in zip(prompts, completions, strict=True)]

    def score(self, messages: tuple[Message, ...], text: str) -> float:
        try:
            score = float(self.function(messages, text))
        except Exception as error:                              # anybody's function: whatever it raises
            self.failures[type(error).__name__] += 1
            return 0.0
        if math.isfinite(score):
            return score
        self.failures["not finite"] += 1
        return 0.0
