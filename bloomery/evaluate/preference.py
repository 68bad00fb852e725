"""How often a model finds the preferred answer likelier: log pi(y_w|x) / |y_w| > log pi(y_l|x) / |y_l|.

Log-probabilities are means over an answer's tokens, its turn-end included, so that a long right answer is not beaten by
a short wrong one just for its length; the comparison of sums is reported beside it.  For a model that was trained from
another, `reward_accuracy` asks whether training moved the chosen answer up more than the rejected one:
log pi/pi_before of the sums, DPO's implicit reward (Rafailov et al. 2023).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bloomery.core.errors import InputError
from bloomery.core.records import Preference
from bloomery.data.likelihood import score_answers
from bloomery.model.scalar import ScalarModel
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer

Ids = list[list[int]]
Score = Callable[[Any, Ids, list[Ids]], list[list[float]]]      # of a model, prompts and the answers to each


@dataclass(frozen=True)
class PairScores:
    """What a model thinks of P pairs: log-probabilities and lengths (P, 2), the chosen answer first."""

    ids: tuple[str, ...]
    kinds: tuple[str, ...]
    logps: Tensor
    lengths: Tensor
    too_long: int


def score_pairs(model: Transformer | ScalarModel, pairs: list[Preference], renderer: Renderer, *,
                score: Score = score_answers) -> PairScores:
    """Scores of the pairs that fit the context; the others are counted. `InputError` when none fits."""
    rendered = [(pair, renderer.prompt(pair.prompt), [renderer.answer(pair.chosen), renderer.answer(pair.rejected)])
                for pair in pairs]
    fitting = [row for row in rendered if len(row[1]) + max(map(len, row[2])) <= model.config.context]
    if not fitting:
        raise InputError("no preference pair fits the context",
                         why=f"all {len(pairs)} are longer than {model.config.context} tokens")
    kept, prompts, answers = map(list, zip(*fitting, strict=True))
    return PairScores(tuple(pair.id for pair in kept), tuple(pair.kind for pair in kept),
                      torch.tensor(score(model, prompts, answers)),
                      torch.tensor([[len(ids) for ids in both] for both in answers]), len(pairs) - len(kept))


def preference_metrics(scores: PairScores, before: PairScores | None) -> dict:
    """`preference_accuracy` in all and by kind, that of sums, and `reward_accuracy` against the model before."""
    a_token = scores.logps / scores.lengths
    found = {**accuracy("preference_accuracy", a_token, scores.kinds),
             "preference_accuracy_of_sums": share(scores.logps),
             "preference_pairs": len(scores.ids), "preference_pairs_too_long": scores.too_long}
    if before and before.ids == scores.ids:
        found |= accuracy("reward_accuracy", scores.logps - before.logps, scores.kinds)
    return found


def accuracy(name: str, values: Tensor, kinds: tuple[str, ...]) -> dict:
    """Share of rows of (P, 2) whose first value is the larger, in all and by kind."""
    of_kind = {kind: torch.tensor([k == kind for k in kinds]) for kind in sorted(set(kinds))}
    return {name: share(values), f"{name}_by_kind": {kind: share(values[rows]) for kind, rows in of_kind.items()}}


def share(values: Tensor) -> float:
    return float((values[:, 0] > values[:, 1]).double().mean())
