"""How far a score may be chance: intervals by the bootstrap, and paired tests of two systems on the same questions.

Questions are drawn again with replacement, as if the test set had come out otherwise (Efron 1979; Koehn 2004 for
translation).  A paired test asks how often chance alone would part two systems as far as they are apart.  All draws
come from the seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Statistic = Callable[[np.ndarray], float]           # of the places of the questions drawn
AT_ONCE = 1 << 20                                   # numbers drawn in one go


@dataclass(frozen=True)
class Interval:
    """A score and the bounds between which `confidence` of the draws fall."""

    score: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class Difference:
    """How much better a system is than another, the chance of that or more without a cause, and its interval."""

    difference: float
    p_value: float
    low: float
    high: float


def bootstrap(scores: Sequence[float], *, draws: int = 10_000, confidence: float = 0.95, seed: int = 0) -> Interval:
    """The mean of scores, one a question, and its percentile interval."""
    values, bounds = checked(scores), tails(confidence)
    low, high = np.quantile(means(values, draws, seed), bounds)
    return Interval(float(values.mean()), float(low), float(high), confidence)


def bootstrap_of(statistic: Statistic, questions: int, *, draws: int = 1000, confidence: float = 0.95,
                 seed: int = 0) -> Interval:
    """The same for a score that is no mean, such as corpus BLEU: `statistic(places)` scores some of the questions."""
    if questions < 1:
        raise ValueError("there is no question to draw")
    generator = np.random.default_rng(seed)
    drawn = [statistic(generator.integers(questions, size=questions)) for _ in range(draws)]
    low, high = np.quantile(drawn, tails(confidence))
    return Interval(float(statistic(np.arange(questions))), float(low), float(high), confidence)


def paired_bootstrap(ours: Sequence[float], theirs: Sequence[float], *, draws: int = 10_000, confidence: float = 0.95,
                     seed: int = 0) -> Difference:
    """Ours less theirs.  p: how often a mean of differences around nothing is as far from it, on either side."""
    differences = paired(ours, theirs)
    found = means(differences, draws, seed)
    low, high = np.quantile(found, tails(confidence))
    mean = float(differences.mean())
    beyond = np.count_nonzero(np.abs(found - mean) >= abs(mean) - 1e-12)
    return Difference(mean, (beyond + 1) / (draws + 1), float(low), float(high))


def sign_flips(ours: Sequence[float], theirs: Sequence[float], *, draws: int = 10_000, confidence: float = 0.95,
               seed: int = 0) -> Difference:
    """The randomisation test (Fisher 1935; Noreen 1989): without a cause, each question might have gone the other way.

    All 2^n ways are tried where they are no more than `draws`, so that small tests are exact.
    """
    differences = paired(ours, theirs)
    size, mean = len(differences), float(differences.mean())
    exact = size < 63 and 2**size <= draws
    if exact:
        flips = (np.arange(2**size)[:, None] >> np.arange(size)) & 1                    # (2^n, n)
        found = ((1 - 2 * flips) * differences).mean(axis=1)
    else:
        generator, found = np.random.default_rng(seed), np.empty(draws)
        for rows in slices(draws, size):
            signs = generator.integers(2, size=(rows.stop - rows.start, size)) * 2 - 1
            found[rows] = (signs * differences).mean(axis=1)
    beyond = np.count_nonzero(np.abs(found) >= abs(mean) - 1e-12)
    low, high = np.quantile(means(differences, draws, seed), tails(confidence))
    return Difference(mean, beyond / len(found) if exact else (beyond + 1) / (draws + 1), float(low), float(high))


def means(values: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Means of `draws` samples of as many values, drawn with replacement."""
    generator, found = np.random.default_rng(seed), np.empty(draws)
    for rows in slices(draws, len(values)):
        places = generator.integers(len(values), size=(rows.stop - rows.start, len(values)))
        found[rows] = values[places].mean(axis=1)
    return found


def slices(draws: int, size: int) -> list[slice]:
    """Draws in parts that fit memory."""
    step = max(1, AT_ONCE // size)
    return [slice(start, min(start + step, draws)) for start in range(0, draws, step)]


def tails(confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return (1 - confidence) / 2, (1 + confidence) / 2


def checked(scores: Sequence[float]) -> np.ndarray:
    values = np.asarray(scores, float)
    if values.ndim != 1 or not len(values):
        raise ValueError("one score a question, and at least one question")
    return values


def paired(ours: Sequence[float], theirs: Sequence[float]) -> np.ndarray:
    if len(ours) != len(theirs):
        raise ValueError(f"both systems must answer the same questions, got {len(ours)} and {len(theirs)} scores")
    return checked(ours) - checked(theirs)


PAIRED = {"bootstrap": paired_bootstrap, "sign_flips": sign_flips}
