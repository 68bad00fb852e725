"""Who says which answer is better: a reward model, several as an ensemble, a verifier, a function of your own, a judge.

All of them end as one `Score`: problems and answers in, a number each out.  The members of an ensemble are put on one
scale, each standardised on the first answers there are; what those scales were is kept beside the run.
"""

import inspect
import json
import runpy
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator

from bloomery.align.verifiers import VERIFIERS
from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.metrics import say
from bloomery.core.records import Problem
from bloomery.generate.judge import QUESTION, Judge
from bloomery.generate.scoring import (
    Completions,
    Ensemble,
    Reward,
    RewardModel,
    Scores,
    Standardised,
    Verifier,
    standardised,
)

Problems = Sequence[Problem]
Score = Callable[[Problems, Completions], Scores]
FUNCTION = "score"                      # what a file of one's own must define


class RewardConfig(Settings):
    """Who says which answer is better: `models`, a `verifier`, a `function` or a `judge`."""

    models: tuple[Input, ...] = Field((), description="folders of reward models; several are an ensemble")
    combine: Literal["mean", "min", "lower", "variance"] = Field(
        "mean", description="an ensemble's score: lower is mean - k deviations, variance mean - k variances")
    k: float = Field(1.0, ge=0, description="how much an ensemble's disagreement counts")
    verifier: Literal[*VERIFIERS] | None = Field(None, description="a check against the known answer of each prompt")
    function: Input | None = Field(None, description="a Python file with `score(problem, answer) -> number`")
    judge: Input | None = Field(None, description="folder of a chat model that is asked which of two answers is better")
    question: str = Field(QUESTION, description="what the judge is asked, with {prompt}, {first} and {second}")

    @property
    def chosen(self) -> str:
        return next(name for name in OPENERS if getattr(self, name))

    @model_validator(mode="after")
    def is_one(self) -> "RewardConfig":
        given = [name for name in OPENERS if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"one reward is needed, not {' and '.join(given) or 'none'}: models=FOLDER, "
                             "verifier=number, function=FILE.py or judge=FOLDER")
        return self


def opened(config: RewardConfig, *, scales: Path, compute: torch.dtype) -> Score:
    """The reward that is configured; an ensemble keeps its scales in the file `scales`."""
    return OPENERS[config.chosen](config, scales, compute)


def of_prompts(reward: Reward) -> Score:
    """A reward that knows prompts only."""
    return lambda problems, completions: reward([problem.prompt for problem in problems], completions)


def models(config: RewardConfig, scales: Path, compute: torch.dtype) -> Score:
    rewards = [RewardModel(Path(folder), compute=compute) for folder in config.models]
    return of_prompts(rewards[0]) if len(rewards) == 1 else ensemble(rewards, config, scales)


def ensemble(rewards: list[RewardModel], config: RewardConfig, scales: Path) -> Score:
    """Members on a common scale: measured when they first score, and from then on the same."""
    def score(problems: Problems, completions: Completions) -> Scores:
        prompts = [problem.prompt for problem in problems]
        if not scales.exists():
            first = [standardised(reward, prompts, completions) for reward in rewards]
            write_atomic(scales, json.dumps([[one.mean, one.deviation] for one in first]))
        members = [Standardised(reward, *scale) for reward, scale in zip(rewards, json.loads(scales.read_text()),
                                                                        strict=True)]
        return Ensemble(members, config.combine, k=config.k)(prompts, completions)

    return score


def verifier(config: RewardConfig, scales: Path, compute: torch.dtype) -> Score:
    check = VERIFIERS[config.verifier]

    def known(problem: Problem, text: str) -> float:
        return check(text, problem.answer)

    def score(problems: Problems, completions: Completions) -> Scores:
        if unknown := [problem.id for problem in problems if not problem.answer]:
            raise InputError("a verifier needs the known answers", where=unknown[0],
                             why=f"{len(unknown)} of {len(problems)} prompts have none",
                             hint="give them in a column `answer`, or take a reward model or a judge")
        return verified(known, problems, completions)

    return score


def function(config: RewardConfig, scales: Path, compute: torch.dtype) -> Score:
    """A function out of a file of the user's own."""
    own = runpy.run_path(config.function).get(FUNCTION)
    if not callable(own) or len(inspect.signature(own).parameters) != 2:
        raise InputError("no reward in this file", where=config.function,
                         why=f"it defines no function {FUNCTION} of two arguments",
                         hint=f"def {FUNCTION}(problem, answer): return a number; the problem has prompt, answer and "
                              "columns")
    return partial(verified, own)


def verified(check: Callable[[Problem, str], float], problems: Problems, completions: Completions) -> Scores:
    """Each answer by a function of its problem; failures are scored 0, counted and said."""
    failures, scores = Counter(), []
    for problem, group in zip(problems, completions, strict=True):
        one = Verifier(lambda messages, text, problem=problem: check(problem, text))
        scores += one([problem.prompt], [group])
        failures.update(one.failures)
    if failures:
        count = sum(map(len, completions))
        say(f"  warning: the reward failed on {failures.total()} of {count} answers, which score 0: "
            f"{', '.join(f'{name} {times}' for name, times in failures.most_common(3))}")
    return scores


def judge(config: RewardConfig, scales: Path, compute: torch.dtype) -> Score:
    asked = Judge(Path(config.judge), question=config.question, compute=compute)

    def score(problems: Problems, completions: Completions) -> Scores:
        scores = of_prompts(asked)(problems, completions)
        if asked.asked:
            say(f"  judge: {asked.inconsistent / asked.asked:.0%} of {asked.asked} verdicts depend on who stands first")
        return scores

    return score


OPENERS = {"models": models, "verifier": verifier, "function": function, "judge": judge}
