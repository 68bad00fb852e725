"""One table of who puts the preferred answer first how often, with Wilson's intervals.

    likelihood          log pi(y_w|x) / |y_w| > log pi(y_l|x) / |y_l|
    over MODEL          log pi/pi_MODEL of the sums: the reward a policy implies (Rafailov et al. 2023, eq. 5)
    reward              a reward model's own scores

All rows of one recipe are of the same held-out pairs, in all and by kind.
"""

import torch
from torch import Tensor

from bloomery.core.intervals import wilson
from bloomery.core.metrics import say
from bloomery.core.records import Preference
from bloomery.evaluate.preference import PairScores, score_pairs
from bloomery.generate.scoring import RewardModel, score_completions


def policy_rows(name: str, scores: PairScores, before: tuple[str, PairScores] | None) -> list[dict]:
    """A language model's rows; `before` is the model that its implied rewards are counted from."""
    found = accuracy_rows(name, "likelihood", scores.logps / scores.lengths, scores.kinds)
    if before and before[1].ids == scores.ids:
        found += accuracy_rows(name, f"over {before[0]}", scores.logps - before[1].logps, scores.kinds)
    return found


def reward_rows(name: str, judge: RewardModel, pairs: list[Preference]) -> list[dict]:
    """A reward model's rows."""
    scores = score_pairs(judge.model, pairs, judge.renderer, score=score_completions)
    return accuracy_rows(name, "reward", scores.logps, scores.kinds)


def accuracy_rows(name: str, by: str, values: Tensor, kinds: tuple[str, ...]) -> list[dict]:
    """How often the first of two values (P, 2) is the larger, in all (kind "") and of every kind of several."""
    found = []
    for kind in ["", *sorted(set(kinds))] if len(set(kinds)) > 1 else [""]:
        of_kind = values[torch.tensor([not kind or each == kind for each in kinds])]
        right = int((of_kind[:, 0] > of_kind[:, 1]).sum())
        low, high = wilson(right, len(of_kind))
        found.append({"model": name, "by": by, "kind": kind, "accuracy": right / len(of_kind), "low": low, "high": high,
                      "pairs": len(of_kind)})
    return found


def say_rows(rows: list[dict]) -> None:
    """The table for people: a line for each model and way of judging, its kinds at the end."""
    for row in rows:
        if not row["kind"]:
            kinds = [f"{other['kind']} {other['accuracy']:.1%}" for other in rows
                     if other["kind"] and (other["model"], other["by"]) == (row["model"], row["by"])]
            say(f"  {row['model']:12} {row['by']:16} {row['accuracy']:6.1%}  [{row['low']:.1%}, {row['high']:.1%}] of "
                f"{row['pairs']}  {', '.join(kinds)}".rstrip())
