"""Adapters in PEFT's files: ours come back as they were, PEFT reads ours and we read PEFT's with the same logits."""

import json
from pathlib import Path

import pytest
import torch
from adapted_models import GPT2, IDS, SHAPE, disturbed, logits, loud
from safetensors.torch import load_file, save_file
from torch import Tensor

from bloomery.core.errors import InputError
from bloomery.model.adapt import AdaptConfig, adapt, trained_weights
from bloomery.model.lora import lora_layers
from bloomery.model.peft_files import CONFIG, PREFIX, WEIGHTS, load_adapter, save_adapter
from bloomery.model.store import load_model, save_model
from bloomery.model.transformer import Transformer

KINDS = {"llama": SHAPE, "interleaved": SHAPE.model_copy(update={"positions": "rope_interleaved"}),
         "qwen2": SHAPE.model_copy(update={"biases": "qkv"}),
         "gpt2": GPT2}


def base(kind: str = "llama") -> Transformer:
    return loud(KINDS[kind])


def learned(kind: str = "llama", **options: object) -> Transformer:
    return disturbed(adapt(base(kind), AdaptConfig(**{"method": "lora", "rank": 4, "alpha": 8.0, "prefix_tokens": 4}
                                                   | options)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"rslora": True, "targets": ("blocks.1.mlp.down",)}])
def test_what_is_saved_comes_back_and_ends_where_it_was(tmp_path, kind, options):
    model = learned(kind, **options)
    save_adapter(model, tmp_path, base="a/base")
    said = json.loads((tmp_path / CONFIG).read_text())
    assert said["peft_type"] == "LORA" and said["base_model_name_or_path"] == "a/base" and said["r"] == 4
    back = load_adapter(base(kind), tmp_path)
    assert torch.equal(logits(back), logits(model)) and not torch.equal(logits(back), logits(base(kind)))
    assert not trained_weights(back)
    again = load_adapter(base(kind), tmp_path, trainable=True)
    assert trained_weights(again).keys() == trained_weights(model).keys()


@pytest.mark.parametrize("method", ["prefix", "adapter", "ia3"])
def test_other_methods_are_saved_too(tmp_path, method):
    model = learned(method=method)
    save_adapter(model, tmp_path)
    torch.testing.assert_close(logits(load_adapter(base(), tmp_path)), logits(model), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(base()), logits(model), atol=1e-3)


def test_matrices_have_peft_names_and_shapes_however_they_are_fused(tmp_path):
    save_adapter(learned(), tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    shapes = {name.removeprefix(f"{PREFIX}model.layers.1."): tuple(t.shape) for name, t in tensors.items()
              if ".layers.1." in name}
    assert len(tensors) == 2 * 7 * 2
    assert shapes["self_attn.k_proj.lora_A.weight"] == (4, 32) and shapes["self_attn.k_proj.lora_B.weight"] == (16, 4)
    assert shapes["mlp.up_proj.lora_B.weight"] == (48, 4) and shapes["mlp.down_proj.lora_A.weight"] == (4, 48)
    assert json.loads((tmp_path / CONFIG).read_text())["target_modules"] == [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_two_adapters_from_two_folders(tmp_path):
    save_adapter(learned(), tmp_path / "a")
    save_adapter(learned(rank=2, targets=("q_proj",)), tmp_path / "b")
    model = load_adapter(base(), tmp_path / "a", name="a")
    first = logits(model)
    load_adapter(model, tmp_path / "b", name="b")
    assert {name for layer in lora_layers(model).values() for name in layer.adapters} == {"a", "b"}
    assert torch.equal(logits(model), logits(load_adapter(base(), tmp_path / "b")))
    save_adapter(model, tmp_path / "again", name="a")
    assert torch.equal(logits(load_adapter(base(), tmp_path / "again")), first)


def change_config(folder: Path, **values: object) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rename(folder: Path, old: str, new: str) -> None:
    tensors = {name.replace(old, new): t for name, t in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(("spoil", "why"), [
    (lambda folder: change_config(folder, peft_type="LOHA"), "unsupported peft_type 'LOHA'"),
    (lambda folder: change_config(folder, use_dora=True), "use_dora=True"),
    (lambda folder: change_config(folder, modules_to_save=["lm_head"]), "modules_to_save"),
    (lambda folder: rename(folder, "layers.1.", "layers.7."), "unexpected model.layers.7"),
    (lambda folder: rename(folder, "layers.1.mlp.up_proj.lora_A", "layers.1.mlp.up_proj.lora_X"), "lora_X"),
    (lambda folder: rename(folder, "self_attn.o_proj", "self_attn.x_proj"), "x_proj"),
    (lambda folder: (folder / WEIGHTS).write_bytes(b"\x08\0\0\0\0\0\0\0nonsense"), "cannot be read"),
    (lambda folder: (folder / CONFIG).unlink(), "not an adapter's folder"),
])
def test_what_cannot_be_done_is_refused_by_name(tmp_path, spoil, why):
    save_adapter(learned(), tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError) as error:
        load_adapter(base(), tmp_path)
    assert why in f"{error.value.what} {error.value.why}"


def test_an_adapter_of_another_shape_is_refused(tmp_path):
    save_adapter(learned(), tmp_path)
    with pytest.raises(InputError, match="does not fit") as error:
        load_adapter(Transformer(SHAPE.model_copy(update={"hidden": 64})), tmp_path)
    assert "down_proj has A (4, 48) and B (32, 4), the matrix is (32, 64)" in error.value.why


# --- beside PEFT --------------------------------------------------------------------------------------------------

@pytest.fixture
def peft():
    return pytest.importorskip("peft", reason="peft is not installed: pip install peft, to compare adapters with it")


@torch.no_grad()
def their_logits(model: object) -> Tensor:
    return model.eval()(IDS[None]).logits[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_reads_ours(tmp_path, peft, kind, rslora):
    from transformers import AutoModelForCausalLM

    save_model(base(kind), tmp_path / "base")
    model = learned(kind, rslora=rslora)
    save_adapter(model, tmp_path / "adapter", base=str(tmp_path / "base"))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    torch.testing.assert_close(their_logits(adapted), logits(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "rank_pattern": {"down_proj": 2, "c_fc": 2},
                                          "alpha_pattern": {"q_proj": 7.0, "c_attn": 7.0}}])
def test_we_read_pefts(tmp_path, peft, kind, options):
    from transformers import AutoModelForCausalLM

    save_model(base(kind), tmp_path / "base")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", task_type="CAUSAL_LM",
                             init_lora_weights=False, fan_in_fan_out=kind == "gpt2", **options)
    adapted = peft.get_peft_model(theirs, config)
    adapted.save_pretrained(tmp_path / "adapter")
    for model in (load_model(tmp_path / "base"), base(kind)):
        torch.testing.assert_close(logits(load_adapter(model, tmp_path / "adapter")), their_logits(adapted),
                                   atol=1e-5, rtol=1e-5)
