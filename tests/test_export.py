"""`bloomery export`: what is written is what was read, or it is not written at all."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from miniature import small_run
from safetensors.torch import load_file, save_file

from bloomery import cli, export
from bloomery.core.errors import ConfigError, GateError, InputError
from bloomery.model.store import load_model, model_weights, save_model
from bloomery.model.transformer import Transformer
from bloomery.train import checkpoint


@pytest.fixture(scope="module")
def tuned() -> Path:
    return next(small_run().glob("dpo-*"))


@pytest.fixture
def fast(monkeypatch):
    """Checked by ourselves: opening transformers takes seconds."""
    monkeypatch.setattr(export, "transformers", lambda: None)


def test_a_copy_is_checked_by_transformers_and_says_how_near_it_is(tuned, tmp_path, capfd):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert cli.main(["export", str(tuned), str(tmp_path / "mine"), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["reader"].startswith("transformers ") and 0 <= told["difference"] < 1e-6 and told["rounding"] == 0
    ours, theirs = load_file(tuned / "model.safetensors"), load_file(tmp_path / "mine" / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tuned / name).read_text()) == json.loads((tmp_path / "mine" / name).read_text())
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tuned / name).read_bytes() == (tmp_path / "mine" / name).read_bytes()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "mine").num_parameters() == told["parameters"]
    assert AutoTokenizer.from_pretrained(tmp_path / "mine").eos_token == "<|im_end|>"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(("dtype", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_in_shards(fast, tuned, tmp_path, dtype, kind, capfd):
    assert cli.main(["export", str(tuned), str(tmp_path / "half"), "--dtype", dtype, "--shard-gb", "0.001"]) == 0
    out = capfd.readouterr().out
    assert f"rounding to {dtype} moved them by" in out and "differ by 0 at most" in out
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == str(kind).removeprefix("torch.")
    written = [load_file(path) for path in sorted((tmp_path / "half").glob("*.safetensors"))]
    assert all(weight.dtype == kind for file in written for weight in file.values())
    told = export.export(str(tuned), tmp_path / "shards", dtype=dtype, shard_gb=1e-5)
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    assert len(told["files"]) > 1 and set(index["weight_map"].values()) == {file["name"] for file in told["files"]}
    before, after = model_weights(load_model(tuned)), model_weights(load_model(tmp_path / "shards"))
    assert all(torch.equal(before[name].to(kind).float(), after[name]) for name in before)


def test_a_model_that_comes_out_different_is_refused(fast, tuned, tmp_path, monkeypatch, capfd):
    def spoil(source, folder, *rest):
        write(source, folder, *rest)
        weights = load_file(folder / "model.safetensors")
        weights["model.norm.weight"] *= 1.001
        save_file(weights, folder / "model.safetensors")

    write = export.write
    monkeypatch.setattr(export, "write", spoil)
    assert cli.main(["export", str(tuned), str(tmp_path / "mine")]) == 3
    assert "the exported model is not the model" in capfd.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_reads_differently_is_refused(tuned, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(tuned, folder)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    template = (folder / "chat_template.jinja").read_text()
    library = export.transformers()
    source = export.opened(folder, "")
    export.same_ids(library, folder, source)
    monkeypatch.setattr(export, "chat_template", lambda folder: "chatml")
    (folder / "chat_template.jinja").write_text(template.replace("| trim", ""))
    with pytest.raises(GateError, match="tokenizer") as error:
        export.same_ids(library, folder, source)
    assert "dialogue" in error.value.why and told["eos_token"] == "<|im_end|>"


@pytest.mark.parametrize("a", [float("nan"), float("inf")])
def test_a_logit_that_is_no_number_is_no_likeness(a):
    assert export.distance([torch.tensor([a, 0.0])], [torch.zeros(2)]) == float("inf")
    assert export.distance([torch.tensor([1.0, 0.0]), torch.zeros(1)], [torch.zeros(2), torch.full((1,), 3.0)]) == 3


def test_a_checkpoint_is_a_model_too(fast, tuned, tmp_path, monkeypatch):
    folder = shutil.copytree(checkpoint.checkpoints(tuned / "checkpoints")[-1], tmp_path / "step-00000001")
    with pytest.raises(InputError, match="no tokenizer beside it"):
        export.export(str(folder), tmp_path / "mine")
    state = json.loads((folder / "state.json").read_text())
    state.pop("model", None)
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="this checkpoint is damaged"):
        export.export(str(folder), tmp_path / "mine", words=str(tuned))
    monkeypatch.setattr(export, "damage", lambda folder: None)
    with pytest.raises(InputError, match="does not say what its model is"):
        export.export(str(folder), tmp_path / "mine", words=str(tuned))
    shape = load_model(tuned).config.model_dump(mode="json")
    (folder / "state.json").write_text(json.dumps(state | {"model": shape}))
    told = export.export(str(folder), tmp_path / "mine", words=str(tuned))
    assert told["difference"] == 0 and json.loads((tmp_path / "mine" / "generation_config.json").read_text())[
        "eos_token_id"] == [2, 0]
    last, made = (load_file(folder / "model.safetensors") for folder in (tuned, tmp_path / "mine"))
    assert all(torch.equal(last[name], made[name]) for name in last)


def test_what_cannot_be_done_is_said_before_any_work(fast, tuned, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        export.export(str(tuned), tmp_path / "full")
    with pytest.raises(ConfigError, match="unknown dtype int3"):
        export.export(str(tuned), tmp_path / "new", dtype="int3")
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="not a model folder"):
            export.export(str(place), tmp_path / "new")
    assert (tmp_path / "full" / "note.txt").read_text() == "mine" and not (tmp_path / "new").exists()


def test_transformers_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert export.transformers() is None


def test_a_network_only_we_know_is_read_again_by_us(tuned, tmp_path):
    model = Transformer(load_model(tuned).config.model_copy(update={"activation": "relu2"}))
    save_model(model, tmp_path / "own", bos=0, eos=[2, 0])
    shutil.copyfile(tuned / "tokenizer.json", tmp_path / "own" / "tokenizer.json")
    told = export.export(str(tmp_path / "own"), tmp_path / "mine")
    assert told["reader"] == "bloomery" and told["difference"] == 0
