"""Intervals hold what they should as often as they say, and tests find differences that are there."""

from itertools import product

import numpy as np
import pytest

from bloomery.evaluate.resampling import PAIRED, bootstrap, bootstrap_of, paired_bootstrap, sign_flips


def test_an_interval_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        found = bootstrap(generator.random(50) < 0.3, draws=400, confidence=0.9, seed=seed)
        held += found.low <= 0.3 <= found.high
        assert found.low <= found.score <= found.high
    assert 0.82 < held / 200 < 0.96


def test_an_interval_is_that_of_the_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    found = bootstrap(values, seed=1)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.05)
    assert found == bootstrap(values, seed=1) != bootstrap(values, seed=2)


def test_any_statistic_has_an_interval():
    values = np.random.default_rng(0).normal(size=200)
    found = bootstrap_of(lambda places: float(np.median(values[places])), 200, seed=1)
    assert found.score == np.median(values) and found.low < found.score < found.high < found.low + 0.5


def test_sign_flips_are_exact_where_they_are_few():
    ours, theirs = [1, 1, 1, 0, 1, 1, 1, 0], [0, 0, 1, 0, 0, 1, 0, 1]
    differences = np.subtract(ours, theirs)
    means = [np.mean(np.multiply(signs, differences)) for signs in product([1, -1], repeat=8)]
    found = sign_flips(ours, theirs)
    assert found.p_value == pytest.approx(np.mean(np.abs(means) >= abs(differences.mean()) - 1e-12))
    assert found.difference == 0.375 and found.low <= 0.375 <= found.high


@pytest.mark.parametrize("test", PAIRED.values())
def test_a_difference_is_found_and_none_is_not(test):
    generator = np.random.default_rng(0)
    hard = generator.random(300)
    ours, theirs = hard + 0.05 + 0.1 * generator.normal(size=300), hard + 0.1 * generator.normal(size=300)
    assert test(ours, theirs, draws=2000).p_value < 0.001 < test(ours, theirs, draws=2000).low
    chances = [test(generator.random(40), generator.random(40), draws=300, seed=seed).p_value for seed in range(100)]
    assert np.mean(np.array(chances) < 0.1) < 0.2 and 0.35 < np.mean(chances) < 0.65
    assert test([1, 2, 3], [1, 2, 3]).p_value == 1


def test_what_cannot_be_drawn_is_an_error():
    with pytest.raises(ValueError, match="same questions"):
        paired_bootstrap([1], [1, 2])
    for wrong in (lambda: bootstrap([]), lambda: bootstrap_of(len, 0), lambda: bootstrap([1.0], confidence=1)):
        with pytest.raises(ValueError):
            wrong()
