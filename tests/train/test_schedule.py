"""The learning rate: what it was by default, where it is held, how it falls, and which schedules have no meaning."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.core.errors import ConfigError
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.train.optim import OptimizerConfig
from bloomery.train.schedule import SCHEDULES, ScheduleConfig, cosine, linear, rate, warmup_from_zero
from bloomery.train.state import fresh

TINY = ModelConfig(vocabulary=11, context=8, depth=1, width=8, heads=2, kv_heads=1, head_width=4, hidden=8)


def rates(steps: int, *, more: int = 0, **options) -> list[float]:
    settings = ScheduleConfig(**{"lr": 1.0, "floor": 0.0} | options)
    return [rate(settings, step, steps) for step in range(steps + more)]


@given(steps=st.integers(1, 300), share=st.floats(0, 0.99), floor=st.floats(0, 1), step=st.integers(0, 400),
       name=st.sampled_from(sorted(SCHEDULES)), decay=st.none() | st.floats(0.001, 1))
def test_the_rate_stays_between_its_bounds_and_rises_only_while_warming_up(steps, share, floor, step, name, decay):
    settings = ScheduleConfig(lr=2.0, schedule=name, warmup=share, floor=floor, decay=decay)
    now, then = rate(settings, step, steps), rate(settings, step + 1, steps)
    assert 0 < now <= 2.0 + 1e-12 or floor == 0
    if step >= round(share * steps):
        assert 2.0 * floor - 1e-12 <= then <= now + 1e-12


@given(steps=st.integers(1, 300), share=st.floats(0, 0.99), floor=st.floats(0, 1), step=st.integers(0, 400))
def test_the_default_is_warm_up_and_cosine_to_the_bit(steps, share, floor, step):
    warmup = min(round(share * steps), steps - 1)
    progress = min((step - warmup) / (steps - warmup), 1.0)
    expected = 3e-3 * (step + 1) / warmup if step < warmup else \
        3e-3 * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
    assert rate(ScheduleConfig(lr=3e-3, warmup=share, floor=floor), step, steps) == expected


def test_the_first_step_learns_and_the_peak_is_reached():
    assert rates(8, warmup=0.5)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_warm_up_is_a_share_or_a_number_of_steps():
    assert rates(20, warmup=4) == rates(20, warmup=0.2)
    assert rates(20, warmup=1) != rates(20, warmup=0.99)


def test_wsd_is_held_and_falls_over_its_last_fifth_as_one_minus_a_root():
    made = rates(20, schedule="wsd", warmup=2, floor=0.1)
    assert made[:3] == [0.5, 1.0, 1.0] and made[2:17] == [1.0] * 15
    assert made[17:] == pytest.approx([0.1 + 0.9 * (1 - (i / 4) ** 0.5) for i in (1, 2, 3)])
    assert rates(20, schedule="wsd-linear", warmup=0, decay=0.1, more=1)[17:] == [1.0, 1.0, 0.5, 0.0]


def test_a_run_that_is_held_at_its_peak_can_be_prolonged():
    assert rates(50, schedule="wsd")[3:40] == rates(100, schedule="wsd")[5:42] == [1.0] * 37


def test_any_schedule_may_fall_late_and_constant_never_falls():
    assert rates(10, schedule="linear", warmup=0, decay=0.5) == pytest.approx([1.0] * 6 + [0.8, 0.6, 0.4, 0.2])
    assert rates(10, schedule="constant", warmup=0, more=5) == [1.0] * 15


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "constant"])
def test_after_the_last_step_the_floor_is_held(name):
    assert rates(10, schedule=name, floor=0.25, more=4)[10:] == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("decay", [cosine, linear])
def test_the_form_that_begins_at_zero_holds_its_floor_too(decay):
    made = [warmup_from_zero(s, peak=1.0, warmup=2, total=10, floor=0.25, decay=decay) for s in range(14)]
    assert made[0] == 0 and made[2] == 1 and made[10:] == [0.25] * 4


@pytest.mark.parametrize(("warmup", "steps"), [(5, 5), (6, 5), (1, 1), (0, 0), (0.5, 0), (0.1, -3)])
def test_schedules_without_meaning_are_refused(warmup, steps):
    with pytest.raises(ValueError, match="0 <= warmup < total|does not end within a run"):
        rates(1, warmup=0) and rate(ScheduleConfig(warmup=warmup), 0, steps)
    with pytest.raises(ValueError, match="0 <= warmup < total"):
        warmup_from_zero(0, peak=1.0, warmup=max(steps, 0), total=steps)


def test_a_warm_up_longer_than_the_run_says_what_to_do():
    with pytest.raises(ConfigError) as caught:
        rate(ScheduleConfig(warmup=2000), 0, 1000)
    assert "2000" in caught.value.what and "below 1000" in caught.value.hint


@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_runs_of_any_length_have_a_schedule(steps):
    state = fresh(Transformer(TINY), OptimizerConfig(lr=1.0, warmup=0.9), steps=steps)
    for state.step in range(steps):
        assert 0 < state.learning_rate() <= 1.0
