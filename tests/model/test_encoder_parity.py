"""BERT and ModernBERT: transformers opens what we write and computes the same on padded rows, gradients too."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from bloomery.data.batch import Batch
from bloomery.model.config import ModelConfig
from bloomery.model.forest import DenseForest, Forest, roots
from bloomery.model.hf import family_of
from bloomery.model.presets import PRESETS
from bloomery.model.store import load_config, load_model, model_weights, save_model
from bloomery.model.transformer import Transformer
from bloomery.train.objective import causal_lm

SIZES = {"vocabulary": 61, "context": 48, "depth": 4, "width": 48, "heads": 6, "kv_heads": 6, "head_width": 8,
         "hidden": 40}
NETWORKS = {name: PRESETS[preset].model_copy(update=SIZES | change) for name, preset, change in (
    ("bert", "bert-base", {}), ("bert, tanh", "bert-base", {"activation": "gelu_tanh"}),
    ("modern", "modernbert-base", {"window": 5, "window_layers": (1, 2)}),
    ("modern, biases", "modernbert-base", {"window": 4, "window_layers": (0, 3), "biases": "all", "norm": "layer"}),
    ("modern, global", "modernbert-base", {"window": None, "window_layers": None, "window_rope_base": None}))}
LENGTHS = (40, 25, 3)


def random_model(config: ModelConfig, *, dtype: torch.dtype = torch.float32) -> Transformer:
    """Weights large enough that every switch shows in the logits."""
    generator, model = torch.Generator().manual_seed(3), Transformer(config, seed=None, compute=dtype)
    with torch.no_grad():
        for name, weight in sorted(model_weights(model).items()):
            near = 1.0 if name.endswith("norm.weight") else 0.0
            weight.copy_(near + torch.randn(weight.shape, generator=generator) * (0.3 if weight.dim() == 1 else 0.15))
    return model.to(dtype)


def padded(types: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, mask and types of rows of different lengths."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(1, SIZES["vocabulary"], mask.shape, generator=generator).masked_fill(~mask, 0)
    return ids, mask, torch.randint(0, max(types, 1), mask.shape, generator=generator)


@pytest.mark.parametrize("name", NETWORKS)
def test_flat_runs_are_the_padded_rows_of_transformers_in_loss_and_gradients(tmp_path, name):
    from transformers import AutoModelForMaskedLM

    model = random_model(NETWORKS[name])
    save_model(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert config["architectures"] == [type(theirs).__name__] and config["model_type"] != "bloomery"
    ids, mask, types = padded(model.config.types)
    chosen = mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(5)) < 0.3)
    labels = ids.masked_fill(~chosen, -100)
    kinds = {"token_type_ids": types} if model.config.types else {}
    out = theirs(ids, attention_mask=mask.long(), labels=labels, **kinds)
    out.loss.backward()
    segments = roots(list(LENGTHS), causal=False)
    batch = Batch(ids[mask], ids[mask], chosen[mask].float(), segments.positions, segments, float(chosen.sum()),
                  types=types[mask] if model.config.types else None)
    with torch.no_grad():
        for memory in (Forest, DenseForest):
            own = model.logits(model(batch.ids, batch.positions, memory(segments), batch.types))
            torch.testing.assert_close(own, out.logits[mask], atol=2e-5, rtol=0)
    loss, figures = causal_lm(model, batch)
    (loss / batch.count).backward()
    torch.testing.assert_close(loss / batch.count, out.loss, atol=1e-5, rtol=0)
    assert figures["mean_token_accuracy"] == float((out.logits.argmax(-1) == labels)[chosen].sum())
    words = theirs.get_input_embeddings().weight.grad
    torch.testing.assert_close(model.embedding.weight.grad, words, atol=2e-5, rtol=1e-3)
    torch.testing.assert_close(model.head.bias.grad, dict(theirs.named_parameters())[
        "cls.predictions.bias" if model.config.types else "decoder.bias"].grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_comes_back_whole(tmp_path, name):
    model = random_model(NETWORKS[name])
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config == model.config and model.config.parameters() == sum(
        weight.numel() for weight in model_weights(model).values())
    assert all(torch.equal(weight, model_weights(again)[name]) for name, weight in model_weights(model).items())


def test_bert_is_the_same_to_1e_10_in_double_precision(tmp_path):
    from transformers import BertForMaskedLM

    model = random_model(NETWORKS["bert"], dtype=torch.float64)
    save_model(model, tmp_path, dtype=torch.float64)
    theirs, (ids, mask, types) = BertForMaskedLM.from_pretrained(tmp_path, dtype=torch.float64).eval(), padded(2)
    segments = roots(list(LENGTHS), causal=False)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask.long(), token_type_ids=types).logits[mask]
        own = model.logits(model(ids[mask], segments.positions, Forest(segments), types[mask]))
    torch.testing.assert_close(own, expected, atol=1e-10, rtol=0)


def test_a_trunk_without_a_head_and_names_of_old_files_are_read(tmp_path):
    from transformers import BertModel

    model = random_model(NETWORKS["bert"])
    save_model(model, tmp_path)
    theirs = BertModel.from_pretrained(tmp_path)                # has a pooler, which is none of ours
    theirs.save_pretrained(tmp_path / "bare")
    bare = load_model(tmp_path / "bare")
    assert not bare.config.head_transform and family_of(bare.config) == "bert"
    assert torch.equal(bare.embedding.weight, model.embedding.weight)
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): weight
           for name, weight in load_file(tmp_path / "model.safetensors").items()}
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(load_model(tmp_path).embedding_norm.weight, model.embedding_norm.weight)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_published_sizes_are_those_of_transformers(kind):
    from transformers import AutoConfig, AutoModelForMaskedLM

    preset, theirs = PRESETS[f"{kind}-base"], AutoConfig.for_model(kind)
    with torch.device("meta"):
        count = sum(p.numel() for p in AutoModelForMaskedLM.from_config(theirs).parameters())
    assert preset.parameters() == count


def test_an_old_config_says_which_layers_are_local(tmp_path):
    save_model(random_model(NETWORKS["modern"]), tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    old = {name: value for name, value in said.items() if name not in ("layer_types", "rope_parameters")}
    (tmp_path / "config.json").write_text(json.dumps(old | {"global_attn_every_n_layers": 3, "local_attention": 8}))
    found = load_config(tmp_path)
    assert (found.window, found.window_layers, found.rope_base, found.window_rope_base) == (5, (1, 2), 160_000, 10_000)
