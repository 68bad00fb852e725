"""A training run that is stopped, killed and gone on with ends bit for bit where an undisturbed one does."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bloomery.core.errors import BloomeryError, InputError, Preempted
from bloomery.core.metrics import read_metrics
from bloomery.data.batch import rectangle
from bloomery.data.stream import samples
from bloomery.model.config import ModelConfig
from bloomery.model.store import load_model
from bloomery.model.transformer import Transformer
from bloomery.pipeline import run_verb
from bloomery.train.hooks import stop_signal
from bloomery.train.objective import causal_lm
from bloomery.train.session import TrainingConfig, train

ROOT = Path(__file__).parents[2]
STEPS = 180
TINY = ModelConfig(vocabulary=16, context=8, depth=1, width=8, heads=1, kv_heads=1, head_width=8, hidden=8)
DATA = torch.randint(0, 16, (30, 9), generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.usefixtures("handlers")


def options(corpus: Path, out: Path) -> list[str]:
    return [f"data={corpus}", f"tokenizer={corpus}", f"out={out}", f"steps={STEPS}", "rows=6", "micro_rows=4",
            "precision=fp32", "optimizer.name=muon", "save_every=16", "validate_every=30",
            "validation_tokens=500", "model.depth=1", "model.context=32", "model.width=32", "model.heads=2"]


def start(corpus: Path, out: Path) -> subprocess.Popen:
    """The same through the command line, in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "bloomery.cli", "pretrain", *options(corpus, out)], cwd=ROOT,
                            env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)


def last_step(out: Path) -> int:
    return max((row["step"] for row in read_metrics(out / "metrics.jsonl")), default=0)


def wait_for_step(process: subprocess.Popen, out: Path, step: int) -> None:
    while process.poll() is None and last_step(out) < step:
        time.sleep(0.002)
    assert process.poll() is None, f"ended before step {step}: {process.communicate()[1]}"


def test_stopped_and_killed_and_gone_on_with_is_undisturbed_bit_for_bit(corpus, tmp_path):
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    run_verb("pretrain", options(corpus, undisturbed))

    process = start(corpus, disturbed)
    wait_for_step(process, disturbed, random.randint(2, 50))
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75 and "stopped and saved" in told and "SIGTERM" in told
    stopped_at = last_step(disturbed)
    assert (disturbed / "checkpoints" / f"step-{stopped_at:08d}").is_dir() and stopped_at < STEPS

    process = start(corpus, disturbed)
    wait_for_step(process, disturbed, stopped_at + random.randint(2, 50))
    process.kill()
    process.communicate(timeout=60)
    assert not (disturbed / "DONE").exists()

    made = run_verb("pretrain", options(corpus, disturbed))
    assert made.record["attempts"] == 3
    assert (disturbed / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    last = f"checkpoints/step-{STEPS:08d}/optim.safetensors"
    assert (disturbed / last).read_bytes() == (undisturbed / last).read_bytes()
    rows = [[(row["step"], row["loss"]) for row in read_metrics(out / "metrics.jsonl") if "loss" in row]
            for out in (undisturbed, disturbed)]
    assert rows[0] == rows[1] and [step for step, _ in rows[0]] == list(range(1, STEPS + 1))
    assert made.metrics == json.loads((undisturbed / "stage.json").read_text())["metrics"]
    load_model(disturbed)




def tiny(out: Path, *, validate=lambda model: {}, objective=causal_lm, extra=(), **changes):
    config = TrainingConfig(**{"steps": 12, "precision": "fp32", "save_every": 5, "validate_every": 4} | changes)
    out.mkdir(exist_ok=True)
    return train(Transformer(TINY, seed=config.seed), config, out, name="tiny", objective=objective, validate=validate,
                 stream=lambda step: [rectangle(DATA[samples(step, 4, len(DATA), config.seed)])], extra=extra)


def test_metrics_are_measured_first_last_and_in_between(tmp_path):
    calls = []

    def validate(model):
        calls.append(1)
        return {"val_loss": float(len(calls))}

    state = tiny(tmp_path, validate=validate)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "val_loss" in row] == [0, 4, 8, 12] and state.best == {"val_loss": 4.0}
    row = next(row for row in rows if row["step"] == 1)
    assert {"loss", "grad_norm", "learning_rate", "tokens_per_second", "num_tokens"} <= set(row)


def test_a_request_to_stop_saves_and_says_how_to_go_on(tmp_path):
    def ask(state, report):
        if state.step == 7:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted) as caught:
        tiny(tmp_path, extra=(ask,))
    assert caught.value.exit_code == 75 and "7 of 12" in caught.value.where and "again" in caught.value.hint
    assert (tmp_path / "checkpoints" / "step-00000007").is_dir()
    assert signal.getsignal(signal.SIGTERM) is before
    assert tiny(tmp_path).step == 12 and stop_signal.reason is None


def test_a_request_at_the_last_step_is_not_forgotten(tmp_path):
    def ask(state, report):
        if state.step == 12:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Preempted, match="stopped and saved"):
        tiny(tmp_path, extra=(ask,))
    assert tiny(tmp_path).step == 12


def test_a_diverged_run_keeps_its_last_checkpoint(tmp_path):
    def diverges(model, batch):
        loss, metrics = causal_lm(model, batch)
        diverges.calls += 1
        return (loss * float("nan"), {"loss": float("nan")}) if diverges.calls == 8 else (loss, metrics)

    diverges.calls = 0
    with pytest.raises(BloomeryError, match="diverged") as caught:
        tiny(tmp_path, objective=diverges)
    assert "step 7" in caught.value.where and "lr" in caught.value.hint
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    tiny(tmp_path)
    with pytest.raises(InputError, match="another run"):
        tiny(tmp_path, seed=1)


def test_the_dtype_of_a_run_is_kept_when_it_goes_on(tmp_path, monkeypatch):
    """Resuming where `auto` would choose otherwise must not change the numbers half-way."""
    def stop(state, report):
        return "asked" if state.step == 6 else None

    monkeypatch.setenv("BLOOMERY_PRECISION", "bf16")
    with pytest.raises(Preempted):
        tiny(tmp_path, precision="auto", extra=(stop,))
    monkeypatch.setenv("BLOOMERY_PRECISION", "fp32")
    assert tiny(tmp_path, precision="auto").model.compute == torch.bfloat16
