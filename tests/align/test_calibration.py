"""Calibration of rewards: measures against their sums, and the temperature that made the labels is found."""

import math

import pytest
import torch

from bloomery.align.calibration import BINS, accuracy, brier, correlation, ece, nll, reliability, temperature


def labelled(true: float, count: int = 40_000, seed: int = 0) -> torch.Tensor:
    """Differences of a model whose labels are drawn at temperature `true`: the sign says who won."""
    generator = torch.Generator().manual_seed(seed)
    d = torch.randn(count, dtype=torch.float64, generator=generator).abs() * 3
    won = torch.rand(count, dtype=torch.float64, generator=generator) < torch.sigmoid(d / true)
    return torch.where(won, d, -d)


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_of_the_labels_is_found_and_calibrates(true):
    d = labelled(true)
    found = temperature(d)
    assert found == pytest.approx(true, rel=0.05)
    assert ece(d / found) < 0.015
    assert nll(d / found) <= min(nll(d / t) for t in (found * 0.9, found * 1.1, 1.0))
    assert (ece(d) > 0.05) == (true != 1.0)


def test_a_temperature_changes_no_winner():
    d = labelled(2.0, count=500)
    assert accuracy(d / temperature(d)) == accuracy(d)


def test_models_that_are_always_or_never_right_have_the_last_temperature():
    assert temperature(torch.tensor([1.0, 2.0])) < 0.01 and temperature(torch.tensor([-1.0, -2.0])) > 900
    with pytest.raises(ValueError, match="no pairs"):
        temperature(torch.tensor([]))


def test_bins_hold_every_pair_once_and_their_gaps_are_the_error():
    d = labelled(1.0, count=3000)
    bins = reliability(d)
    assert len(bins) == BINS and sum(b.count for b in bins) == 3000
    by_hand = 0.0
    for b in bins:
        confidence = torch.sigmoid(d.abs())
        inside = (confidence >= b.low) & (confidence < b.high)
        assert int(inside.sum()) == b.count
        by_hand += abs(float((d[inside] > 0).double().sum() - confidence[inside].sum()))
    assert ece(d) == pytest.approx(by_hand / 3000, abs=1e-9)


def test_no_difference_is_wrong_and_half_sure():
    d = torch.zeros(4, dtype=torch.float64)
    assert accuracy(d) == 0 and ece(d) == 0.5 and brier(d) == 0.25 and nll(d) == pytest.approx(math.log(2))
    assert math.isnan(reliability(d)[-1].right)


def test_correlation_is_pearson_s():
    x, y = torch.randn(2, 50, dtype=torch.float64)
    assert correlation(x, y) == pytest.approx(float(torch.corrcoef(torch.stack([x, y]))[0, 1]), abs=1e-12)
    assert correlation(x, -2 * x + 1) == pytest.approx(-1) and correlation(x, torch.ones(50)) == 0.0
