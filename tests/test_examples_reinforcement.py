"""The flat loops of reinforcement learning take the stage's own steps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bloomery.align import rl
from bloomery.core.metrics import read_metrics
from bloomery.core.toml import overlaid
from bloomery.model.presets import sized
from bloomery.model.store import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.stages import STAGES
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import train_tokenizer
from examples import grpo_flat, ppo_flat
from tests.miniature import write_rows

ROOT = Path(__file__).parents[1]
STEPS, PROMPTS, TOKENS, LR = 3, 4, 5, 1e-3


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:                                                      # noqa: ANN001
    """A model that babbles, and prompts whose right answers are letters it often says."""
    place = tmp_path_factory.mktemp("examples")
    tokenizer = train_tokenizer(["say a b c d e f g h"], vocabulary=270)
    model = Transformer(sized(1, vocabulary=tokenizer.size, context=48, width=64, heads=2), seed=1)
    save_model(model, place / "base", bos=tokenizer.eos, eos=[tokenizer.turn_end])
    tokenizer.save(place / "base", context=48, chat_template=TEMPLATES["chatml"].jinja())
    write_rows(place / "prompts.jsonl", [{"prompt": f"say {word}", "answer": word} for word in "abcdefgh"])
    return place


@pytest.fixture(autouse=True)
def often_right(monkeypatch):
    """A verifier by which a random model is right about half the time."""
    monkeypatch.setitem(grpo_flat.VERIFIERS, "contains", lambda said, known: float(len(said.encode()) % 2))


def stage(room: Path, verb: str, out: Path, handlers: object, **given) -> list[dict]:
    values = overlaid(STAGES[verb].preset, {
        "model": str(room / "base"), "data": str(room / "prompts.jsonl"), "reward": {"verifier": "contains"},
        "steps": STEPS, "prompts": PROMPTS, "sampling": {"max_tokens": TOKENS}, "precision": "fp32",
        "optimizer": {"lr": LR}} | given)
    out.mkdir()
    rl.run(rl.Config.model_validate_json(json.dumps(values), strict=True), out)
    return [row for row in read_metrics(out / "metrics.jsonl") if "step_time" in row]


def same_weights(one: Path, other: Path) -> None:
    for ours, theirs in zip(load_model(one).parameters(), load_model(other).parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("given", [{}, {"epochs": 2, "beta": 0.1, "temperature": 0.8}])
def test_the_flat_grpo_takes_the_steps_of_the_stage(room, given, tmp_path, handlers):
    ours = grpo_flat.main(room / "base", str(room / "prompts.jsonl"), tmp_path / "flat", steps=STEPS, prompts=PROMPTS,
                          samples=4, max_tokens=TOKENS, verifier="contains", lr=LR, precision="fp32", **given)
    options = {"epochs": given.get("epochs", 1), "kl": {"beta": given.get("beta", 0.0)},
               "sampling": {"max_tokens": TOKENS, "temperature": given.get("temperature", 1.0)}}
    told = stage(room, "grpo", tmp_path / "stage", handlers, samples=4, **options)
    assert ours == [row["reward"] for row in told] and 0 < ours[0] < 1
    same_weights(tmp_path / "flat", tmp_path / "stage")


def test_the_flat_ppo_takes_the_steps_of_the_stage(room, tmp_path, handlers):
    ours = ppo_flat.main(room / "base", "contains", str(room / "prompts.jsonl"), tmp_path / "flat", steps=STEPS,
                         prompts=PROMPTS, max_tokens=TOKENS, lr=LR, precision="fp32", epochs=2)
    told = stage(room, "ppo", tmp_path / "stage", handlers, epochs=2)
    assert ours == [row["reward"] for row in told]
    same_weights(tmp_path / "flat", tmp_path / "stage")


def test_it_runs_as_a_program(room, tmp_path):
    done = subprocess.run([sys.executable, "examples/grpo_flat.py", room / "base", room / "prompts.jsonl",
                           tmp_path / "a", "steps=1", "max_tokens=4", "verifier=contains", "precision=fp32"], cwd=ROOT,
                          capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "step 1/1  reward" in done.stderr and (tmp_path / "a" / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["grpo_flat", "ppo_flat"])
def test_it_fits_on_three_screens(name):
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= 150
