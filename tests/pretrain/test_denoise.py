"""Span corruption, UL2 and prefix LM: lengths by formula, texts that can be put together again, stages that learn."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bloomery.cli import main
from bloomery.core.errors import ConfigError
from bloomery.data.batch import Run, forest
from bloomery.model.config import ModelConfig
from bloomery.model.forest import DenseForest, Forest, Segments, dense_mask, roots
from bloomery.model.seq2seq_files import load_seq2seq
from bloomery.model.store import load_model
from bloomery.model.transformer import Transformer
from bloomery.pretrain.denoise import Config, prefixes_of, window
from bloomery.pretrain.spans import corrupt, noise_counts, noise_mask, raw_length
from bloomery.pretrain.ul2 import MIXTURE, Denoiser, denoised, drawn, prefix_split
from bloomery.text.tokenizer import load_tokenizer

SENTINELS = [99 - i for i in range(60)]


@given(st.integers(2, 300), st.floats(0.02, 0.9), st.floats(1, 70), st.integers(0, 5))
def test_a_mask_has_the_counts_of_the_formula_and_a_text_can_be_put_together_again(length, density, span, seed):
    mask = noise_mask(length, density, span, np.random.default_rng(seed))
    noise, spans = noise_counts(length, density, span)
    assert mask.sum() == noise and not mask[0] and mask[-1]
    assert (np.diff(mask.astype(int)) == 1).sum() == spans
    text, marks = [*range(100, 100 + length)], [-1 - i for i in range(spans)]
    inputs, targets = corrupt(text, mask, marks, end=7)
    assert len(inputs) == length - noise + spans + 1 and len(targets) == noise + spans + 1
    whole, mark = {}, None
    for token in targets[:-1]:
        mark = token if token < 0 else mark
        whole.setdefault(mark, []).extend([token] if token >= 0 else [])
    again = [token for part in inputs[:-1] for token in (whole[part] if part < 0 else [part])]
    assert again == text


def test_the_numbers_of_t5_and_what_is_refused():
    assert raw_length(512, 0.15, 3) == (568, 114)
    assert corrupt([1, 2, 3], [0, 1, 0], SENTINELS, 0) == ([1, 99, 3, 0], [99, 2, 98, 0])
    assert corrupt([1, 2, 3], [1, 0, 1], SENTINELS) == ([99, 2, 98], [99, 1, 98, 3])
    with pytest.raises(ValueError, match="2 sentinels are needed"):
        corrupt([1, 2, 3], [1, 0, 1], [9])
    with pytest.raises(ValueError, match="density"):
        noise_counts(9, 1.0, 3)
    with pytest.raises(ValueError, match="cannot be split at 3"):
        prefix_split([1, 2, 3], 3, mode=None, sentinel=9, end=0)
    with pytest.raises(ValueError, match="weights"):
        drawn([0.0, 0.0], np.random.default_rng(0))


def test_denoisers_say_their_mode_and_hide_what_they_should():
    assert [each.mode for each in MIXTURE] == ["R", "R", "S", "X", "X", "X", "X"]
    assert Denoiser(12, 0.1).mode == "X" and Denoiser(3, 0.3).mode == "X" and Denoiser(11, 0.29).mode == "R"
    text = [*range(200, 300)]
    for denoiser in MIXTURE:
        inputs, targets = denoised(text, denoiser, np.random.default_rng(1), modes={"R": 1, "S": 2, "X": 3},
                                   sentinels=SENTINELS, end=0)
        assert inputs[0] == {"R": 1, "S": 2, "X": 3}[denoiser.mode] and inputs[-1] == targets[-1] == 0
        assert sum(token >= 200 for token in targets) == round(100 * denoiser.density)
        if denoiser.span is None:
            assert inputs == [2, *text[:75], 99, 0] and targets == [99, *text[75:], 0]


# --- prefix LM ----------------------------------------------------------------------------------------------------

def test_a_prefix_sees_both_ways_and_what_goes_on_does_not():
    segments = Segments(torch.tensor([0, 2, 4], dtype=torch.int32), torch.tensor([-1, 0], dtype=torch.int32),
                        prefix=True)
    assert dense_mask(segments).int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert segments.paths.ahead.tolist() == [1, 1, 2, 3] and roots([2]).paths.ahead is None


@pytest.mark.parametrize("window_", [None, 5])
def test_the_fast_form_of_a_prefix_is_the_dense_one(window_):
    config = ModelConfig(vocabulary=20, depth=2, width=24, heads=3, kv_heads=3, head_width=8, hidden=16, window=window_)
    model = Transformer(config)
    texts = [[*range(1, 15)], [3, 4], [*range(2, 12)]]
    plain = forest([Run(text, text, [1.0] * len(text)) for text in texts])
    batch = prefixes_of(0.3, plain, np.random.default_rng(0))
    read = sum(end - first for (first, end), parent in zip(batch.segments.runs, batch.segments.parent.tolist(),
                                                          strict=True) if parent < 0)
    assert batch.count == float(batch.weights.sum()) == sum(map(len, texts)) - read and len(batch.ids) == 26 - 3
    found = [model(batch.ids, batch.positions, kind(batch.segments)) for kind in (Forest, DenseForest)]
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
    causal = model(batch.ids, batch.positions, Forest(Segments(batch.segments.start, batch.segments.parent)))
    assert (causal - found[0]).abs().max() > 1e-3
    grads = [torch.autograd.grad(each.square().sum(), model.embedding.weight)[0] for each in found]
    torch.testing.assert_close(*grads, atol=1e-4, rtol=1e-4)


# --- stages -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    room = tmp_path_factory.mktemp("corpus")
    with open(room / "docs.jsonl", "w") as file:
        for i in range(240):
            words = [f"{'abcdefgh'[(i + k) % 8]}{'xyz'[k % 3]}" for k in range(60)]
            file.write(json.dumps({"text": " ".join([str(i), *words])}) + "\n")
    assert main(["tokenizer", f"data={room}/docs.jsonl", "vocabulary=275", f"out={room}/vocabulary"]) == 0
    assert main(["shards", f"data={room}/docs.jsonl", f"tokenizer={room}/vocabulary", f"out={room}/tokens"]) == 0
    return room


SMALL = ["steps=30", "rows=8", "validate_every=30", "save_every=1000", "optimizer.lr=5e-3", "precision=fp32"]
NET = ["network.preset=t5-tiny", "network.depth=1", "network.width=32", "network.hidden=64", "network.heads=2",
       "network.context=48"]


@pytest.mark.parametrize(("verb", "net"), [("spans", NET), ("ul2", NET), (
    "prefix_lm", ["model.depth=1", "model.width=32", "model.heads=2", "model.context=48"])])
def test_each_way_of_hiding_learns_from_the_command_line(verb, net, corpus, tmp_path, handlers):
    out = tmp_path / "out"
    assert main([verb, f"data={corpus}/tokens", f"tokenizer={corpus}/vocabulary", *SMALL, *net, f"out={out}"]) == 0
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["val_loss"] for row in log if "val_loss" in row]
    assert losses[-1] < losses[0] - 0.5
    tokenizer = load_tokenizer(out)
    if verb == "prefix_lm":
        assert load_model(out).config.context == 48
    else:
        model = load_seq2seq(out)
        assert tokenizer.token("<extra_id_0>") == tokenizer.size - 1 == model.config.vocabulary - 1
        assert tokenizer.has("[S]") == (verb == "ul2")


def test_windows_fill_the_inputs_and_too_few_sentinels_are_refused():
    options = {"data": "d", "tokenizer": "t", "steps": 1}
    assert window(Config(**options), 512) == 568
    assert window(Config(**options, kind="ul2"), 512) == window(Config(**options), 511)
    assert window(Config(**options, kind="prefix_lm"), 512) == 512
    with pytest.raises(ConfigError, match="sentinels"):
        window(Config(**options, sentinels=5), 512)
    with pytest.raises(ValueError, match="denoisers"):
        Config(**options, kind="ul2", denoisers=(1.0, 2.0))
