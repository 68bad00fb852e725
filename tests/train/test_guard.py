"""Steps that should not be taken are refused, counted and remembered, and never enter the statistics."""

import copy
import math

import pytest
import torch

from bloomery.data.batch import rectangle
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.train.guard import FEWEST, Guard, GuardConfig
from bloomery.train.loop import train_step
from bloomery.train.objective import causal_lm
from bloomery.train.optim import OptimizerConfig, moments
from bloomery.train.state import fresh

TINY = ModelConfig(vocabulary=12, context=8, depth=1, width=8, heads=2, kv_heads=1, head_width=4, hidden=8)


def seen(guard: Guard, count: int = FEWEST) -> Guard:
    for i in range(count):
        assert guard.judge(2.0 + i / 100, 1.0) is None
    return guard


def test_what_is_not_finite_stops_by_default_and_can_be_skipped():
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        Guard().judge(math.nan, 1.0)
    guard = seen(Guard(GuardConfig(non_finite="skip", patience=2)))
    before = guard.remembered() | {"skipped": 2, "in_a_row": 2}
    assert "gradient norm is inf" in guard.judge(2.0, math.inf) and "loss is nan" in guard.judge(math.nan, math.nan)
    assert guard.remembered() == before
    with pytest.raises(FloatingPointError, match="3 steps in a row"):
        guard.judge(math.inf, 1.0)


def test_a_good_step_ends_the_row_of_refusals():
    guard = Guard(GuardConfig(non_finite="skip", patience=1))
    for _ in range(5):
        assert guard.judge(math.nan, 1.0) and guard.judge(1.0, 1.0) is None
    assert guard.skipped == 5


def test_a_spike_is_measured_against_the_median_and_leaves_it_alone():
    guard = Guard(GuardConfig(spike=3.0))
    assert guard.judge(100.0, 1.0) is None                      # nothing to compare with yet
    guard = seen(Guard(GuardConfig(spike=3.0)))
    assert "3.9 times" in guard.judge(8.0, 1.0) and "gradient norm" in guard.judge(2.0, 3.5)
    assert guard.judge(5.9, 2.9) is None and guard.judge(8.0, 1.0)
    assert seen(Guard()).judge(1000.0, 1000.0) is None          # off by default


def test_the_window_survives_a_checkpoint():
    guard, again = seen(Guard(GuardConfig(spike=2.0, window=FEWEST)), 40), Guard(GuardConfig(spike=2.0, window=FEWEST))
    again.restore(guard.remembered())
    assert len(again.losses) == FEWEST and again.judge(5.0, 1.0) == guard.judge(5.0, 1.0) is not None


def test_a_refused_step_changes_neither_weights_nor_moments():
    state = fresh(Transformer(TINY, seed=0), OptimizerConfig(), steps=10)
    state.guard = Guard(GuardConfig(non_finite="skip"))
    batch = rectangle(torch.arange(9)[None])
    train_step(state, [batch], causal_lm, 1.0)
    kept = copy.deepcopy({**state.model.state_dict(), **moments(state.model, state.optimizers)})

    def broken(model, batch):
        loss, metrics = causal_lm(model, batch)
        return loss * math.nan, {**metrics, "loss": math.nan}

    report = train_step(state, [batch], broken, 1.0)
    assert "nan" in report.refused and state.step == 2 and state.guard.skipped == 1
    now = {**state.model.state_dict(), **moments(state.model, state.optimizers)}
    assert all(torch.equal(now[name], tensor) for name, tensor in kept.items())
    assert train_step(state, [batch], causal_lm, 1.0).refused is None
    assert not torch.equal(state.model.head.weight, kept["head.weight"])
