"""A head of scalars: folders and numbers of transformers, and one score a run however the runs are laid out."""

import json

import pytest
import torch
from safetensors.torch import load_file

from bloomery.core.errors import InputError
from bloomery.model.config import ModelConfig
from bloomery.model.forest import DenseForest, Forest, Segments, roots
from bloomery.model.presets import PRESETS
from bloomery.model.scalar import ScalarModel, is_scalar, load_scalar, padded_scores, save_scalar, scalar_weights
from bloomery.model.store import load_model, save_model
from bloomery.model.transformer import Transformer

SIZES = {"vocabulary": 61, "context": 48, "depth": 2, "width": 48, "heads": 6, "head_width": 8, "hidden": 40}
PAD = 60
FAMILIES = ["llama-3.1-8b", "mistral-7b", "qwen2-0.5b", "qwen3-0.6b", "gemma-2-2b", "gpt2"]


def tiny(preset: str) -> ModelConfig:
    config = PRESETS[preset]
    change = SIZES | {"kv_heads": 6 if config.kv_heads == config.heads else 2}
    if config.window:
        change |= {"window": 7, "window_layers": None if config.window_layers is None else (0,)}
    if config.rope.original_context:
        change |= {"rope": config.rope.model_copy(update={"original_context": 24})}
    return ModelConfig(**dict(config) | change)


def scalar(config: ModelConfig, *, labels: int = 1, pad: int | None = PAD) -> ScalarModel:
    """Random weights large enough that every token shows in the score."""
    generator = torch.Generator().manual_seed(3)
    model = ScalarModel(Transformer(config), labels, pad=pad)
    with torch.no_grad():
        for name, weight in sorted(scalar_weights(model).items()):
            near = 1.0 if name.endswith("norm.weight") and config.norm != "rms_plus_one" else 0.0
            weight.copy_(near + torch.randn(weight.shape, generator=generator) * (0.3 if weight.dim() == 1 else 0.15))
    return model


def sequences(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, PAD, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def scores(model: ScalarModel, rows: list[list[int]]) -> torch.Tensor:
    return model.scores(torch.tensor([i for row in rows for i in row]), roots(list(map(len, rows))))


def padded(rows: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    fill = [[PAD] * (width - len(row)) for row in rows]
    ids = [row + f if side == "right" else f + row for row, f in zip(rows, fill, strict=True)]
    return torch.tensor(ids), torch.tensor([[int(i != PAD) for i in row] for row in ids])


def theirs(folder):
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("preset", FAMILIES)
@torch.no_grad()
def test_transformers_opens_our_folder_and_scores_the_same(tmp_path, preset, labels):
    model, rows = scalar(tiny(preset), labels=labels), sequences(11, 3, 40, 1)
    save_scalar(model, tmp_path, bos=0, eos=[1])
    peer = theirs(tmp_path)
    assert peer.config.num_labels == labels and type(peer).__name__.endswith("ForSequenceClassification")
    ids, mask = padded(rows, "right")
    expected = peer(ids, attention_mask=mask).logits
    assert expected.std() > 0.05
    torch.testing.assert_close(scores(model, rows), expected, atol=1e-5, rtol=0)
    again = load_scalar(tmp_path)
    assert again.labels == labels and again.pad == PAD and again.trunk.config == model.trunk.config
    assert torch.equal(scores(again, rows), scores(model, rows))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("preset", ["llama-3.1-8b", "gpt2", "mistral-7b"])
@torch.no_grad()
def test_padded_rows_are_scored_as_transformers_scores_them(tmp_path, preset, masked, side):
    """Rows that hold or end with the padding token included: there the token before it is read."""
    model, rows = scalar(tiny(preset), labels=2), sequences(11, 3, 20, 1)
    rows[0][-1] = rows[2][5] = PAD
    save_scalar(model, tmp_path)
    ids, mask = padded(rows, side)
    mask[0, -1 if side == "left" else 10] = 1                   # real, though it looks like padding
    mask = mask if masked else None
    expected = theirs(tmp_path)(ids, attention_mask=mask).logits
    torch.testing.assert_close(padded_scores(model, ids, mask), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_we_open_what_transformers_saves(tmp_path):
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    torch.manual_seed(0)
    peer = Qwen2ForSequenceClassification(Qwen2Config(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, num_labels=1, pad_token_id=PAD)).eval()
    peer.save_pretrained(tmp_path)
    model, rows = load_scalar(tmp_path), sequences(7, 12)
    ids, mask = padded(rows, "right")
    torch.testing.assert_close(scores(model, rows), peer(ids, attention_mask=mask).logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_prompt_read_once_scores_like_separate_sequences():
    model = scalar(tiny("llama-3.1-8b"))
    prompt, *answers = sequences(20, 5, 1, 9)
    runs = [prompt, *answers, []]
    start = torch.tensor([0, *map(len, runs)]).cumsum(0).to(torch.int32)
    segments = Segments(start, torch.tensor([-1, 0, 0, 0, 0], dtype=torch.int32))
    forest = model.scores(torch.tensor([i for run in runs for i in run]), segments)
    apart = scores(model, [prompt, *(prompt + answer for answer in answers), prompt])
    torch.testing.assert_close(forest, apart, atol=1e-5, rtol=0)
    every = model(torch.tensor([i for run in runs for i in run]), segments.positions, DenseForest(segments))
    torch.testing.assert_close(every[segments.start[1:4].long() - 1], apart[:3], atol=1e-5, rtol=0)


def test_a_path_without_a_token_has_no_score():
    model = scalar(tiny("gpt2"))
    with pytest.raises(ValueError, match="run 1 is empty"):
        model.scores(torch.tensor([3, 4]), roots([2, 0]))


def test_rows_that_cannot_be_told_from_their_padding_are_refused():
    model = scalar(tiny("gpt2"), pad=None)
    assert padded_scores(model, torch.tensor([[1, 2, PAD]])).shape == (1, 1)
    with pytest.raises(ValueError, match="no pad token"):
        padded_scores(model, torch.tensor([[1, 2, PAD], [4, 5, 6]]))


@torch.no_grad()
def test_an_untied_head_is_let_go_and_bf16_stays_near(tmp_path):
    trunk = Transformer(ModelConfig(**SIZES, kv_heads=2, tied=False), seed=5)
    hidden = trunk(torch.arange(9), torch.arange(9), Forest(roots([9])))
    model = ScalarModel(trunk, seed=2)
    assert model.trunk.head is model.trunk.embedding
    torch.testing.assert_close(model.scores(torch.arange(9), roots([9])), hidden[-1:] @ model.score.weight.T)
    save_scalar(model, tmp_path, dtype=torch.bfloat16)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    coarse = load_scalar(tmp_path, compute=torch.bfloat16, dtype=torch.bfloat16).scores(torch.arange(9), roots([9]))
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, model.scores(torch.arange(9), roots([9])), atol=0.1, rtol=0)


def test_the_first_scores_are_a_function_of_the_seed():
    first, same, other = (ScalarModel(Transformer(tiny("gpt2")), seed=seed).score.weight for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert float(first.detach().std()) == pytest.approx(49 ** -0.5, rel=0.3)


def test_networks_of_our_own_form_come_back(tmp_path):
    model = scalar(ModelConfig(**SIZES, kv_heads=2, norm_order="post"), labels=2)
    save_scalar(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "bloomery" and is_scalar(tmp_path)
    assert torch.equal(scores(load_scalar(tmp_path), sequences(5, 9)), scores(model, sequences(5, 9)))


def test_a_language_model_is_no_reward_model_nor_the_other_way_round(tmp_path):
    save_model(Transformer(tiny("llama-3.1-8b")), tmp_path / "lm")
    assert not is_scalar(tmp_path / "lm")
    with pytest.raises(InputError, match="not a reward model"):
        load_scalar(tmp_path / "lm")
    save_scalar(scalar(tiny("llama-3.1-8b")), tmp_path / "rm")
    with pytest.raises(InputError) as error:
        load_model(tmp_path / "rm")
    assert "score.weight" in error.value.why


def test_a_head_of_another_width_is_refused(tmp_path):
    save_scalar(scalar(tiny("gpt2"), labels=2), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": {"0": "LABEL_0"}}))
    with pytest.raises(InputError) as error:
        load_scalar(tmp_path)
    assert "score.weight has shape (2, 48), expected (1, 48)" in error.value.why
