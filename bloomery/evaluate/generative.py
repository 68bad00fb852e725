"""Questions with known answers: how surprised a model is by the right answer, and how often it gives it."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from bloomery.core.errors import InputError
from bloomery.core.records import Conversation
from bloomery.data.batch import Run
from bloomery.data.validation import batches
from bloomery.generate.decode import complete
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.train.objective import total_nll


@dataclass(frozen=True)
class Question:
    """A conversation up to the assistant's last turn, and that turn, as ids and as text."""

    prompt: list[int]
    answer: list[int]
    asked: str
    expected: str
    task: str


def questions(rows: list[Conversation], renderer: Renderer, context: int, *, where: str) -> tuple[list[Question], int]:
    """Conversations as questions, and how many were left out: no last word of the assistant, or too long.

    `InputError` when none is left.
    """
    kept = []
    for row in rows:
        *before, last = row.messages
        if last.role != "assistant" or not before:
            continue
        prompt, answer = renderer.prompt(tuple(before), tools=row.tools), renderer.answer(last.content)
        if len(prompt) + len(answer) <= context:
            kept.append(Question(prompt, answer, before[-1].content, last.content.strip(), row.task))
    if not kept:
        raise InputError("no question is left to ask", where=where,
                         why=f"none of {len(rows)} conversations ends with the assistant and fits {context} tokens")
    return kept, len(rows) - len(kept)


@torch.no_grad()
def answer_nll(model: Transformer, asked: list[Question]) -> float:
    """Mean nll of the right answers, nats a token, turn-end included."""
    runs = []
    for q in asked:
        ids = [*q.prompt, *q.answer]
        runs.append(Run(ids[:-1], ids[1:], [0.0] * (len(q.prompt) - 1) + [1.0] * len(q.answer)))
    nats, tokens = total_nll(model, batches(runs))
    return nats / tokens


def generated(model: Transformer, asked: list[Question], renderer: Renderer, max_tokens: int) -> list[str]:
    """Greedy answers."""
    done = complete(model, [q.prompt for q in asked], ends=renderer.ends, max_tokens=max_tokens)
    return [renderer.tokenizer.decode(c.ids).strip() for c in done]


def exact_matches(asked: list[Question], answers: list[str], closed: Iterable[str]) -> dict:
    """Share of answers to questions of `closed` tasks given exactly as expected, over all of them and by task."""
    return shares("exact_match", [(q.task, answer == q.expected) for q, answer in zip(asked, answers, strict=True)
                                  if q.task in closed])


def well_formed(asked: list[Question], answers: list[str], formats: dict[str, str]) -> dict:
    """Share of answers that match the regular expression of their task whole, right or wrong."""
    return shares("well_formed", [(q.task, re.fullmatch(formats[q.task], answer) is not None)
                                  for q, answer in zip(asked, answers, strict=True) if q.task in formats])


def shares(name: str, hits: list[tuple[str, bool]]) -> dict:
    """The share of hits in all and by task; nothing when there are none."""
    if not hits:
        return {}
    by_task: dict[str, list[bool]] = defaultdict(list)
    for task, hit in hits:
        by_task[task].append(hit)
    return {name: sum(hit for _, hit in hits) / len(hits),
            f"{name}_by_task": {task: sum(found) / len(found) for task, found in sorted(by_task.items())}}
