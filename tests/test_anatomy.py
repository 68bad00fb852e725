"""A model in words and numbers: every family, every switch, and what lies beside the weights."""

import json
from typing import Literal, get_origin

import pytest
from miniature import small_run

from bloomery import anatomy, cli
from bloomery.model.config import ModelConfig, Rope
from bloomery.model.presets import PRESETS, sized
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer
from bloomery.text.templates import TEMPLATES

TINY = sized(1, vocabulary=300, context=32, width=64)


@pytest.mark.parametrize("name", PRESETS)
def test_parts_add_up_to_the_whole(name):
    preset = PRESETS[name]
    parts = anatomy.anatomy(preset)
    whole = parts.pop("all")
    assert whole == sum(parts.values()) == preset.parameters()
    assert {"embedding", "attention", "feed-forward", "norms"} <= set(parts)
    assert ("head" in parts) == (preset.head_transform or not preset.tied)
    assert list(parts.values()) == sorted(parts.values(), reverse=True)


def test_known_models_in_known_words():
    words = {name: anatomy.architecture(PRESETS[name]) for name in ("gpt2", "llama-3.1-8b", "mistral-7b", "qwen3-0.6b",
                                                                    "gemma-2-2b")}
    assert words["gpt2"] | {"positions": "learned", "biases": "everywhere", "attention": "multi-head, 12 heads of 64",
                            "norm": "LayerNorm before each layer, eps 1e-05"} == words["gpt2"]
    llama = words["llama-3.1-8b"]
    assert llama["positions"] == "rotary, base 500k; Llama-3 scaling, factor 8 from 8192 tokens"
    assert llama["attention"] == "grouped-query, 32 heads of 128 share 8 key heads"
    assert words["mistral-7b"]["attention"].endswith("window of 4096 tokens")
    assert "queries and keys normalised" in words["qwen3-0.6b"]["attention"]
    gemma = words["gemma-2-2b"]
    assert "window of 4096 tokens in 13 of 26 blocks, scores soft-capped at 50" in gemma["attention"]
    assert "soft-capped at 30" in gemma["head"] and "before and after" in gemma["norm"]


@pytest.mark.parametrize(("changes", "part", "words"), [
    ({"kv_heads": 1, "heads": 4, "head_width": 16}, "attention", "multi-query, 4 heads of 16 share one key head"),
    ({"positions": "rope_interleaved", "rope": Rope(fraction=0.5)}, "positions",
     "rotary, base 10k, interleaved, 32 of 64 dimensions"),
    ({"rope": Rope(type="yarn", factor=4, original_context=32)}, "positions",
     "rotary, base 10k; YaRN, factor 4 from 32 tokens"),
    ({"norm_order": "post"}, "norm", "RMSNorm after each layer, eps 1e-05"),
    ({"tied": False}, "head", "a matrix of its own"),
    ({"activation": "relu2"}, "feed-forward", "squared ReLU, 192 wide"),
    ({"score_width": 256.0}, "attention", "multi-head, 1 head of 64, scores over the root of 256"),
])
def test_every_switch_is_said(changes, part, words):
    assert anatomy.architecture(ModelConfig(**(TINY.model_dump() | changes)))[part] == words


def test_every_value_of_a_choice_has_words():
    choices = {name: set(field.annotation.__args__) for name, field in ModelConfig.model_fields.items()
               if get_origin(field.annotation) is Literal}
    rotary = {"rope", "rope_interleaved"}
    for field, words in (("norm", anatomy.NORMS), ("norm_order", anatomy.ORDERS), ("activation", anatomy.ACTIVATIONS),
                         ("biases", anatomy.BIASES), ("positions", rotary | set(anatomy.PLACES))):
        assert choices[field] == set(words)
    assert set(Rope.model_fields["type"].annotation.__args__) == {"default", *anatomy.SCALINGS}


@pytest.mark.parametrize(("template", "told"), [
    (TEMPLATES["chatml"].jinja(), "chatml"), ("{{ '<|im_start|>' }}", "its own, ChatML style"),
    ("{{ '<|start_header_id|>' }}", "its own, Llama 3 style"), ("{{ messages }}", "its own, another style"), ("", "")])
def test_chat_templates_by_name(tmp_path, template, told):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert anatomy.chat_template(tmp_path) == told
    (tmp_path / "chat_template.jinja").write_text(template)
    assert anatomy.chat_template(tmp_path) == told


def test_several_templates(tmp_path):
    assert anatomy.chat_template(tmp_path) == ""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": [
        {"name": "default", "template": ""}, {"name": "tool_use", "template": ""}]}))
    assert anatomy.chat_template(tmp_path) == "several: default, tool_use"


def test_a_folder_of_anybody_as_json(tmp_path, capfd):
    """Without DONE, tokenizer or template, in two files."""
    save_model(Transformer(TINY), tmp_path, bos=0, eos=[2], shard_bytes=100_000)
    assert cli.main(["show", str(tmp_path), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["model"]
    assert found["class"] == "LlamaForCausalLM" and found["tokenizer"] == {} and found["chat_template"] == ""
    assert len(found["files"]) > 1 and {kind for file in found["files"] for kind in file["types"]} == {"F32"}
    assert found["kv_cache_bytes_per_token"] == 2 * TINY.depth * TINY.kv_heads * TINY.head_width * 2
    assert found["parameters"]["all"] == TINY.parameters() and found["generation"]["eos_token_id"] == 2
    assert cli.main(["show", str(tmp_path)]) == 0
    out = capfd.readouterr().out
    assert "model-00001-of-" in out and "eos_token_id 2" in out and "special ids" not in out


def test_a_stage_as_json_says_what_its_model_is(capfd):
    folder = next(small_run().glob("sft-*"))
    capfd.readouterr()                                                      # making it says what was made
    assert cli.main(["show", str(folder), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["verb"] == "sft" and found["model"]["chat_template"] == "chatml"
    assert found["model"]["tokenizer"] == {"kind": "BPE", "size": 300, "special": {
        "<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}}
