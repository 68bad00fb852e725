"""Shares are those of the formula, and every prefix of a run has them, whatever step one asks for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.data.mixture import (
    domain_shares,
    largest_remainder,
    limited_shares,
    taken,
    temperature_shares,
    turns,
    unimax_shares,
)

WEIGHTS = st.lists(st.floats(0.001, 1), min_size=1, max_size=6)


def test_the_cap_comes_first_then_the_temperature():
    """min(N, 2000)^(1/2): 10 : 31.6 : 44.7."""
    roots = np.sqrt([100, 1000, 2000])
    assert temperature_shares([100, 1000, 10_000], temperature=2, cap=2000) == pytest.approx(roots / roots.sum())


@pytest.mark.parametrize(("temperature", "expected"), [(1, [0.25, 0.75]), (1e12, [0.5, 0.5]), (0.01, [0, 1])])
def test_temperature_goes_from_the_largest_only_to_all_alike(temperature, expected):
    assert temperature_shares([10**300, 3 * 10**300], temperature=temperature) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("arguments", [{"sizes": [1, 0]}, {"sizes": [1], "temperature": 0}, {"sizes": [1], "cap": -1},
                                       {"sizes": [1], "temperature": float("nan")}, {"sizes": []}])
def test_what_has_no_share_is_refused(arguments):
    with pytest.raises(ValueError, match="above 0|no sizes"):
        temperature_shares(**arguments)


def test_empty_and_weightless_domains_are_left_out_loudly(capsys):
    assert domain_shares({"web": 30, "code": 10, "none": 0}) == pytest.approx({"web": 0.75, "code": 0.25})
    assert "domain none is left out: it has no samples" in capsys.readouterr().err
    assert domain_shares({"web": 30, "code": 10}, weights={"web": 0, "code": 7}) == {"code": 1.0}
    assert "domain web is left out: it weighs nothing" in capsys.readouterr().err
    with pytest.raises(ValueError, match="every domain is empty"):
        domain_shares({"web": 0})


@given(weights=WEIGHTS, count=st.integers(1, 3000))
def test_every_prefix_has_the_right_shares(weights, count):
    shares = np.array(weights) / sum(weights)
    domain, place = turns(shares, 0, count)
    for index in range(len(shares)):
        mine = domain == index
        assert place[mine].tolist() == list(range(mine.sum()))              # each sample of a domain once, in order
        assert abs(np.cumsum(mine) - shares[index] * np.arange(1, count + 1)).max() <= 1 + len(shares) / 2
    assert taken(shares, count).tolist() == np.bincount(domain, minlength=len(shares)).tolist()


@given(weights=WEIGHTS, first=st.integers(0, 10**9), size=st.integers(1, 64))
def test_any_step_can_be_asked_for_directly(weights, first, size):
    shares = np.array(weights) / sum(weights)
    whole = turns(shares, max(first - 50, 0), first + size + 50)
    part = turns(shares, first, first + size)
    skipped = first - max(first - 50, 0)
    assert all(np.array_equal(w[skipped:skipped + size], p) for w, p in zip(whole, part, strict=True))
    assert (taken(shares, first + size) - taken(shares, first)).tolist() == \
        np.bincount(part[0], minlength=len(shares)).tolist()


def test_equal_shares_take_turns():
    assert turns(np.array([0.5, 0.5]), 0, 6)[0].tolist() == [0, 1, 0, 1, 0, 1]
    assert turns(np.array([0.75, 0.25]), 0, 8)[0].tolist() == [0, 0, 1, 0, 0, 0, 1, 0]


def test_known_turns_never_change():
    """A checkpoint of an earlier version goes on with the same data."""
    domain, place = turns(np.array([0.6, 0.3, 0.1]), 1000, 1010)
    assert (domain.tolist(), place.tolist()) == ([0, 1, 0, 0, 1, 2, 0, 0, 1, 0],
                                                 [600, 300, 601, 602, 301, 100, 603, 604, 302, 605])


def test_unimax_by_hand():
    """Budget 100 of sizes 5, 20, 1000 at two epochs: 33 each would be 6.7 epochs of the first, which gives 10."""
    assert unimax_shares([5, 20, 1000], 100, 2) == pytest.approx([0.1, 0.4, 0.5])
    assert unimax_shares([1000, 5, 20], 100, 2) == pytest.approx([0.5, 0.1, 0.4])
    assert unimax_shares([5, 20, 1000], 100, 1e9) == pytest.approx([1 / 3] * 3)
    assert unimax_shares([10, 20], 100, 1) == pytest.approx([1 / 3, 2 / 3])          # all of it, over and over


@given(weights=WEIGHTS, limits=st.lists(st.floats(0.01, 1), min_size=6, max_size=6))
def test_no_share_is_above_its_limit_and_those_below_keep_their_proportions(weights, limits):
    weights, limits = np.array(weights), np.array(limits[:len(weights)])
    found = limited_shares(weights, limits)
    assert found.sum() == pytest.approx(1)
    if limits.sum() >= 1:
        free = found < limits * (1 - 1e-9)
        assert (found <= limits * (1 + 1e-9)).all()
        assert not free.any() or np.ptp((found / weights)[free]) == pytest.approx(0, abs=1e-6 * (found / weights).max())


@pytest.mark.parametrize("arguments", [([0.0, 1], [1, 1]), ([1, 1], [0, 1])])
def test_limits_and_shares_are_above_nothing(arguments):
    with pytest.raises(ValueError, match="above 0"):
        limited_shares(*arguments)


@given(weights=WEIGHTS, total=st.integers(0, 10_000))
def test_whole_numbers_have_the_total_and_are_less_than_one_off(weights, total):
    shares = np.array(weights) / sum(weights)
    counts = largest_remainder(shares, total)
    assert counts.sum() == total and (np.abs(counts - shares * total) < 1 + 1e-9).all()


def test_ties_of_remainders_go_to_the_first():
    assert largest_remainder(np.array([1, 1, 1]) / 3, 10).tolist() == [4, 3, 3]
