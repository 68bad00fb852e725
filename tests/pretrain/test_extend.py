"""A longer context: the angles that each method says, weights kept, both losses on record, and what is refused."""

import json
import math
from pathlib import Path

import pytest
import torch

from bloomery.core.errors import InputError
from bloomery.core.metrics import read_metrics
from bloomery.model.adapt import AdaptConfig, adapt
from bloomery.model.config import ModelConfig, Rope
from bloomery.model.peft_files import save_adapter
from bloomery.model.store import load_config, load_model
from bloomery.pretrain import extend, shards, vocabulary
from bloomery.pretrain import run as pretraining

FAST = {"precision": "fp32", "validate_every": 1000, "save_every": 1000, "rows": 4}
MODEL = ModelConfig(vocabulary=50, context=32, depth=1, width=32, heads=2, kv_heads=1, head_width=16, hidden=32)
LONG = 128


def asked(**options) -> extend.Config:
    return extend.Config(**{"model": "m", "data": "d", "steps": 1, "context": LONG} | options)


def made(module, folder: Path, **options) -> dict:
    folder.mkdir()
    return module.run(module.Config(**options), folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model of 32 characters' context, its tokenizer and long documents."""
    root = tmp_path_factory.mktemp("extend")
    rows = [{"text": " ".join(str(i * j) for i in range(60))} for j in range(40)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = str(root / "rows.jsonl")
    made(vocabulary, root / "tokenizer", data=source, kind="characters")
    made(shards, root / "tokens", data=source, tokenizer=str(root / "tokenizer"), validation=0.2)
    made(pretraining, root / "base", data=str(root / "tokens"), tokenizer=str(root / "tokenizer"), steps=30,
         model=pretraining.ModelOptions(depth=1, context=32, width=32, heads=2), optimizer={"lr": 1e-2}, **FAST)
    return root


def extended(base: Path, folder: Path, **options) -> dict:
    return made(extend, folder, **FAST | {"model": str(base / "base"), "data": str(base / "tokens"), "context": LONG,
                                          "steps": 10, "optimizer": {"lr": 5e-3}} | options)


@pytest.mark.parametrize(("method", "expected"), [
    ("pi", {"rope": Rope(type="linear", factor=4)}),
    ("yarn", {"rope": Rope(type="yarn", factor=4, original_context=32)}),
    ("dynamic", {"rope": Rope(type="dynamic", factor=4), "context": 32}),
    ("ntk", {"rope_base": 10_000 * 4 ** (16 / 14)}),
    ("base", {"rope_base": 500_000}),
])
def test_a_method_changes_what_it_says_and_nothing_else(method, expected):
    found = extend.stretched(MODEL, asked(method=method))
    assert dict(found) == dict(MODEL) | {"context": LONG} | {k: pytest.approx(v) if k == "rope_base" else v
                                                             for k, v in expected.items()}


@pytest.mark.parametrize(("method", "factor"), [("pi", 16), ("yarn", 16)])
def test_extending_again_counts_from_the_first_context(method, factor):
    once = extend.stretched(MODEL, asked(method=method))
    assert extend.stretched(once, asked(method=method, context=512)).rope.factor == factor


@pytest.mark.parametrize(("model", "options", "message"), [
    (MODEL, {"context": 32}, "not longer"),
    (MODEL.model_copy(update={"positions": "learned"}), {}, "no rotary positions"),
    (MODEL.model_copy(update={"rope": Rope(type="linear", factor=2)}), {"method": "yarn"}, "another method"),
])
def test_what_cannot_be_extended_is_refused(model, options, message):
    with pytest.raises(InputError, match=message):
        extend.stretched(model, asked(**options))


def test_it_trains_on_and_records_both_contexts_before_and_after(base, tmp_path):
    found = extended(base, tmp_path / "long")
    assert {f"{name}{at}{when}" for name in ("val_loss", "val_bpb") for at in ("", "@32") for when in ("", "_before")} \
        <= set(found)
    assert found["val_loss"] < found["val_loss_before"]         # reads beyond what it knew
    assert found["tokens"] == 10 * 4 * LONG
    first = read_metrics(tmp_path / "long" / "metrics.jsonl")[0]
    assert first["step"] == 0 and math.isfinite(first["val_loss@32"])
    assert load_config(tmp_path / "long").rope == Rope(type="yarn", factor=4, original_context=32)
    assert json.loads((tmp_path / "long" / "tokenizer_config.json").read_text())["model_max_length"] == LONG


@pytest.mark.parametrize("method", ["pi", "ntk", "yarn", "dynamic", "base"])
def test_transformers_reads_the_same_longer_model(base, tmp_path, method):
    """Logits of 128 tokens agree, so config.json says what the weights were trained with."""
    extended(base, tmp_path / "long", method=method, steps=1)
    from transformers import AutoModelForCausalLM

    from bloomery.model.forest import Forest, roots

    ours, theirs = load_model(tmp_path / "long"), AutoModelForCausalLM.from_pretrained(tmp_path / "long")
    ids = torch.arange(LONG) % ours.config.vocabulary
    with torch.no_grad():
        mine = ours.head(ours(ids, torch.arange(LONG), Forest(roots([LONG]))))
        assert mine.shape[0] == LONG and torch.allclose(mine, theirs(ids[None]).logits[0], atol=2e-5)
    assert theirs.config.max_position_embeddings == (32 if method == "dynamic" else LONG)


def test_the_forecast_counts_the_longer_context(base):
    found = extend.forecast(asked(model=str(base / "base"), rows=4, steps=5))
    assert found["tokens"] == 5 * 4 * LONG and found["model"].context == LONG
    assert extend.forecast(asked(model="not/made/yet")) == {}


def test_an_adapters_folder_is_refused_kindly(base, tmp_path):
    adapted = adapt(load_model(base / "base"), AdaptConfig(method="prefix", prefix_tokens=2), seed=0)
    save_adapter(adapted, tmp_path / "adapted", base=str(base / "base"))
    with pytest.raises(InputError, match="an adapter's folder cannot be extended") as refused:
        extended(base, tmp_path / "long", model=str(tmp_path / "adapted"))
    assert str(base / "base") in refused.value.why and "bloomery merge" in refused.value.hint
