"""Every preset, made tiny with random weights: transformers opens what we write and computes the same, and back again.

transformers takes norms and rotary tables in fp32 even in float64, so that GPT-2, which has neither, is the one family
held to 1e-8.
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from bloomery.generate.decode import complete
from bloomery.model.config import ModelConfig, Rope
from bloomery.model.forest import Forest, roots
from bloomery.model.hf import family_of
from bloomery.model.presets import PRESETS
from bloomery.model.store import load_config, load_model, model_weights, save_model
from bloomery.model.transformer import Transformer

TINY = {"vocabulary": 61, "context": 48, "depth": 3, "width": 48, "heads": 6, "hidden": 40}
LENGTH = 40
LLAMA = ModelConfig(**TINY | {"kv_heads": 2, "head_width": 8})


def tiny(preset: str) -> ModelConfig:
    """A preset with its switches and its proportions, and little else."""
    config = PRESETS[preset]
    change = TINY | {"kv_heads": 6 if config.kv_heads == config.heads else 2, "head_width": 8}
    if config.window:
        change |= {"window": 7, "window_layers": None if config.window_layers is None else (0, 2)}
    if config.rope.original_context:
        change |= {"rope": config.rope.model_copy(update={"original_context": 24})}
    if config.head_width * config.heads != config.width:
        change |= {"head_width": 10}
    return ModelConfig(**dict(config) | change)


def random_model(config: ModelConfig, *, dtype: torch.dtype = torch.float32) -> Transformer:
    """Weights large enough that every switch shows in the logits."""
    generator = torch.Generator().manual_seed(3)
    model = Transformer(config, seed=None, compute=dtype)
    with torch.no_grad():
        for name, weight in sorted(model_weights(model).items()):
            near = 1.0 if name.endswith("norm.weight") and config.norm != "rms_plus_one" else 0.0
            weight.copy_(near + torch.randn(weight.shape, generator=generator) * (0.3 if weight.dim() == 1 else 0.15))
    return model.to(dtype)


def tokens(count: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, TINY["vocabulary"], (count,), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def our_logits(model: Transformer, ids: torch.Tensor, first: int = 0) -> torch.Tensor:
    return model.logits(model(ids, torch.arange(first, first + len(ids)), Forest(roots([len(ids)]))))


@torch.no_grad()
def their_logits(folder, ids: torch.Tensor, first: int = 0, **options) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, **{"dtype": torch.float32} | options)
    return model(ids[None], position_ids=torch.arange(first, first + len(ids))[None]).logits[0]


@pytest.mark.parametrize("preset", [name for name, config in PRESETS.items() if config.causal])
def test_every_preset_computes_in_transformers_what_it_computes_here(tmp_path, preset):
    model = random_model(tiny(preset))
    save_model(model, tmp_path, bos=0, eos=[1])
    eager = {"attn_implementation": "eager"} if model.config.softcap else {}             # sdpa leaves a softcap out
    theirs = their_logits(tmp_path, tokens(), **eager)
    assert theirs.std() > 0.1
    torch.testing.assert_close(our_logits(model, tokens()), theirs, atol=2e-5, rtol=0)
    again = load_model(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(ours, model_weights(again)[name]) for name, ours in model_weights(model).items())


@pytest.mark.parametrize("preset", ["gpt2", "llama-3.1-8b", "mistral-7b", "qwen2-0.5b", "qwen3-0.6b", "gemma-2-2b"])
@torch.no_grad()
def test_greedy_tokens_are_those_of_transformers(tmp_path, preset):
    from transformers import AutoModelForCausalLM

    model, prompt = random_model(tiny(preset)), tokens(11).tolist()
    save_model(model, tmp_path, bos=0, eos=[1])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=None)[0]
    assert complete(model, [prompt], ends=set(), max_tokens=20)[0].ids == expected[len(prompt):].tolist()


def test_gpt2_is_the_same_to_1e_8_in_double_precision(tmp_path):
    model = random_model(tiny("gpt2"), dtype=torch.float64)
    save_model(model, tmp_path, dtype=torch.float64)
    torch.testing.assert_close(our_logits(model, tokens()), their_logits(tmp_path, tokens(), dtype=torch.float64),
                               atol=1e-8, rtol=0)


SCALED = {
    "linear": Rope(type="linear", factor=4.0), "ntk": Rope(type="ntk", factor=4.0),
    "dynamic": Rope(type="dynamic", factor=2.0),
    "llama3": Rope(type="llama3", factor=8.0, original_context=64),
    "yarn": Rope(type="yarn", factor=16.0, original_context=64),
    "yarn with mscale": Rope(type="yarn", factor=40.0, original_context=64, mscale=1.0, mscale_all_dim=0.8),
    "yarn as told": Rope(type="yarn", factor=8.0, original_context=64, attention_factor=1.25, beta_fast=16.0,
                         beta_slow=2.0, truncate=False),
}


@pytest.mark.parametrize("rope", SCALED.values(), ids=SCALED)
@pytest.mark.parametrize("first", [0, 1000, 130_000])
def test_scaled_rotary_positions_agree_far_out(tmp_path, rope, first):
    model = random_model(LLAMA.model_copy(update={"rope": rope, "head_width": 16, "rope_base": 500_000.0}))
    save_model(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama"
    torch.testing.assert_close(our_logits(model, tokens(), first), their_logits(tmp_path, tokens(), first),
                               atol=2e-5, rtol=0)


def test_scaling_is_told_in_both_forms_and_survives(tmp_path):
    for rope in SCALED.values():
        config = LLAMA.model_copy(update={"rope": rope})
        save_model(random_model(config), tmp_path)
        hf = json.loads((tmp_path / "config.json").read_text())
        new, old = ({k: v for k, v in hf.items() if k not in left_out}
                    for left_out in (("rope_theta", "rope_scaling"), ("rope_parameters",)))
        for form in (hf, new, old):
            (tmp_path / "config.json").write_text(json.dumps(form))
            found = load_config(tmp_path)
            if rope.type == "ntk":                          # no folder knows the word: it becomes a larger base
                assert found == config.model_copy(update={"rope": Rope(), "rope_base": found.rope_base})
                assert found.rope_base == pytest.approx(10_000 * 4 ** (8 / 6))
            else:
                assert found == config


@pytest.mark.parametrize("biases", ["none", "qkv"])
def test_a_head_that_is_turned_in_part_agrees_with_stablelm(tmp_path, biases):
    config = LLAMA.model_copy(update={"rope": Rope(fraction=0.25), "norm": "layer", "biases": biases, "tied": False})
    model = random_model(config)
    save_model(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "stablelm"
    torch.testing.assert_close(our_logits(model, tokens()), their_logits(tmp_path, tokens()), atol=2e-5, rtol=0)
    assert load_config(tmp_path) == config


@pytest.mark.parametrize("change", [
    {"biases": "all"}, {"biases": "attention", "activation": "geglu"}, {"activation": "geglu_tanh", "tied": False},
    {"biases": "qkv", "window": 5, "window_layers": (1, 2)}, {"biases": "qkv", "window": 5, "window_layers": (0, 2)},
    {"qk_norm": True, "biases": "attention", "window": 5}, {"window": 5}], ids=str)
def test_switches_of_a_family_that_no_preset_uses(tmp_path, change):
    config = LLAMA.model_copy(update=change)
    model = random_model(config)
    save_model(model, tmp_path)
    torch.testing.assert_close(our_logits(model, tokens()), their_logits(tmp_path, tokens()), atol=2e-5, rtol=0)
    assert load_config(tmp_path) == config


@pytest.mark.parametrize("activation", ["gelu", "relu", "relu2"])
def test_other_activations_of_gpt2(tmp_path, activation):
    config = tiny("gpt2").model_copy(update={"activation": activation, "score_width": 1.0, "tied": False})
    model = random_model(config)
    save_model(model, tmp_path)
    torch.testing.assert_close(our_logits(model, tokens()), their_logits(tmp_path, tokens()), atol=2e-5, rtol=0)
    assert load_config(tmp_path) == config


@pytest.mark.parametrize("change", [{}, {"qk_norm": True}, {"biases": "qkv"}], ids=str)
def test_interleaved_pairs_are_exported_as_halves(tmp_path, change):
    model = random_model(LLAMA.model_copy(update={"positions": "rope_interleaved"} | change))
    save_model(model, tmp_path)
    torch.testing.assert_close(our_logits(model, tokens()), their_logits(tmp_path, tokens()), atol=2e-5, rtol=0)
    again = our_logits(load_model(tmp_path), tokens())
    torch.testing.assert_close(again, our_logits(model, tokens()), atol=2e-5, rtol=0)


@pytest.mark.parametrize("change", [
    {"activation": "relu2"}, {"norm_order": "post"}, {"positions": "sinusoidal"}, {"positions": "none"},
    {"rope": Rope(type="yarn_paper", factor=4.0, original_context=24)}, {"norm": "layer", "residual_init": "zero"},
    {"width": 36, "heads": 4, "kv_heads": 4, "head_width": 6, "norm": "layer", "positions": "learned", "biases": "all",
     "activation": "gelu_tanh", "tied": True}],
    ids=str)
def test_what_no_family_can_say_has_a_form_of_its_own(tmp_path, change):
    config = LLAMA.model_copy(update=change)
    assert family_of(config) == "bloomery"
    model = random_model(config)
    save_model(model, tmp_path, shard_bytes=20_000)
    again = load_model(tmp_path)
    assert again.config == config and torch.equal(our_logits(again, tokens()), our_logits(model, tokens()))


def test_folders_of_a_bare_trunk_and_with_old_buffers_are_read(tmp_path):
    """GPT-2 as it was published: no prefix, and a causal mask among the weights."""
    model = random_model(tiny("gpt2"))
    save_model(model, tmp_path)
    weights = {name.removeprefix("transformer."): w for name, w in load_file(tmp_path / "model.safetensors").items()}
    assert "wte.weight" in weights and "h.2.attn.c_attn.bias" in weights
    save_file(weights | {"h.0.attn.bias": torch.ones(1, 1, 48, 48)}, tmp_path / "model.safetensors")
    assert torch.equal(our_logits(load_model(tmp_path), tokens()), our_logits(model, tokens()))
