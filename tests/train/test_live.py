"""The live view: what is logged beside the metrics, and what a person sees of it on a terminal and in a file."""

import io
import json
import math
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from bloomery.core import metrics
from bloomery.core.metrics import MetricLog, read_metrics
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.train import live
from bloomery.train.live import LiveView, Meter, held_gb, in_words, most_gb, peak_rate
from bloomery.train.optim import OptimizerConfig
from bloomery.train.state import Report, fresh

TINY = ModelConfig(vocabulary=16, context=8, depth=1, width=8, heads=1, kv_heads=1, head_width=8, hidden=8)
ROW = {"loss": 2.5, "grad_norm": 0.71, "learning_rate": 9e-4, "tokens_per_second": 41_200.0, "mfu": 0.431,
       "memory_gb": 1.25, "eta_seconds": 200.0, "num_tokens": 4096}


@pytest.fixture
def clock(monkeypatch):
    """`clock.now` is what the view reads; other threads, live servers among them, keep the real time."""
    class Clock:
        now = 100.0

    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: Clock.now))
    return Clock


@pytest.fixture
def lines(monkeypatch):
    """Everything that is said."""
    said = []
    monkeypatch.setattr(live, "say", said.append)
    return said


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=110, color_system=None)


def test_a_row_says_how_fast_how_full_and_how_long(tmp_path, clock):
    state = fresh(Transformer(TINY), OptimizerConfig(), steps=10)
    with MetricLog(tmp_path, name="tiny", every=math.inf) as log:
        meter = Meter(log, flops_per_token=1e6, peak=1e9)
        for seconds in (0, 3, 3):
            clock.now += seconds
            state.step += 1
            meter(state, Report({"loss": 1.0}, 0.5, 1e-3, tokens=200, seconds=2.0))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["tokens_per_second"] for row in rows] == [100.0] * 3
    assert [row["mfu"] for row in rows] == [0.1] * 3                        # 100 tokens/s x 1e6 / 1e9
    assert [row["eta_seconds"] for row in rows] == [9 * 2.0, 8 * 3.0, 7 * 3.0]  # by the wall clock once it is known
    assert all(0.01 < row["memory_gb"] < 1000 and row["grad_norm"] == 0.5 for row in rows)


def test_memory_is_never_more_than_its_peak():
    held = torch.ones(8_000_000)                                            # 32 MB
    now = held_gb()
    assert 0.032 < now <= most_gb() and held.sum() > 0


def test_the_peak_is_measured_once_and_draws_no_random_numbers(monkeypatch):
    calls = []
    monkeypatch.setattr(live, "matmul_rate", lambda dtype, size, device: calls.append(torch.randn(3)) or 5e9)
    peak_rate.cache_clear()
    before = torch.get_rng_state()
    assert peak_rate(torch.float32) == peak_rate(torch.float32) == 5e9
    assert len(calls) == 1 and torch.equal(before, torch.get_rng_state())
    peak_rate.cache_clear()


def test_words_for_people():
    assert in_words(ROW) == ["loss 2.5", "lr 9.00e-04", "grad 0.71", "41.2k tok/s", "MFU 43.1%", "1.25 GB",
                             "ETA 3 min 20 s"]
    assert in_words({"val_bpb/web": 1.5, "event": "resumed"}) == ["val_bpb/web 1.5", "event resumed"]


def test_a_file_gets_lines_now_and_then_and_every_validation(clock, lines):
    with LiveView("base", steps=1000, out=Console(file=io.StringIO())) as view:
        for step in range(1, 61):
            clock.now += 0.5
            view(step, ROW)
        view(60, {"val_loss": 2.25, "val_bpb/web": 1.5})
    steps = [line for line in lines if "tok/s" in line]
    assert len(steps) == 15 and steps[0].startswith("  base 1/1000: loss 2.5  lr 9.00e-04")    # one in two seconds
    assert lines[-1] == "  base 60: val_loss 2.25  val_bpb/web 1.5"
    lines.clear()
    clock.now += 3600
    for step in range(61, 261):
        clock.now += 1
        view(step, ROW)
    assert len(lines) == 4                                                  # an hour on, one a minute


def test_a_terminal_gets_a_panel_that_leaves_its_last_numbers(clock, lines):
    out = terminal()
    with LiveView("base", steps=10, out=out) as view:
        view(3, {"val_loss": 2.25, "val_bpb/web": 1.5, "val_bpb/code": 0.75})
        clock.now += 1
        view(4, ROW)
        drawn = out.file.getvalue()
        clock.now += 0.01
        view(5, ROW)
        assert out.file.getvalue() == drawn                                 # not more often than can be seen
    for part in ("base", "4 of 10", "loss 2.5", "MFU 43.1%", "ETA 3 min 20 s", "at most",
                 "3: val_loss 2.25  val_bpb/web 1.5  val_bpb/code 0.75"):
        assert part in drawn, part
    assert [line.split(":")[0] for line in lines] == ["  base 5/10", "  base 3"]


def test_the_loss_shown_is_an_average_that_a_nan_does_not_spoil(clock):
    view = LiveView("base", steps=10, out=terminal())
    assert view.average("loss", 4.0) == pytest.approx(4.0)                  # no pull towards zero at the start
    assert view.average("loss", 2.0) == pytest.approx((0.95 * 4 + 2) / 1.95)
    assert view.average("loss", math.nan) == pytest.approx((0.95 * 4 + 2) / 1.95)
    assert math.isnan(LiveView("base", steps=10, out=terminal()).average("loss", math.nan))


def test_listeners_hear_every_row_and_the_log_says_nothing_itself(tmp_path, monkeypatch):
    heard, said = [], []
    monkeypatch.setattr(metrics, "say", said.append)
    with MetricLog(tmp_path, name="tiny", listeners=(lambda step, values: heard.append((step, values)),)) as log:
        log.log(1, loss=2.0)
        log.log(1, val_loss=1.0)
    assert heard == [(1, {"loss": 2.0}), (1, {"val_loss": 1.0})] and said == []
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 1]
