"""Who says which answer is better: a reward model, several as an ensemble, a verifier, a function of your own, a judge.

All of them end as one `Score`: problems and answers in, a number each out, or None where there is nothing to say.  The
members of an ensemble are put on one scale, each standardised on the first answers there are; what those scales were is
kept beside the run.  What a check or a function fails on scores 0 and is counted: it never ends a run.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Literal

import torch
from pydantic import Field, model_validator

from bloomery.align.functions import SIGNATURES, Told, read_function
from bloomery.align.verifiers import VERIFIERS, Check, parallel, prepared
from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.metrics import say
from bloomery.core.records import Problem
from bloomery.generate.best_of import combine
from bloomery.generate.judge import QUESTION, Judge
from bloomery.generate.scoring import Completions, Reward, RewardModel, Scores, Standardised, standardised

Problems = Sequence[Problem]
Score = Callable[[Problems, Completions], Scores]


class RewardConfig(Settings):
    """Who says which answer is better: `models`, a `verifier`, a `function` or a `judge`."""

    models: tuple[Input, ...] = Field((), description="folders of reward models; several are an ensemble")
    combine: Literal["mean", "min", "lower", "variance"] = Field(
        "mean", description="an ensemble's score: lower is mean - k deviations, variance mean - k variances")
    k: float = Field(1.0, ge=0, description="how much an ensemble's disagreement counts")
    verifier: Literal[*VERIFIERS] | None = Field(None, description="a check against the known answer of each prompt")
    known: str | None = Field(None, description="what a verifier holds every answer against, in the place of each "
                                                "prompt's own: a pattern, a schema, tags")
    seconds: float = Field(10.0, gt=0, description="longest time a check of one answer may take")
    memory: int = Field(1024, ge=64, description="MiB that code under test may take")
    function: Input | None = Field(None, description="a Python file with a reward: score(problem, answer), TRL's "
                                                     "f(prompts, completions, ...) or verl's compute_score")
    name: str = Field("", description="which function of the file; default: the only one that can be a reward")
    conversational: bool = Field(False, description="a TRL function is given messages, not texts")
    judge: Input | None = Field(None, description="folder of a chat model that is asked which of two answers is better")
    question: str = Field(QUESTION, description="what the judge is asked, with {prompt}, {first} and {second}")

    @property
    def chosen(self) -> str | None:
        return next((name for name in OPENERS if getattr(self, name)), None)

    @model_validator(mode="after")
    def is_one(self) -> "RewardConfig":
        given = [name for name in OPENERS if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"one reward is needed, not {' and '.join(given) or 'none'}: models=FOLDER, "
                             "verifier=number, function=FILE.py or judge=FOLDER")
        return self


def opened(config: RewardConfig, *, scales: Path, compute: torch.dtype, device: torch.device | str = "cpu") -> Score:
    """The reward that is configured, as a number for every answer: 0 where it has nothing to say.

    An ensemble keeps its scales in the file `scales`.
    """
    score = part(config, scales=scales, compute=compute, device=device)
    return lambda problems, completions: [[value or 0.0 for value in group] for group in score(problems, completions)]


def part(config: RewardConfig, *, scales: Path, compute: torch.dtype, device: torch.device | str = "cpu") -> Score:
    """The same as it is: None where it has nothing to say."""
    return OPENERS[config.chosen](config, scales, compute, device)


# --- reward models ----------------------------------------------------------------------------------------------------

def of_prompts(reward: Reward) -> Score:
    """A reward that knows prompts only."""
    return lambda problems, completions: reward([problem.prompt for problem in problems], completions)


def models(config: RewardConfig, scales: Path, compute: torch.dtype, device: torch.device | str) -> Score:
    rewards = [RewardModel(Path(folder), compute=compute, device=device) for folder in config.models]
    return of_prompts(rewards[0]) if len(rewards) == 1 else Members(rewards, config, scales)


class Members:
    """An ensemble on a common scale: measured when its members first score, and from then on the same.

    `disagreement` is the deviation between them, averaged over the answers scored last.
    """

    def __init__(self, rewards: list[RewardModel], config: RewardConfig, scales: Path):
        self.rewards, self.config, self.scales, self.disagreement = rewards, config, scales, 0.0

    def __call__(self, problems: Problems, completions: Completions) -> Scores:
        prompts = [problem.prompt for problem in problems]
        if not self.scales.exists():
            first = [standardised(reward, prompts, completions) for reward in self.rewards]
            write_atomic(self.scales, json.dumps([[one.mean, one.deviation] for one in first]))
        told = [Standardised(reward, *scale)(prompts, completions) for reward, scale in
                zip(self.rewards, json.loads(self.scales.read_text()), strict=True)]
        by_answer = [list(zip(*group, strict=True)) for group in zip(*told, strict=True)]
        self.disagreement = fmean([pstdev(says) for group in by_answer for says in group] or [0.0])
        return [combine(group, self.config.combine, self.config.k) for group in zip(*told, strict=True)]


# --- checks and functions ---------------------------------------------------------------------------------------------

class Checked:
    """Each answer by a function of its own problem; failures are scored 0, counted, and said when they are new.

    `failures` counts, by what went wrong, those of the answers scored last; `checked` is how many those were.
    """

    def __init__(self, told: Callable[[Problems, Completions], Told]):
        self.told, self.failures, self.checked = told, Counter(), 0
        self.known_kinds: set[str] = set()

    def __call__(self, problems: Problems, completions: Completions) -> Scores:
        scores, self.failures = self.told(problems, completions)
        self.checked = sum(map(len, completions))
        if self.failures.keys() - self.known_kinds:
            self.known_kinds |= self.failures.keys()
            say(f"  warning: the reward failed on {self.failures.total()} of {self.checked} answers, which score 0: "
                f"{', '.join(f'{name} {times}' for name, times in self.failures.most_common(3))}")
        return scores


def verifier(config: RewardConfig, *_: object) -> Score:
    """A check against what each prompt's row knows, which must be there."""
    check = prepared(config.verifier, config.known, seconds=config.seconds, memory=config.memory)

    def told(problems: Problems, completions: Completions) -> Told:
        if unknown := [problem.id for problem in problems if not check.knows(problem)]:
            raise InputError("a verifier needs the known answers", where=unknown[0],
                             why=f"{len(unknown)} of {len(problems)} prompts have none",
                             hint=f"give them in a column {check.column}, or take a reward model or a judge")
        return checked(check, problems, completions)

    return Checked(told)


def checked(check: Check, problems: Problems, completions: Completions) -> Told:
    """Every answer through a check, several at once where a check has a process of its own."""
    asked = [(problem, text) for problem, group in zip(problems, completions, strict=True) for text in group]
    found = iter(parallel(check, asked))
    failures, scores = Counter(), []
    for group in completions:
        own = [next(found) for _ in group]
        failures.update(one.failure for one in own if one.failure)
        scores.append([one.score for one in own])
    return scores, failures


def function(config: RewardConfig, *_: object) -> Score:
    """A function out of a file of the user's own, in whichever signature it has."""
    own, signature = read_function(Path(config.function), config.name)
    return Checked(SIGNATURES[signature](own, seconds=config.seconds, conversational=config.conversational))


# --- a judge ----------------------------------------------------------------------------------------------------------

def judge(config: RewardConfig, scales: Path, compute: torch.dtype, device: torch.device | str) -> Score:
    asked = Judge(Path(config.judge), question=config.question, compute=compute, device=device)

    def score(problems: Problems, completions: Completions) -> Scores:
        scores = of_prompts(asked)(problems, completions)
        if asked.asked:
            say(f"  judge: {asked.inconsistent / asked.asked:.0%} of {asked.asked} verdicts depend on who stands first")
        return scores

    return score


OPENERS = {"models": models, "verifier": verifier, "function": function, "judge": judge}
