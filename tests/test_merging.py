"""`bloomery merge`: one model of a base and an adapter, or nothing."""

import json

import pytest
import torch
from miniature import small_run

from bloomery import cli, export, merging
from bloomery.core.errors import ConfigError, GateError, InputError
from bloomery.export import logits
from bloomery.model.adapt import AdaptConfig, adapt
from bloomery.model.lora import lora_weights
from bloomery.model.peft_files import load_adapter, save_adapter
from bloomery.model.store import load_model

ASKED = [[1, 2, 3, 4, 5, 6, 7]]


@pytest.fixture(scope="module")
def home():
    return next(small_run().glob("sft-*"))


@pytest.fixture(scope="module")
def adapter(home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    model = adapt(load_model(home), AdaptConfig(method="lora", rank=4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in lora_weights(model, "default"):
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    save_adapter(model, folder, base=str(home))
    return folder


@pytest.fixture
def fast(monkeypatch):
    """Checked by ourselves: opening transformers takes seconds."""
    monkeypatch.setattr(export, "transformers", lambda: None)


def test_the_merged_folder_is_the_adapted_model_and_stands_alone(home, adapter, tmp_path, capfd):
    assert cli.main(["merge", str(adapter), str(tmp_path / "merged"), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["reader"].startswith("transformers ") and told["difference"] < 1e-5 and told["merging"] < 1e-5
    merged, adapted = load_model(tmp_path / "merged"), load_adapter(load_model(home), adapter)
    torch.testing.assert_close(logits(merged, ASKED)[0], logits(adapted, ASKED)[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(merged, ASKED)[0], logits(load_model(home), ASKED)[0], atol=1e-3)
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (home / name).read_bytes()


def test_rounding_is_told_and_not_judged(fast, home, adapter, tmp_path, capfd):
    assert cli.main(["merge", str(adapter), str(tmp_path / "half"), "--dtype", "bf16", "--base", str(home)]) == 0
    out = capfd.readouterr().out
    assert "merged; that moved logits by" in out and "rounding to bf16 moved them by" in out


def test_a_merge_that_is_another_model_is_refused(fast, adapter, tmp_path, monkeypatch):
    def wrong(model):
        made = merge_weights(model)
        with torch.no_grad():
            made.blocks[0].mlp.down.weight.mul_(1.01)
        return made

    merge_weights = merging.merge_weights
    monkeypatch.setattr(merging, "merge_weights", wrong)
    with pytest.raises(GateError, match="not the adapted one"):
        merging.merge(str(adapter), tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_said_before_anything_is_opened(adapter, home, tmp_path):
    with pytest.raises(ConfigError, match="unknown dtype fp4"):
        merging.merge(str(adapter), tmp_path / "x", dtype="fp4")
    with pytest.raises(InputError, match="not an adapter's folder"):
        merging.merge(str(home), tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="is not empty"):
        merging.merge(str(adapter), tmp_path / "full")
    save_adapter(load_adapter(load_model(home), adapter), tmp_path / "homeless")
    with pytest.raises(InputError, match="does not say what its base is"):
        merging.merge(str(tmp_path / "homeless"), tmp_path / "x")
