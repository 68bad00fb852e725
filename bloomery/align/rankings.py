"""Ranked answers as token ids, and as forests whose runs end where a reward is read.

A prompt is read once, its answers continue it; a pair is a ranking of two.  Every two answers of different rank are a
pair for the loss, and all pairs of a prompt together weigh 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bloomery.core.errors import InputError
from bloomery.core.records import Preference, Ranking
from bloomery.data.batch import Batch
from bloomery.data.packing import best_fit_decreasing
from bloomery.data.splits import question
from bloomery.data.stream import Stream, samples
from bloomery.generate.scoring import completion_forest
from bloomery.losses.ranking import ordered_pairs
from bloomery.model.scalar import last_tokens
from bloomery.text.chat import Renderer


@dataclass(frozen=True)
class Ranked:
    """Answers to a prompt as token ids, the rank of each (1 is best), and what else is known of them."""

    prompt: list[int]
    answers: list[list[int]]
    ranks: tuple[int, ...]
    margin: float = 0.0
    share: float = 1.0
    kind: str = ""
    question: str = ""

    @property
    def tokens(self) -> int:
        return len(self.prompt) + sum(map(len, self.answers))


@dataclass(frozen=True)
class RankingBatch(Batch):
    """Prompts with ranked answers. Answers are numbered in order, prompt after prompt; M ordered pairs of them."""

    ranks: tuple[tuple[int, ...], ...]      # of the answers to each prompt
    better: Tensor          # (M,) int64 an answer
    worse: Tensor           # (M,) int64 one of higher rank
    part: Tensor            # (M,) float64 1 / pairs of its prompt
    margin: Tensor          # (M,) float64
    share: Tensor           # (M,) float64 of the votes for the better one


def rendered(row: Preference | Ranking, renderer: Renderer) -> Ranked:
    """A row as ids."""
    if isinstance(row, Preference):
        texts, ranks, told = (row.chosen, row.rejected), (1, 2), {"margin": row.margin or 0.0, "share": row.share}
    else:
        texts, ranks, told = row.answers, row.ranks, {}
    return Ranked(renderer.prompt(row.prompt), [renderer.answer(text) for text in texts], ranks, kind=row.kind,
                  question=question(row), **told)


def misfit(ranked: Ranked, context: int) -> str | None:
    """Why a row cannot be learned from or measured on."""
    if len(set(map(tuple, ranked.answers))) < len(ranked.answers):
        return "equal_answers"
    return "too_long" if len(ranked.prompt) + max(map(len, ranked.answers)) > context else None


def render_rankings(data: Sequence[Preference | Ranking], renderer: Renderer, context: int, *,
                    where: str) -> tuple[list[Ranked], dict]:
    """Rankings as ids and counts of what was dropped: an answer too long for the context, or two equal as ids."""
    found = [rendered(row, renderer) for row in data]
    reasons = [misfit(ranked, context) for ranked in found]
    kept = [ranked for ranked, reason in zip(found, reasons, strict=True) if not reason]
    too_long, equal = reasons.count("too_long"), reasons.count("equal_answers")
    if not kept:
        raise InputError("no ranked answers are left", where=where,
                         why=f"of {len(data)} rows {too_long} are longer than the context of {context} tokens and "
                             f"{equal} have equal answers", hint="look at the rows with: bloomery show data")
    return kept, {"rankings": len(kept), "dropped/too_long": too_long, "dropped/equal_answers": equal}


def ranking_batch(groups: Sequence[Ranked]) -> RankingBatch:
    """Rankings as one forest; `count` is the number of prompts, of which each has one voice."""
    ids, segments = completion_forest([group.prompt for group in groups], [group.answers for group in groups])
    pairs, parts, first = [], [], 0
    for group in groups:
        own = ordered_pairs(group.ranks)
        pairs += [(first + i, first + j, group.margin, group.share) for i, j in own]
        parts += [1 / len(own)] * len(own)
        first += len(group.answers)
    better, worse, margin, share = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    weights = torch.zeros(len(ids))
    weights[torch.tensor(last_tokens(segments))[segments.parent >= 0]] = 1.0
    return RankingBatch(ids, ids, weights, segments.positions, segments, float(len(groups)),
                        ranks=tuple(group.ranks for group in groups), better=better.long(),
                        worse=worse.long(), part=torch.tensor(parts, dtype=torch.float64), margin=margin, share=share)


def ranked_stream(groups: Sequence[Ranked], *, size: int, micro_tokens: int, seed: int) -> Stream:
    """Each step `size` prompts in the order of `samples`, best-fit into forests of at most `micro_tokens`."""
    def batches(step: int) -> list[Batch]:
        chosen = samples(step, size, len(groups), seed)
        lengths = [groups[i].tokens for i in chosen]
        bins = best_fit_decreasing(lengths, max(micro_tokens, *lengths))
        return [ranking_batch([groups[chosen[i]] for i in held]) for held in bins]

    return batches
