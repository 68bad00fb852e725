"""Training ends when validations stop getting better, and what is exported is the best of them, resumed or not."""

import math
import signal
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from bloomery.core.errors import BloomeryError, ConfigError, Preempted
from bloomery.core.metrics import read_metrics
from bloomery.data.batch import rectangle
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.train.hooks import BEST_STEP, EarlyStopping
from bloomery.train.objective import causal_lm, total_nll
from bloomery.train.session import TrainingConfig, train
from bloomery.train.state import State

TINY = ModelConfig(vocabulary=16, context=8, depth=1, width=8, heads=1, kv_heads=1, head_width=8, hidden=8)
DATA = torch.randint(0, 16, (4, 9), generator=torch.Generator().manual_seed(0))
VALUES = [3.0, 2.5, 2.6, 2.0, 2.4, 2.1, 2.2, 1.0, 0.5, 0.4]     # patience 3 ends at the seventh, step 12; the best is 6


def tiny(out: Path, *, values: list[float] = VALUES, extra=(), **changes) -> State:
    """A run that validates every 2 steps and finds `values`."""
    config = TrainingConfig(**{"steps": 18, "precision": "fp32", "save_every": 5, "validate_every": 2,
                               "early_stopping": EarlyStopping(patience=3), "background": False} | changes)
    out.mkdir(exist_ok=True)
    measured = {}

    def validate(model):
        step = len(read_metrics(out / "metrics.jsonl")) and max(r["step"] for r in read_metrics(out / "metrics.jsonl"))
        measured[step] = total_nll(model, [rectangle(DATA)])[0]
        return {"val_loss": values[step // 2], "nats": measured[step]}

    return train(Transformer(TINY, seed=0), config, out, name="tiny", objective=causal_lm, validate=validate,
                 stream=lambda step: [rectangle(DATA)], extra=extra)


def nats(state: State) -> float:
    return total_nll(state.model, [rectangle(DATA)])[0]


def test_it_ends_with_the_weights_and_metrics_of_the_best_validation(tmp_path):
    state = tiny(tmp_path)
    assert state.step == 12 and state.best[BEST_STEP] == 6 and state.best["val_loss"] == 2.0
    row = next(r for r in read_metrics(tmp_path / "metrics.jsonl") if r["step"] == 6 and "nats" in r)
    assert nats(state) == pytest.approx(row["nats"], rel=1e-6)
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000006", "step-00000010", "step-00000012"]          # the best is not removed as old


@pytest.mark.parametrize("background", [False, True])
def test_the_start_may_be_the_best(tmp_path, background):
    state = tiny(tmp_path, values=[float(i) for i in range(10)], background=background)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert state.step == 6 and state.best[BEST_STEP] == 0 and nats(state) == pytest.approx(rows[0]["nats"], rel=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(state.model.parameters(), Transformer(TINY, seed=0).parameters(),
                                                 strict=True))


def test_a_run_goes_on_from_a_checkpoint_before_the_first_step(tmp_path):
    """All there is of a run that was killed before its first ordinary checkpoint."""
    class Killed(BaseException):
        pass

    def kill(state, report):
        raise Killed

    with pytest.raises(Killed):
        tiny(tmp_path / "parts", extra=(kill,))
    assert [p.name for p in (tmp_path / "parts" / "checkpoints").iterdir()] == ["step-00000000"]
    parts, whole = tiny(tmp_path / "parts"), tiny(tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(parts.model.parameters(), whole.model.parameters(), strict=True))


def test_without_it_the_last_weights_are_exported(tmp_path):
    plain = tiny(tmp_path / "plain", early_stopping=None)
    assert plain.step == 18 and plain.best["val_loss"] == 0.4 and BEST_STEP not in plain.best


def test_a_run_that_gets_better_to_the_end_goes_to_the_end(tmp_path):
    state = tiny(tmp_path, values=[float(-i) for i in range(10)])
    plain = tiny(tmp_path / "plain", early_stopping=None)
    assert state.step == state.best[BEST_STEP] == 18 and nats(state) == nats(plain)


@pytest.mark.parametrize("at", [1, 3, 7, 11, 12])
def test_stopped_and_gone_on_with_it_ends_where_an_undisturbed_run_does(tmp_path, at):
    def ask(state, report):
        if state.step == at:
            signal.raise_signal(signal.SIGTERM)

    whole = tiny(tmp_path / "whole")
    if at < 12:
        with pytest.raises(Preempted):
            tiny(tmp_path / "parts", extra=(ask,))
    else:
        tiny(tmp_path / "parts")                                # ended, then lost before it was exported
    parts = tiny(tmp_path / "parts")
    assert parts.step == 12 and parts.best == whole.best
    assert all(torch.equal(a, b) for a, b in zip(parts.model.parameters(), whole.model.parameters(), strict=True))


def test_the_best_average_is_exported_where_one_is_kept(tmp_path):
    state = tiny(tmp_path, ema=0.9)
    row = next(r for r in read_metrics(tmp_path / "metrics.jsonl") if r["step"] == 6 and "nats" in r)
    assert nats(state) == pytest.approx(row["nats"], rel=1e-6)


def test_a_damaged_best_checkpoint_is_told(tmp_path):
    def damage(state, report):
        if state.step == 9:
            (tmp_path / "checkpoints" / "step-00000006" / "model.safetensors").write_bytes(b"")

    with pytest.raises(BloomeryError, match="damaged") as caught:
        tiny(tmp_path, extra=(damage,))
    assert "step-00000006" in caught.value.where


def test_nothing_to_go_by_is_told_before_the_first_step(tmp_path):
    with pytest.raises(ConfigError, match="nothing to go by") as caught:
        tiny(tmp_path, early_stopping=EarlyStopping(metric="val_accuracy"))
    assert "val_loss" in caught.value.why and not (tmp_path / "checkpoints").exists() or \
        not any((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize(("mode", "values", "best"), [
    ("min", [math.nan, 2.0, math.nan, math.nan], 1), ("max", [1.0, math.nan, 1.0, 1.0], 0),
])
def test_a_value_that_is_no_number_is_no_gain(mode, values, best):
    rule, kept = EarlyStopping(mode=mode, patience=2), {}
    for step, value in enumerate(values):
        kept |= {"val_loss": value}
        kept |= rule.judged(kept, step)
    assert kept[BEST_STEP] == best and rule.enough(kept)


def test_patience_is_at_least_one():
    with pytest.raises(ValidationError):
        EarlyStopping(patience=0)
