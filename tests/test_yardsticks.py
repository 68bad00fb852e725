"""Recipes on public texts are complete, and a short run of one learns; they need the texts (`BLOOMERY_DATA`)."""

import os
from pathlib import Path

import pytest

from bloomery.pipeline import run
from bloomery.recipe import read_recipe

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("BLOOMERY_DATA", ROOT.parent / "shared" / "data")).absolute()
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no public texts in {DATA}: set BLOOMERY_DATA")


@needs_data
@pytest.mark.parametrize("name", ["shakespeare", "wikitext"])
def test_the_recipe_has_no_problem(name, monkeypatch):
    monkeypatch.setenv("BLOOMERY_DATA", str(DATA))
    recipe = read_recipe(ROOT / "recipes" / f"{name}.toml")
    assert "base" in recipe.tasks and str(DATA) in recipe.tasks["tokenizer"].config.data


@needs_data
def test_tiny_shakespeare_is_learned(tmp_path, monkeypatch):
    monkeypatch.setenv("BLOOMERY_DATA", str(DATA))
    changes = ("base.steps=30", "base.rows=16", "base.sample_every=30", "base.validation_tokens=20000")
    steps, summary = run(ROOT / "recipes" / "shakespeare.toml", overrides=changes, out=tmp_path)
    made = {step.task.name: step.folder for step in steps}
    assert summary["metrics"]["tokenizer.vocabulary"] == 69 and summary["metrics"]["shards.train_bytes"] == 1_003_854
    assert 1.5 < summary["metrics"]["base.val_loss"] < 2.9      # 4.2 is no knowledge at all
    assert "ROMEO:" in (made["base"] / "samples.jsonl").read_text() and (made["base"] / "model.safetensors").is_file()
