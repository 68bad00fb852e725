"""Answers drawn from a model, several to each prompt, and kept with what was drawn and how likely it was.

They are written as they are made, a chunk of prompts at a time; a run that goes on after a stop draws the rest.  What
a prompt gets depends on nothing but the model and (seed, round, its place), so that the file's bytes are the same.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import Field

from bloomery.align.judging import Score
from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Settings
from bloomery.core.errors import InputError
from bloomery.core.metrics import progress
from bloomery.core.records import Problem
from bloomery.data.formats import message_rows
from bloomery.generate.engine import Engine
from bloomery.generate.request import Completion, Request
from bloomery.generate.sampling import Sampling
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer

CHUNK = 64                      # prompts whose answers are written at once
SLOTS = 32                      # answers drawn side by side


class SamplingConfig(Settings):
    """How answers are drawn. Only temperature 1 without cuts draws from the model as it is."""

    temperature: float = Field(1.0, gt=0, description="divides the logits")
    top_k: int = Field(0, ge=0, description="keeps the k likeliest tokens; 0 keeps all")
    top_p: float = Field(1.0, gt=0, le=1, description="keeps the likeliest tokens of this mass")
    max_tokens: int = Field(256, gt=0, description="longest answer")

    @property
    def how(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p)


@dataclass(frozen=True)
class Candidate:
    """An answer as it was drawn: ids with its end token, the text without, log p under what it was drawn from."""

    ids: list[int]
    text: str
    finished: bool
    logp: float
    score: float | None = None


@dataclass(frozen=True)
class Group:
    """A prompt and the answers to it."""

    problem: Problem
    prompt: list[int]
    candidates: list[Candidate]

    @property
    def scores(self) -> list[float]:
        return [one.score for one in self.candidates]


def room(problems: Sequence[Problem], renderer: Renderer, context: int, *, where: str,
         least: int = 8) -> tuple[list[tuple[Problem, list[int]]], int]:
    """Prompts with their ids that leave room for an answer, and how many do not. `InputError` when none does."""
    rendered = [(problem, renderer.prompt(problem.prompt)) for problem in problems]
    fitting = [pair for pair in rendered if len(pair[1]) + least <= context]
    if not fitting:
        raise InputError("no prompt leaves room for an answer", where=where,
                         why=f"all {len(problems)} are longer than {context - least} tokens")
    return fitting, len(problems) - len(fitting)


def draw(model: Transformer, renderer: Renderer, asked: Sequence[tuple[Problem, list[int]]], config: SamplingConfig, *,
         n: int, seed: int, path: Path) -> list[Group]:
    """`n` answers to every prompt, from `path` as far as they are there."""
    context = model.config.context
    longest = max(len(ids) for _, ids in asked)
    engine = Engine(model, renderer.tokenizer, slots=max(SLOTS, n), context=min(context, longest + config.max_tokens))
    drawn = read(path)
    drawn = drawn[:len(drawn) // CHUNK * CHUNK] if len(drawn) < len(asked) else drawn
    write_atomic(path, "".join(map(line, drawn)))
    for start in progress(range(len(drawn), len(asked), CHUNK), name="drawing answers, chunks",
                          total=-(-(len(asked) - len(drawn)) // CHUNK)):
        part = asked[start:start + CHUNK]
        found = engine.generate(
            Request(tuple(ids), min(config.max_tokens, context - len(ids)), how=config.how, n=n,
                    seed=(seed << 32) + start + row, ends=renderer.ends) for row, (_, ids) in enumerate(part))
        rows = [Group(problem, ids, list(map(candidate, group)))
                for (problem, ids), group in zip(part, found, strict=True)]
        drawn += [row_of(group) for group in rows]
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(line(row_of(group)) for group in rows))
    return [Group(problem, ids, [Candidate(**one) for one in row["candidates"]])
            for (problem, ids), row in zip(asked, drawn, strict=True)]


def candidate(one: Completion) -> Candidate:
    return Candidate([token.id for token in one.tokens], one.text.strip(), one.finish == "stop",
                     sum(token.logp for token in one.tokens))


def scored(groups: Sequence[Group], score: Score, *, missing_end: float = 0.0) -> list[Group]:
    """Groups with a score for each answer, `missing_end` taken off one that never came to its end.

    What was said twice is scored once: a reward model's last bits depend on what stands beside an answer.
    """
    texts = [list(dict.fromkeys(one.text for one in group.candidates)) for group in groups]
    told = score([group.problem for group in groups], texts)
    by_text = [dict(zip(*pair, strict=True)) for pair in zip(texts, told, strict=True)]
    return [replace(group, candidates=[replace(one, score=own[one.text] - missing_end * (not one.finished))
                                       for one in group.candidates])
            for group, own in zip(groups, by_text, strict=True)]


def row_of(group: Group) -> dict:
    return {"id": group.problem.id, "prompt": message_rows(group.problem.prompt),
            "candidates": [{name: value for name, value in asdict(one).items() if value is not None}
                           for one in group.candidates]}


def line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def read(path: Path) -> list[dict]:
    """The whole rows of a file that may have been cut off."""
    rows = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return rows
