"""Guessed labels and rankings against what is right: precision and recall, and what a searcher's patience meets.

Plain numbers in, plain numbers out.  Whatever would divide by nothing is 0, as scikit-learn and trec_eval have it, and
counts stand beside shares so that it shows.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import log2


@dataclass(frozen=True)
class Score:
    """Precision P, the share of guesses that are right; recall R, of what is right that is guessed; F1 = 2PR/(P+R)."""

    precision: float
    recall: float
    f1: float
    support: int                                # how often it is right

    @classmethod
    def of(cls, right: int, guessed: int, true: int) -> "Score":
        """From counts. F1 is 2 right / (guessed + true), which is the same and asks nothing of P and R."""
        return cls(right / guessed if guessed else 0.0, right / true if true else 0.0,
                   2 * right / (guessed + true) if guessed + true else 0.0, true)


@dataclass(frozen=True)
class Classified:
    """Scores of labels, and of all: micro counts every answer alike, macro every label, weighted by its support."""

    accuracy: float
    micro: Score
    macro: Score
    weighted: Score
    labels: dict[Hashable, Score]


def classified(truths: Sequence[Hashable], guesses: Sequence[Hashable], *,
               labels: Sequence[Hashable] | None = None) -> Classified:
    """Scores of one label a row.  `labels` says which count, by default all: leave out what stands for nothing.

    Raises `ValueError` where nothing was asked, or lengths differ.
    """
    if not truths or len(truths) != len(guesses):
        raise ValueError(f"as many guesses as truths and at least one, got {len(guesses)} and {len(truths)}")
    names = list(labels) if labels is not None else sorted({*truths, *guesses}, key=str)
    right = Counter(truth for truth, guess in zip(truths, guesses) if truth == guess)
    guessed, true = Counter(guesses), Counter(truths)
    counts = {name: (right[name], guessed[name], true[name]) for name in names}
    scores = {name: Score.of(*count) for name, count in counts.items()}
    support = sum(score.support for score in scores.values())
    return Classified(right.total() / len(truths), Score.of(*map(sum, zip(*counts.values()))),
                      mean([(score, 1) for score in scores.values()], support),
                      mean([(score, score.support) for score in scores.values()], support), scores)


def mean(scores: list[tuple[Score, float]], support: int) -> Score:
    """Scores averaged one by one, each with its weight; F1 is the mean of F1s, not the F1 of means."""
    total = sum(weight for _, weight in scores)
    share = {name: sum(getattr(score, name) * weight for score, weight in scores) / total if total else 0.0
             for name in ("precision", "recall", "f1")}
    return Score(**share, support=support)


# --- rankings: ids, best first, and which of them are relevant ----------------------------------------------------

def reciprocal_rank(ranking: Sequence[Hashable], relevant: Collection[Hashable]) -> float:
    """One over the place of the first relevant id; 0 where there is none.  MRR is its mean over questions."""
    return next((1 / place for place, one in enumerate(ranking, start=1) if one in relevant), 0.0)


def recall(ranking: Sequence[Hashable], relevant: Collection[Hashable], k: int | None = None) -> float:
    """The share of what is relevant that stands among the first k; 0 where nothing is relevant."""
    return sum(one in relevant for one in ranking[:k]) / len(relevant) if relevant else 0.0


def average_precision(ranking: Sequence[Hashable], relevant: Collection[Hashable]) -> float:
    """The mean of the precision at every relevant id, 0 for one that is not ranked.  MAP is its mean over questions."""
    right, total = 0, 0.0
    for place, one in enumerate(ranking, start=1):
        if one in relevant:
            right += 1
            total += right / place
    return total / len(relevant) if relevant else 0.0


def dcg(gains: Sequence[float]) -> float:
    """Sum of gains, each divided by log2(1 + place).  Järvelin and Kekäläinen 2002, with Burges' discount."""
    return sum(gain / log2(place + 1) for place, gain in enumerate(gains, start=1))


def ndcg(ranking: Sequence[Hashable], gains: Mapping[Hashable, float] | Collection[Hashable], k: int | None = None, *,
         exponential: bool = False) -> float:
    """DCG of the first k over that of the best order there could be; 0 where nothing is worth anything.

    `gains` are grades by id, or ids that are relevant; `exponential` makes 2^grade - 1 of a grade (Burges et al. 2005).
    """
    grades = dict(gains) if isinstance(gains, Mapping) else dict.fromkeys(gains, 1.0)
    worth = {one: 2.0**grade - 1 if exponential else float(grade) for one, grade in grades.items()}
    best = dcg(sorted(worth.values(), reverse=True)[:k])
    return dcg([worth.get(one, 0.0) for one in ranking[:k]]) / best if best else 0.0


RANKED = {"mrr": reciprocal_rank, "map": average_precision, "ndcg": ndcg, "recall": recall}
