"""Fusion: reciprocal ranks and weighted sums by hand, ties that rounding does not decide, and centred vectors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.classic.fusion import FUSIONS, comb_mnz, comb_sum, directions, rrf

RANKINGS = [["a", "b", "c"], ["b", "a", "d"]]
LISTS = st.lists(st.permutations("abcdef").map(lambda p: p[:4]), min_size=1, max_size=5)


def test_reciprocal_ranks_by_hand():
    found = rrf(RANKINGS)
    assert found == pytest.approx({"a": 1 / 61 + 1 / 62, "b": 1 / 61 + 1 / 62, "c": 1 / 63, "d": 1 / 63})
    assert list(found) == ["a", "b", "c", "d"]                      # ties in the order of ids


def test_weights_say_what_a_ranking_is_worth():
    assert list(rrf(RANKINGS, weights=[1, 2])) == ["b", "a", "d", "c"]
    assert rrf(RANKINGS, weights=[1, 0])["d"] == 0
    assert rrf(RANKINGS, k=0)["a"] == pytest.approx(1.5)


@given(rankings=LISTS)
def test_the_order_of_the_rankings_decides_nothing(rankings):
    assert list(rrf(rankings).items()) == list(rrf(rankings[::-1]).items())


@given(rankings=LISTS)
def test_all_that_agree_are_followed(rankings):
    assert list(rrf([rankings[0]] * len(rankings))) == rankings[0]


def test_sums_of_scores_on_a_common_scale():
    terms, vectors = {"a": 12.0, "b": 4.0, "c": 2.0}, {"b": 0.9, "c": 0.1}
    assert comb_sum([terms, vectors]) == pytest.approx({"b": 1.2, "a": 1.0, "c": 0.0})
    assert list(comb_sum([terms, vectors], weights=[2, 1])) == ["a", "b", "c"]
    assert comb_sum([terms, vectors], scale="none") == pytest.approx({"a": 12, "b": 4.9, "c": 2.1})
    assert comb_mnz([terms, vectors]) == pytest.approx({"b": 2.4, "a": 1.0, "c": 0.0})
    deviations = comb_sum([terms], scale="z_score")
    assert sum(deviations.values()) == pytest.approx(0) and np.std(list(deviations.values())) == pytest.approx(1)


def test_equal_scores_and_empty_searches_are_no_division_by_zero():
    assert comb_sum([{"a": 3, "b": 3}, {}]) == {"a": 1, "b": 1}
    assert comb_sum([{"a": 3, "b": 3}], scale="z_score") == {"a": 0, "b": 0}
    assert all(fuse([]) == {} for fuse in FUSIONS.values())


@pytest.mark.parametrize("call, what", [(lambda: rrf(RANKINGS, k=-1), "k must not be negative"),
                                        (lambda: rrf([["a", "a"]]), "twice"),
                                        (lambda: rrf(RANKINGS, weights=[1]), "as many weights"),
                                        (lambda: comb_sum([{}], scale="log"), "scale must be one of")])
def test_what_cannot_be_fused_is_refused(call, what):
    with pytest.raises(ValueError, match=what):
        call()


def test_directions_are_what_is_not_common_to_all():
    vectors = np.array([[3.0, 1], [1, 1], [0, 0], [2, 3]])
    found = directions(vectors, np.array([2.0, 1]))
    assert found.tolist() == [[1, 0], [-1, 0], [0, 0], [0, 1]]          # an empty text's zeros stay
    assert directions(vectors[:1], vectors[0]).tolist() == [[0, 0]]
