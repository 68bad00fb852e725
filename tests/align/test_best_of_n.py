"""The best-of-N curve: against all subsets counted one by one, and where answers tie."""

import math
from itertools import combinations
from statistics import fmean

import pytest

from bloomery.align.best_of_n import by_n, curve, numbers, of_the_best, peak
from bloomery.generate.best_of import expected_best, kl_bound

SCORES = [0.3, -1.0, 2.0, 0.9, 0.1, -0.4]
VALUES = [5.0, 1.0, -2.0, 3.0, 0.0, 7.0]


@pytest.mark.parametrize("n", range(1, 7))
def test_what_is_said_of_the_best_is_its_mean_over_all_subsets(n):
    subsets = list(combinations(range(6), n))
    wanted = fmean(VALUES[max(subset, key=SCORES.__getitem__)] for subset in subsets)
    assert of_the_best(SCORES, VALUES, n) == pytest.approx(wanted)
    assert of_the_best(SCORES, SCORES, n) == pytest.approx(expected_best(SCORES, n))


def test_of_equal_scores_the_first_is_the_best():
    subsets = [(0, 1), (0, 2), (1, 2)]
    wanted = fmean(VALUES[max(subset, key=lambda i: ([0.0, 1.0, 1.0][i], -i))] for subset in subsets)
    assert of_the_best([0.0, 1.0, 1.0], VALUES[:3], 2) == pytest.approx(wanted)


def test_a_curve_goes_up_to_all_answers_and_stays_below_its_bounds():
    assert numbers(6) == [1, 2, 4, 6] and numbers(1) == [1] and numbers(8) == [1, 2, 4, 8]
    rows = curve([SCORES, SCORES[::-1]], [[-9.0] * 6, [-30.0] * 6])
    assert [row["n"] for row in rows] == [1, 2, 4, 6] and "gold" not in rows[0]
    assert rows[0] | {"kl_exact": 0, "kl_estimate": 0, "kl_bound": 0} == rows[0]
    for row in rows:
        assert row["kl_exact"] <= row["kl_bound"] + 1e-12 and row["win_rate"] <= row["win_rate_bound"] + 1e-12
    assert all(b["reward"] > a["reward"] and b["kl_exact"] > a["kl_exact"]
               for a, b in zip(rows, rows[1:], strict=False))
    assert rows[-1]["kl_estimate"] == pytest.approx(kl_bound(6), abs=1e-3)         # answers that are rare


def test_two_equally_likely_scores_are_never_further_than_log_two():
    rows = curve([[0.0, 1.0] * 8], [[math.log(0.5)] * 16])
    assert rows[-1]["kl_exact"] == pytest.approx(math.log(2), abs=1e-3) and rows[-1]["kl_bound"] > 1.8
    assert rows[-1]["kl_estimate"] == pytest.approx(math.log(2), abs=1e-3)


def test_the_curve_is_told_as_tables_and_its_gold_peak_is_found():
    gold = [[score - score**2 for score in SCORES]]
    rows = curve([SCORES], [[-5.0] * 6], gold)
    assert by_n(rows)["best_of_n/gold"] == {str(row["n"]): row["gold"] for row in rows}
    assert set(peak(rows)) >= {"gold_alpha", "gold_beta"} and peak(curve([SCORES], [[-5.0] * 6])) == {}
    exact = [{"kl_bound": d * d, "gold": 3 + d * (1 - 0.25 * d)} for d in (0.0, 0.5, 1.0, 3.0)]
    assert peak(exact) == pytest.approx({"gold_alpha": 1, "gold_beta": 0.25, "gold_peak_kl": 4, "gold_peak_gain": 1})
