"""Rewards that are anybody's Python function, in the three signatures that exist.

    score(problem, answer) -> number                                      ours: a `Problem` with prompt, answer, columns
    f(prompts, completions, **columns) -> list[float | None]              TRL's: all answers at once, columns repeated
    compute_score(data_source, solution_str, ground_truth, extra_info)    verl's: a number, or a dict with `score`

A function that raises, takes too long or gives no finite number scores 0, and that is counted; None says that it has
nothing to say of an answer.
"""

import inspect
import math
import runpy
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from bloomery.align.limits import within
from bloomery.core.errors import InputError
from bloomery.core.records import Problem
from bloomery.data.formats import message_rows
from bloomery.generate.scoring import Completions, Scores

Told = tuple[Scores, Counter]               # a score or None for each answer, and what failed how often
Teller = Callable[[Sequence[Problem], Completions], Told]
DEFAULTS = ("score", "compute_score")       # the names that are looked for first


def read_function(path: Path, name: str = "") -> tuple[Callable, str]:
    """The reward a file defines, and its signature: "ours", "trl" or "verl". `InputError` where there is none."""
    if not path.is_file():
        raise InputError("no such file", where=str(path), hint="function=FILE.py")
    try:
        found = runpy.run_path(str(path))
    except Exception as error:                                  # anybody's file: whatever it raises
        raise InputError("the file of a reward cannot be run", where=str(path),
                         why=f"{type(error).__name__}: {error}") from error
    own = {key: value for key, value in found.items() if inspect.isfunction(value) and not key.startswith("_")
           and value.__globals__.get("__file__") == str(path)}
    rewards = {key: kind for key, value in own.items() if (kind := signature(value))}
    first = name or next((key for key in DEFAULTS if key in rewards), next(iter(rewards), ""))
    if first not in rewards or not name and len(rewards) > 1 and first not in DEFAULTS:
        why = f"of {', '.join(rewards)} any could be meant: say name=" if len(rewards) > 1 and not name else \
            f"it defines no function {name or DEFAULTS[0]} of two arguments"
        raise InputError("no reward in this file", where=str(path), why=why,
                         hint=f"def {DEFAULTS[0]}(problem, answer): return a number; the problem has prompt, answer "
                              "and columns. TRL's f(prompts, completions, **columns) and verl's compute_score do too")
    return own[first], rewards[first]


def signature(own: Callable) -> str | None:
    """Which of the three a function has, by the names of its parameters; None for none."""
    parameters = inspect.signature(own).parameters
    required = [one for one in parameters.values() if one.default is one.empty and
                one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    if "completions" in parameters:
        return "trl"
    if "solution_str" in parameters:
        return "verl"
    return "ours" if len(required) == 2 and all(one.kind is not one.KEYWORD_ONLY for one in required) else None


def number_of(value: object) -> tuple[float | None, str]:
    """What a function gave as a score and what is wrong with it, "" if nothing; a dict's is its `score`."""
    value = value.get("score") if isinstance(value, dict) else value
    if value is None:
        return None, ""
    try:
        score = float(value)
    except (TypeError, ValueError) as error:
        return 0.0, type(error).__name__
    return (score, "") if math.isfinite(score) else (0.0, "not finite")


def one_by_one(score: Callable[[Problem, str], object], seconds: float) -> Teller:
    """Each answer on its own, so that only what fails is lost."""
    def told(problems: Sequence[Problem], completions: Completions) -> Told:
        failures, scores = Counter(), []
        for problem, group in zip(problems, completions, strict=True):
            scores.append([])
            for text in group:
                try:
                    with within(seconds):
                        value, wrong = number_of(score(problem, text))
                except Exception as error:                      # anybody's function: whatever it raises
                    value, wrong = 0.0, type(error).__name__
                scores[-1].append(value)
                failures.update([wrong] * bool(wrong))
        return scores, failures

    return told


def ours(own: Callable, *, seconds: float, conversational: bool) -> Teller:
    return one_by_one(own, seconds)


def verl(own: Callable, *, seconds: float, conversational: bool) -> Teller:
    """By keyword, as verl calls it, and only what the function takes."""
    def score(problem: Problem, answer: str) -> object:
        extra = problem.columns.get("extra_info")
        given = {"data_source": problem.task, "solution_str": answer, "ground_truth": problem.answer,
                 "extra_info": extra if extra is not None else dict(problem.columns)}
        return own(**accepted(own, given))

    return one_by_one(score, seconds)


def trl(own: Callable, *, seconds: float, conversational: bool) -> Teller:
    """All answers in one call, each with its prompt and the columns of its row; where the call fails all are lost.

    Prompts and completions are texts, or messages if `conversational`. A column some row lacks is None there.
    """
    def told(problems: Sequence[Problem], completions: Completions) -> Told:
        each = [problem for problem, group in zip(problems, completions, strict=True) for _ in group]
        texts = [text for group in completions for text in group]
        names = dict.fromkeys(name for problem in problems for name in problem.columns)
        given = {name: [problem.columns.get(name) for problem in each] for name in names} | {
            "answer": [problem.answer for problem in each],
            "prompts": [message_rows(one.prompt) if conversational else one.prompt[-1].content for one in each],
            "completions": [[{"role": "assistant", "content": text}] if conversational else text for text in texts]}
        try:
            with within(seconds * max(1, len(texts))):
                values = list(own(**accepted(own, given)))
            wrong = "" if len(values) == len(texts) else f"{len(values)} rewards for {len(texts)} answers"
        except Exception as error:                              # anybody's function: whatever it raises
            wrong = type(error).__name__
        found = iter([(0.0, wrong)] * len(texts) if wrong else map(number_of, values))
        rows = [[next(found) for _ in group] for group in completions]
        failures = Counter(wrong for row in rows for _, wrong in row if wrong)
        return [[value for value, _ in row] for row in rows], failures

    return told


def accepted(own: Callable, given: dict) -> dict:
    """Of what could be given, what a function takes."""
    parameters = inspect.signature(own).parameters
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return given if takes_all else {name: value for name, value in given.items() if name in parameters}


SIGNATURES = {"ours": ours, "trl": trl, "verl": verl}
