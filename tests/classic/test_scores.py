"""Scores by hand and against scikit-learn."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.classic.scores import average_precision, classified, ndcg, reciprocal_rank

LABELS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30)


def test_labels_by_hand():
    found = classified(["a", "a", "b", "c"], ["a", "b", "b", "b"])
    assert found.accuracy == 0.5 == found.micro.precision == found.micro.f1
    assert (found.labels["b"].precision, found.labels["b"].recall, found.labels["b"].f1) == (1 / 3, 1.0, 0.5)
    assert found.labels["c"].f1 == 0 and found.labels["c"].support == 1
    assert found.macro.f1 == pytest.approx((2 / 3 + 0.5 + 0) / 3)
    assert found.weighted.recall == pytest.approx((2 * 0.5 + 1 + 0) / 4) and found.weighted.support == 4
    without = classified(["O", "x", "O", "x"], ["O", "x", "x", "O"], labels=["x"])
    assert without.micro.f1 == 0.5 and list(without.labels) == ["x"]
    with pytest.raises(ValueError, match="as many"):
        classified(["a"], [])


@given(LABELS)
def test_labels_as_scikit_learn_scores_them(pairs):
    metrics = pytest.importorskip("sklearn.metrics")
    truths, guesses = zip(*pairs)
    found = classified(truths, guesses)
    for average in ("micro", "macro", "weighted"):
        theirs = metrics.precision_recall_fscore_support(truths, guesses, average=average, zero_division=0)[:3]
        ours = getattr(found, average)
        assert (ours.precision, ours.recall, ours.f1) == pytest.approx(theirs), average


def test_rankings_by_hand():
    ranking, relevant = ["x", "a", "y", "b"], {"a", "b", "c"}
    assert reciprocal_rank(ranking, relevant) == 0.5 and reciprocal_rank(["x"], relevant) == 0
    assert average_precision(ranking, relevant) == pytest.approx((1 / 2 + 2 / 4) / 3)
    best = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(ranking, relevant) == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / best)
    assert ndcg(ranking, relevant, 1) == ndcg([], relevant) == ndcg(ranking, {}) == average_precision(ranking, {}) == 0
    assert ndcg(["a", "b"], {"a": 3, "b": 1}, exponential=True) == 1
    assert ndcg(["b", "a"], {"a": 3, "b": 1}, exponential=True) == pytest.approx(
        (1 + 7 / math.log2(3)) / (7 + 1 / math.log2(3)))


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1)), min_size=2, max_size=20, unique_by=lambda pair: pair[1]))
def test_ndcg_as_scikit_learn_scores_it(rows):
    metrics = pytest.importorskip("sklearn.metrics")
    grades = {place: grade for place, (grade, _) in enumerate(rows)}
    ranking = sorted(grades, key=lambda place: -rows[place][1])
    for k in (3, None):
        theirs = metrics.ndcg_score([[grade for grade, _ in rows]], [[score for _, score in rows]], k=k)
        assert ndcg(ranking, grades, k) == pytest.approx(theirs)
