"""Model folders: what we write transformers opens, what transformers writes we open, and nothing damaged gets in."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from bloomery.core.errors import InputError
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest, roots
from bloomery.model.hf import from_config, to_config
from bloomery.model.store import load_config, load_model, model_weights, read_weights, save_model
from bloomery.model.transformer import Transformer

CONFIG = ModelConfig(vocabulary=29, context=32, depth=2, width=24, heads=4, kv_heads=2, head_width=10, hidden=40,
                     rope_base=5000.0, norm_eps=1e-6)
TIED = pytest.mark.parametrize("tied", [True, False])
IDS = [[1, 5, 9, 28, 0, 3, 3, 17], [2, 2, 11, 4, 19, 6, 7, 8]]


def config(**changes) -> ModelConfig:
    return CONFIG.model_copy(update=changes)


@torch.no_grad()
def our_logits(model: Transformer) -> torch.Tensor:
    ids = torch.tensor(IDS)
    positions = torch.arange(ids.shape[1]).repeat(len(ids))
    return model.logits(model(ids.flatten(), positions, Forest(roots([ids.shape[1]] * len(ids))))).view(*ids.shape, -1)


@TIED
@torch.no_grad()
def test_transformers_opens_our_folder_with_equal_logits(tmp_path, tied):
    from transformers import AutoModelForCausalLM

    model = Transformer(config(tied=tied), seed=1)
    save_model(model, tmp_path, bos=0, eos=[2, 0])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(theirs).__name__ == "LlamaForCausalLM"
    assert theirs.num_parameters() == model.config.parameters()
    assert theirs.generation_config.eos_token_id == [2, 0]
    torch.testing.assert_close(theirs(torch.tensor(IDS)).logits, our_logits(model), atol=2e-5, rtol=0)


@TIED
@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("shard", ["5GB", "10KB"])
@torch.no_grad()
def test_we_open_what_transformers_saves(tmp_path, tied, kv_heads, shard):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(
        vocab_size=29, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=6,
        num_key_value_heads=kv_heads, max_position_embeddings=32, tie_word_embeddings=tied, rms_norm_eps=1e-5))
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "10KB")
    model = load_model(tmp_path)
    assert model.config.head_width == 6 != model.config.width // model.config.heads
    assert model.config.tied == tied and (model.head is model.embedding) == tied
    torch.testing.assert_close(our_logits(model), theirs(torch.tensor(IDS)).logits, atol=2e-5, rtol=0)


@TIED
def test_export_then_import_is_the_identity(tmp_path, tied):
    model = Transformer(config(tied=tied), seed=2)
    save_model(model, tmp_path / "once", bos=0, eos=[2])
    again = load_model(tmp_path / "once")
    assert again.config == model.config
    for (name, ours), (same, theirs) in zip(model_weights(model).items(), model_weights(again).items(), strict=True):
        assert name == same and torch.equal(ours, theirs)
    save_model(again, tmp_path / "twice", bos=0, eos=[2])
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()
    assert ("lm_head.weight" in read_weights(tmp_path / "once")) != tied


def test_a_tied_folder_may_hold_its_head_twice(tmp_path):
    """Some tools write `lm_head.weight` beside the embedding it equals."""
    model = Transformer(config(tied=True), seed=2)
    save_model(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, tmp_path / "model.safetensors")
    assert torch.equal(load_model(tmp_path).head.weight, model.head.weight)


def test_every_problem_with_weights_is_in_one_error(tmp_path):
    save_model(Transformer(CONFIG, seed=0), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    weights["model.layers.0.mlp.down_proj.weight"] = torch.zeros(24, 41)
    weights["model.layers.7.mlp.down_proj.weight"] = torch.zeros(2, 2)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as caught:
        load_model(tmp_path)
    for part in ("missing model.norm.weight", "unexpected model.layers.7.mlp.down_proj.weight",
                 "model.layers.0.mlp.down_proj.weight has shape (24, 41), expected (24, 40)"):
        assert part in caught.value.why
    assert caught.value.where == str(tmp_path)


def test_a_pickle_is_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    save_model(Transformer(CONFIG, seed=0), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="no safetensors weights") as caught:
        load_model(tmp_path)
    assert "pytorch_model.bin" in caught.value.why and not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("cut", [0, 7, 200, -1])
def test_a_cut_weight_file_is_an_error_that_names_it(tmp_path, cut):
    save_model(Transformer(CONFIG, seed=0), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="cannot be read") as caught:
        load_model(tmp_path)
    assert caught.value.where == str(path)


def test_a_shard_outside_the_folder_is_refused(tmp_path):
    folder = tmp_path / "model"
    save_model(Transformer(CONFIG, seed=0), folder)
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../outside.safetensors"}}))
    with pytest.raises(InputError, match="outside the model folder"):
        load_model(folder)


def test_a_missing_folder_says_what_to_give(tmp_path):
    with pytest.raises(InputError, match="not a model folder"):
        load_config(tmp_path / "nothing")


@pytest.mark.parametrize(("change", "part"), [
    ({"model_type": "mamba"}, "mamba"),
    ({"attention_bias": True}, "attention_bias=True"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope type 'yarn'"),
    ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope type 'linear'"),
])
def test_networks_we_do_not_have_are_refused(change, part):
    with pytest.raises(InputError) as caught:
        to_config(from_config(CONFIG, bos=0, eos=0) | change)
    assert part in str(caught.value)


def test_both_forms_of_the_rotary_base_are_read():
    ours = from_config(CONFIG, bos=0, eos=0)
    old = {key: value for key, value in ours.items() if key != "rope_parameters"}
    new = {key: value for key, value in ours.items() if key not in ("rope_theta", "rope_scaling")}
    assert to_config(ours) == to_config(old) == to_config(new) == CONFIG


def test_absent_options_take_their_family_s_defaults():
    bare = {"model_type": "llama", "vocab_size": 29, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 32, "rms_norm_eps": 1e-6}
    config = to_config(bare)
    assert (config.kv_heads, config.head_width, config.rope_base, config.tied) == (4, 6, 10_000.0, False)
