"""Win rates: ties count half, the interval is Wilson's, and nothing compared is no rate."""

import math

import pytest

from bloomery.core.intervals import wilson
from bloomery.generate.winrate import Tally, tally


def test_scores_are_compared_prompt_by_prompt():
    assert tally([1, 2, 3, 0], [0, 2, 4, 0]) == Tally(1, 2, 1)
    assert tally([1, 2, 3, 0], [0, 2, 4, 0]).rate == 0.5 and Tally(0, 4, 0).decided is None
    with pytest.raises(ValueError):
        tally([1], [1, 2])
    with pytest.raises(FloatingPointError, match="not finite"):
        tally([math.nan], [1])


@pytest.mark.parametrize("wrong", [(0, 0, 0), (1, -1, 1)])
def test_no_comparison_is_no_rate(wrong):
    with pytest.raises(ValueError, match="needs comparisons"):
        Tally(*wrong)


def test_the_interval_solves_wilsons_equation_and_is_told():
    found = Tally(12, 3, 5)
    for end in found.interval():
        assert abs(found.rate - end) == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / 20))
    told = found.metrics("rate")
    assert (told["rate"], told["rate_ties"]) == (0.675, 0.15) and told["rate_low"] < 0.675 < told["rate_high"]
    assert Tally(10, 0, 0).interval() == wilson(10, 10) and Tally(10, 0, 0).interval()[0] < 0.8
