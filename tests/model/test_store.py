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
from bloomery.model.presets import PRESETS
from bloomery.model.store import load_config, load_generation, load_model, model_weights, save_model
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
    assert ("lm_head.weight" in load_file(tmp_path / "once" / "model.safetensors")) != tied


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


def header(path, **change) -> None:
    """Rewrite a safetensors header."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    said = json.loads(raw[8:8 + size])
    said["model.norm.weight"] |= change
    text = json.dumps(said).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size:])


@pytest.mark.parametrize("lie", [
    {"shape": [1_000_000_000]}, {"shape": [12]}, {"dtype": "F64"}, {"dtype": "PICKLE"}, {"data_offsets": [0, 96]},
    {"data_offsets": [10**12, 10**12 + 96]}, {"data_offsets": [-96, 0]}], ids=str)
def test_a_header_that_lies_is_refused(tmp_path, lie):
    save_model(Transformer(CONFIG, seed=0), tmp_path)
    header(tmp_path / "model.safetensors")
    load_model(tmp_path)
    header(tmp_path / "model.safetensors", **lie)
    with pytest.raises(InputError, match="cannot be read"):
        load_model(tmp_path)


def test_a_header_longer_than_its_file_is_refused(tmp_path):
    save_model(Transformer(CONFIG, seed=0), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(InputError, match="cannot be read"):
        load_model(tmp_path)


def test_a_link_out_of_the_folder_is_refused_but_not_that_of_the_hub_s_cache(tmp_path):
    commit, blobs = tmp_path / "cache" / "snapshots" / "abc", tmp_path / "cache" / "blobs"
    for folder in (tmp_path / "model", commit):
        save_model(Transformer(CONFIG, seed=0), folder)
    blobs.mkdir()
    for folder, target in ((tmp_path / "model", tmp_path / "elsewhere"), (commit, blobs / "123")):
        (folder / "model.safetensors").rename(target)
        (folder / "model.safetensors").symlink_to(target)
    assert load_model(commit).config == CONFIG
    with pytest.raises(InputError, match="outside the model folder"):
        load_model(tmp_path / "model")


def test_numbers_that_are_no_weights_are_refused(tmp_path):
    save_model(Transformer(CONFIG, seed=0), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"model.norm.weight": torch.ones(24, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as caught:
        load_model(tmp_path)
    assert "model.norm.weight is I8" in caught.value.why


def test_a_head_other_than_the_embedding_it_is_tied_to_is_refused(tmp_path):
    save_model(Transformer(config(tied=True), seed=2), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="not the embedding it is tied to"):
        load_model(tmp_path)


@TIED
def test_shards_are_written_with_an_index_and_replace_what_was_there(tmp_path, tied):
    from transformers import AutoModelForCausalLM

    model = Transformer(config(tied=tied), seed=4)
    for limit in (1e9, 9_000, 20_000, 1e9):
        save_model(model, tmp_path, shard_bytes=limit)
        files = sorted(path.name for path in tmp_path.iterdir())
        sizes = [sum(w.numel() * 4 for w in load_file(tmp_path / name).values())
                 for name in files if name.endswith(".safetensors")]
        assert (len(sizes) == 1) == (limit == 1e9) == ("model.safetensors.index.json" not in files)
        assert max(sizes) <= limit and not any(name.startswith(".") for name in files)
        again = load_model(tmp_path)
        assert all(torch.equal(ours, model_weights(again)[name]) for name, ours in model_weights(model).items())
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        torch.testing.assert_close(theirs(torch.tensor(IDS)).logits, our_logits(model), atol=2e-5, rtol=0)


def test_weights_can_be_written_in_half_the_bytes(tmp_path):
    model = Transformer(CONFIG, seed=4)
    save_model(model, tmp_path, dtype=torch.bfloat16)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert torch.equal(load_model(tmp_path).head.weight, model.head.weight.bfloat16().float())


def test_what_a_folder_says_of_generation_is_carried_on(tmp_path):
    model = Transformer(CONFIG, seed=4)
    said = {"bos_token_id": 3, "eos_token_id": [4, 5], "pad_token_id": 6, "top_p": 0.9}
    save_model(model, tmp_path, generation=said)
    assert load_generation(tmp_path) == said
    hf = json.loads((tmp_path / "config.json").read_text())
    assert (hf["bos_token_id"], hf["eos_token_id"], hf["pad_token_id"]) == (3, [4, 5], 6)
    (tmp_path / "generation_config.json").unlink()
    assert load_generation(tmp_path) == {"bos_token_id": 3, "eos_token_id": [4, 5], "pad_token_id": 6}
    save_model(model, tmp_path, generation=said, eos=[7])
    assert load_generation(tmp_path) == said | {"eos_token_id": 7}


@pytest.mark.parametrize(("text", "why"), [("{", "Expecting"), ("[1]", "not a JSON object")])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_broken_json_file_is_an_error_that_names_it(tmp_path, name, text, why):
    save_model(Transformer(CONFIG, seed=0), tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="cannot be read") as caught:
        load_model(tmp_path)
    assert caught.value.where == str(tmp_path / name) and why in caught.value.why


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


@pytest.mark.parametrize(("change", "parts"), [
    ({"model_type": "mamba"}, ["mamba", "llama, mistral, qwen2"]),
    ({"hidden_act": "laurel", "mlp_bias": True}, ["hidden_act='laurel'", "mlp_bias=True without attention_bias"]),
    ({"rope_parameters": {"rope_type": "longrope", "factor": 4.0}}, ["rope type 'longrope'"]),
    ({"rope_parameters": {"rope_type": "linear"}}, ["rope type 'linear' without a factor"]),
    ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 0.5}}, ["rope.factor", "equal to 1"]),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, ["differ between layers"]),
    ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor=0.5"]),
    ({"num_attention_heads": 3}, ["multiple of kv_heads"]),
    ({"hidden_size": None, "vocab_size": None}, ["missing hidden_size", "missing vocab_size"]),
])
def test_networks_we_do_not_have_are_refused_with_every_reason(change, parts):
    with pytest.raises(InputError) as caught:
        to_config(from_config(CONFIG, bos=0, eos=0) | change)
    assert all(part in str(caught.value.why) + str(caught.value) for part in parts)


@pytest.mark.parametrize(("family", "change", "part"), [
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
    ("gemma-2-2b", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
    ("qwen3-0.6b", {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["chunked"]}, "type 'chunked'"),
])
def test_switches_of_other_families_we_do_not_have_are_refused(family, change, part):
    with pytest.raises(InputError) as caught:
        to_config(from_config(PRESETS[family]) | change)
    assert part in caught.value.why


def test_an_unknown_rope_key_is_told(capsys):
    hf = from_config(CONFIG)
    assert to_config(hf) == to_config(hf | {"rope_parameters": hf["rope_parameters"] | {"warp": 2}})
    assert "unknown rope key warp" in capsys.readouterr().err


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
