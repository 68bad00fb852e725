"""IA3: ones change nothing, what is scaled is what the paper says, merged is the same, a file brings them back."""

import copy
import json

import adapted_models
import pytest
import torch
from safetensors.torch import load_file, save_file

from bloomery.core.config import Settings
from bloomery.core.errors import InputError
from bloomery.model.config import ModelConfig
from bloomery.model.ia3 import attach, from_file, merge, to_file
from bloomery.model.nf4 import quantise
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer

LLAMA = ModelConfig(vocabulary=31, context=64, depth=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48)
GPT2 = ModelConfig(vocabulary=31, context=64, depth=2, width=32, heads=4, kv_heads=4, head_width=8, hidden=64,
                   norm="layer", activation="gelu_tanh", positions="learned", biases="all")
FAMILIES = pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
IDS = torch.randint(0, 31, (40,), generator=torch.Generator().manual_seed(0))


def loud(config: ModelConfig) -> Transformer:
    model = Transformer(config, seed=1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(10 if weight.dim() > 1 else 1).add_(0.1 if weight.dim() == 1 else 0)
    return model


def logits(model: Transformer) -> torch.Tensor:
    return adapted_models.logits(model, IDS)


def learnt(config: ModelConfig, steps: int = 10) -> tuple[Transformer, list[float]]:
    model = attach(loud(config), Settings(), 0)
    return model, adapted_models.learned(model, IDS, steps=steps, lr=5e-2)


@FAMILIES
def test_ones_change_nothing_and_then_they_learn(config):
    assert torch.equal(logits(attach(loud(config), Settings(), 0)), logits(loud(config)))
    model, losses = learnt(config)
    assert losses[-1] < 0.8 * losses[0]
    learn = [p.numel() for p in model.parameters() if p.requires_grad]
    assert sum(learn) == 2 * (2 * 16 + 48 if config is LLAMA else 3 * 32 + 64)


@FAMILIES
def test_merged_it_computes_the_same_and_is_plain(config):
    model, _ = learnt(config)
    before, names = logits(model), {name for name, _ in Transformer(config).named_parameters()}
    assert {name for name, _ in merge(model).named_parameters()} == names
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(model), logits(loud(config)), atol=0.1)


@FAMILIES
def test_a_file_brings_them_back_under_peft_names(config):
    model, _ = learnt(config)
    said, tensors = to_file(model)
    one = ("base_model.model.model.layers.1.self_attn.k_proj.ia3_l" if config is LLAMA else
           "base_model.model.transformer.h.1.attn.c_attn.ia3_l")
    last = ("base_model.model.model.layers.1.mlp.down_proj.ia3_l" if config is LLAMA else
            "base_model.model.transformer.h.1.mlp.c_proj.ia3_l")
    assert tensors[one].shape == (16 if config is LLAMA else 96, 1)
    assert tensors[last].shape == (1, config.hidden)
    targets = {"k_proj", "v_proj", "down_proj"} if config is LLAMA else {"attn.c_attn", "mlp.c_proj"}
    assert set(said["target_modules"]) == targets and said["fan_in_fan_out"] == (config is GPT2)
    other = from_file(loud(config), said, tensors)
    assert torch.equal(logits(other), logits(model))


@FAMILIES
@pytest.mark.parametrize("ours", [True, False])
def test_peft_reads_ours_and_we_read_theirs(tmp_path, config, ours):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers")
    save_model(loud(config), tmp_path / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    if ours:
        model, _ = learnt(config)
        said, tensors = to_file(model)
        (tmp_path / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": "base"}))
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        theirs = peft.PeftModel.from_pretrained(theirs, tmp_path)
    else:
        theirs = peft.get_peft_model(theirs, peft.IA3Config(task_type="CAUSAL_LM"))
        with torch.no_grad():
            for p in theirs.parameters():
                p.mul_(torch.rand(p.shape) + 0.5 if p.requires_grad else 1)
        theirs.save_pretrained(tmp_path / "adapter")
        said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        model = from_file(loud(config), said, load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(IDS[None]).logits[0], logits(model), atol=1e-4, rtol=1e-4)


def test_attention_alone_can_be_scaled():
    said, tensors = to_file(learnt(LLAMA)[0])
    few = {name: t for name, t in tensors.items() if "down_proj" not in name}
    model = from_file(loud(LLAMA), said | {"feedforward_modules": []}, few)
    assert to_file(model)[1].keys() == few.keys() and not to_file(model)[0]["feedforward_modules"]
    with pytest.raises(InputError, match="does not fit"):
        from_file(loud(LLAMA), said, few)


def test_a_copy_has_scales_of_its_own_and_the_queries_stay():
    model = attach(quantise(loud(LLAMA)), Settings(), 0)
    twin, before = copy.deepcopy(model), logits(model)
    layer = twin.blocks[0].attention.qkv
    with torch.no_grad():
        layer.ia3.scale.mul_(2)
    x = torch.ones(1, 32)
    ratio = layer(x) / model.blocks[0].attention.qkv(x)
    assert torch.equal(ratio, torch.cat((torch.ones(1, 32), torch.full((1, 32), 2.0)), 1))
    assert torch.equal(logits(model), before)
    with pytest.raises(InputError, match="cannot be merged"):
        merge(model)


def test_interleaved_rotary_pairs_are_refused_before_anything_changes():
    model = Transformer(LLAMA.model_copy(update={"positions": "rope_interleaved"}))
    with pytest.raises(InputError):
        attach(model, Settings(), 0)
    assert all(p.requires_grad for p in model.parameters())
