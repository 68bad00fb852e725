"""Best of n: what is chosen, and how far that is from the model, against enumeration and the closed forms."""

import itertools
import math
import random

import pytest

from bloomery.generate.best_of import (
    best_of,
    best_of_n,
    combine,
    disagreement,
    exact_kl,
    expected_best,
    kl_bound,
    kl_estimate,
    ranking,
    win_rate,
    win_rate_bound,
)


def drawn(probabilities: list[float], rewards: list[float], n: int) -> list[float]:
    """The distribution of the first best of n draws, by enumeration."""
    out = [0.0] * len(probabilities)
    for draw in itertools.product(range(len(probabilities)), repeat=n):
        kept = draw[best_of([rewards[i] for i in draw])]
        out[kept] += math.prod(probabilities[i] for i in draw)
    return out


@pytest.mark.parametrize("rewards", [[3.0, 1.0, 2.0, 0.5], [1.0, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_exact_kl_is_that_of_enumeration_ties_included(rewards, n):
    probabilities = [0.1, 0.4, 0.3, 0.2]
    q = drawn(probabilities, rewards, n)
    expected = sum(a * math.log(a / p) for a, p in zip(q, probabilities, strict=True))
    assert exact_kl(probabilities, n, rewards) == pytest.approx(expected, abs=1e-12)
    assert sum(best_of_n(probabilities, n, rewards)) == pytest.approx(1)
    wins = sum(a * p * ((x > y) + 0.5 * (x == y)) for a, x in zip(q, rewards, strict=True)
               for p, y in zip(probabilities, rewards, strict=True))
    assert win_rate(probabilities, n, rewards) == pytest.approx(wins, abs=1e-12)


def test_the_bound_holds_and_is_met_without_ties():
    chance = random.Random(0)
    for n in (1, 2, 7, 64):
        for _ in range(20):
            weights = [chance.random() ** 3 for _ in range(chance.randint(1, 30))]
            probabilities = [w / sum(weights) for w in weights]
            assert exact_kl(probabilities, n) <= kl_bound(n) + 1e-12
            assert win_rate(probabilities, n) <= win_rate_bound(n) + 1e-12
        fine = [1 / 20_000] * 20_000
        assert exact_kl(fine, n) == pytest.approx(kl_bound(n), abs=1e-3)
        assert win_rate(fine, n) == pytest.approx(win_rate_bound(n), abs=1e-3)
    assert exact_kl([0.5, 0.5], 16) == pytest.approx(math.log(2), abs=1e-3) and kl_bound(16) > 1.8


@pytest.mark.parametrize("n", [1, 4, 16])
@pytest.mark.parametrize("p", [0.9, 0.3, 0.01])
def test_the_estimate_is_exact_where_only_the_best_answer_has_mass(n, p):
    rest = 20_000
    assert kl_estimate(math.log(p), n) == pytest.approx(exact_kl([(1 - p) / rest] * rest + [p], n), abs=1e-3)


def test_the_estimate_at_its_ends():
    assert kl_estimate(-5000.0, 16) == pytest.approx(kl_bound(16)) == kl_estimate(-60.0, 16)
    assert kl_estimate(0.0, 16) == 0 == kl_estimate(-3.0, 1) and kl_estimate(1e-7, 16) == 0


def test_the_best_is_the_first_of_equals():
    assert best_of([0.1, 0.9, 0.3, 0.9]) == 1 and best_of([-2.0]) == 0
    assert ranking([0.1, 0.9, 0.3, 0.9]) == [1, 3, 2, 0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_never_chosen_from(wrong):
    with pytest.raises(FloatingPointError, match="score 1 of 3"):
        best_of([1.0, wrong, 0.0])


def test_the_expected_best_is_the_mean_over_all_subsets():
    scores = [0.3, -1.0, 2.5, 2.5, 0.0, 1.0]
    for n in range(1, 7):
        subsets = [max(s) for s in itertools.combinations(scores, n)]
        assert expected_best(scores, n) == pytest.approx(sum(subsets) / len(subsets))


def test_ensembles():
    scores = [[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]]
    assert combine(scores) == pytest.approx([2.0, 1.0]) and combine(scores, "min") == [1.0, 0.0]
    assert combine(scores, "lower", 0.5) == pytest.approx([2 - 0.5 * (2 / 3) ** 0.5, 1 - 0.5 * 2 ** 0.5])
    assert combine(scores, "variance", 0.5) == pytest.approx([2 - 1 / 3, 0.0])
    assert disagreement(scores) == pytest.approx([(2 / 3) ** 0.5, 2 ** 0.5])
    assert combine([[1.0, 2.0]], "lower") == [1.0, 2.0]


@pytest.mark.parametrize(("call", "said"), [
    (lambda: best_of([]), "no score"), (lambda: exact_kl([0.5, 0.4], 2), "sum to 1"), (lambda: kl_bound(0), "n must"),
    (lambda: exact_kl([1.0], 0), "n must"), (lambda: expected_best([1.0], 2), "between 1 and"),
    (lambda: combine([[1.0], [1.0, 2.0]]), "every answer"), (lambda: combine([[1.0]], "median"), "median"),
    (lambda: kl_estimate(-1.0, 0), "n must"), (lambda: exact_kl([], 2), "at least 0")])
def test_what_makes_no_sense_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
