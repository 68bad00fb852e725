"""Wilson's interval against its definition: the values of p that a score test does not reject."""

import math

import pytest

from bloomery.core.intervals import wilson


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (5, 5), (13.5, 20), (640, 1000)])
def test_the_ends_are_just_not_rejected(successes, trials):
    for end in wilson(successes, trials):
        deviation = math.sqrt(end * (1 - end) / trials)
        assert abs(successes / trials - end) == pytest.approx(1.959963984540054 * deviation, abs=1e-9)


def test_it_stays_inside_and_shrinks():
    assert wilson(0, 10)[0] == 0.0 and wilson(10, 10)[1] == 1.0 and wilson(0, 0) == (0.0, 1.0)
    widths = [high - low for low, high in (wilson(n // 2, n) for n in (10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)
    wide, narrow = wilson(5, 10, 0.99), wilson(5, 10, 0.5)
    assert wide[0] < narrow[0] < 0.5 < narrow[1] < wide[1]


@pytest.mark.parametrize("wrong", [(-1, 5), (6, 5), (1, 2, 1.0)])
def test_what_is_no_share_is_refused(wrong):
    with pytest.raises(ValueError, match="successes <= trials"):
        wilson(*wrong)
