"""Two tasks in sequence: the first is forgotten less where its weights are held, and both are told."""

import json
from pathlib import Path

import pytest
import torch

from bloomery.core.errors import ConfigError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import read_metrics
from bloomery.finetune.before import Before, BeforeConfig, diagonal
from bloomery.finetune.classify import Config, run
from bloomery.finetune.inputs import forest_of
from tests.finetune.task_data import NOUNS, model_folder, rows, write_rows

ROUNDS = {"examples": 16, "precision": "fp32", "validate_every": 30, "dropout": 0.0, "optimizer": {"lr": 5e-3}}


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """A classifier of good and bad, its rows, and rows of another task: which noun is it?"""
    root = tmp_path_factory.mktemp("before")
    old = write_rows(root / "old.jsonl", rows("single"))
    write_rows(root / "new.jsonl", [{"text": row["text"], "label": str(row["text"].split()[1] in NOUNS[:2])}
                                    for row in rows("other")])
    (root / "first").mkdir()
    found = run(Config(model=str(model_folder(root / "bert", "bert")), data=str(old), steps=60, **ROUNDS),
                root / "first")
    assert found["val_accuracy"] > 0.95
    return root


def second(first: Path, out: Path, weight: float, **options) -> dict:
    out.mkdir()
    return run(Config(model=str(first / "first"), data=str(first / "new.jsonl"), steps=60,
                      before={"data": str(first / "old.jsonl"), "ewc": weight, "examples": 64},
                      **ROUNDS | options), out)


def test_what_was_learned_first_is_forgotten_less(first, tmp_path, handlers):
    free, held = (second(first, tmp_path / name, weight) for name, weight in (("free", 0.0), ("held", 1e4)))
    told = {name: read_metrics(tmp_path / name / "metrics.jsonl") for name in ("free", "held")}
    assert all(rows[0]["before_accuracy"] > 0.95 for rows in told.values())
    assert free["val_accuracy"] > 0.95 and held["val_accuracy"] > 0.9
    assert held["before_accuracy"] > free["before_accuracy"] + 0.1, (held, free)
    assert any(row.get("ewc", 0) > 0 for row in told["held"]) and not any("ewc" in row for row in told["free"])
    assert json.loads((tmp_path / "held" / "config.json").read_text())["id2label"] == {"0": "False", "1": "True"}


def test_the_information_is_the_expectation_over_labels(first):
    """sum over labels y of p(y) (d log p(y))^2, written out, against the mean of many draws."""
    before = Before(BeforeConfig(data=str(first / "old.jsonl"), ewc=1.0, examples=20), first / "first", Quarantine())
    assert before.fisher.keys() == before.anchor.keys() == dict(before.model.trunk.named_parameters()).keys()
    model, row = before.model, before.measured[:1]
    with torch.no_grad():
        model.score.weight.mul_(0.01)                           # less sure, so that both labels are drawn
    weight = model.trunk.blocks[0].mlp.down.weight
    batch = forest_of(row, causal=False, typed=True)
    logp = model.scores(batch.ids, batch.segments, batch.types)[0].log_softmax(-1)
    exact = sum(float(p.detach().exp()) * torch.autograd.grad(p, weight, retain_graph=True)[0] ** 2 for p in logp)
    drawn = sum(diagonal(model, row, seed=seed)["blocks.0.mlp.down.weight"] for seed in range(200)) / 200
    assert float(drawn.sum() / exact.sum()) == pytest.approx(1, abs=0.25)
    twice = diagonal(model, row * 2, seed=3)["blocks.0.mlp.down.weight"]
    assert 0 < float(twice.sum()) < 4 * float(exact.sum())      # a mean over rows, not a sum


def test_what_cannot_be_kept_is_said(first, tmp_path):
    with pytest.raises(ConfigError, match="forget nothing"):
        second(first, tmp_path / "frozen", 1.0, frozen=True)
    with pytest.raises(ConfigError, match="did not learn"):
        Before(BeforeConfig(data=str(first / "new.jsonl")), first / "first", Quarantine())
