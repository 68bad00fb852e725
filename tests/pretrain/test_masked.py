"""The mlm stage: an encoder learns what stands where, in both styles, with pairs and without, and opens elsewhere."""

import json

import pytest
import torch

from bloomery.core.errors import ConfigError, InputError
from bloomery.model.store import load_model
from bloomery.pretrain import shards
from bloomery.pretrain.masked import Config, run
from bloomery.text.tokenizer import load_tokenizer
from bloomery.text.wordpiece import wordpiece

LINES = ["one two three four five six seven eight", "red green blue red green blue red green", "up down up down up"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A vocabulary and shards of three sayings, again and again."""
    room = tmp_path_factory.mktemp("sayings")
    (room / "docs.jsonl").write_text("".join(
        json.dumps({"text": " ".join([LINES[i % 3]] * 4) + f" {i}"}) + "\n" for i in range(120)))
    wordpiece(LINES * 9 + [str(i) for i in range(120)], vocabulary=120).save(room / "words", context=24)
    (room / "shards").mkdir()
    shards.run(shards.Config(data=str(room / "docs.jsonl"), tokenizer=str(room / "words"), validation=0.2),
               room / "shards")
    return room


def config(corpus, **options) -> Config:
    given = {"steps": 120, "rows": 16, "validate_every": 120, "precision": "fp32", "optimizer": {"lr": 5e-3},
             "model": {"depth": 2, "width": 32, "heads": 2, "kv_heads": 2, "head_width": 16, "hidden": 64,
                       "context": 24}}
    return Config(data=str(corpus / "shards"), tokenizer=str(corpus / "words"), **given | options)


@pytest.mark.parametrize(("style", "options"), [
    ("modern", {}), ("bert", {}), ("bert", {"next_sentence": True}),
    ("modern", {"masking": {"selection": "bernoulli", "whole_words": True}})])
def test_hidden_tokens_are_learned(corpus, tmp_path, handlers, style, options):
    found = run(config(corpus, style=style, **options), tmp_path)
    assert found["val_mean_token_accuracy"] > 0.15 and found["val_perplexity"] < 12, found    # 120 at first
    if "next_sentence" in options:
        assert found["val_nsp_loss"] < 0.72 and found["val_loss"] == pytest.approx(
            found["val_mlm_loss"] + found["val_nsp_loss"]), found
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [
        "BertForPreTraining" if "next_sentence" in options else "BertForMaskedLM" if style == "bert"
        else "ModernBertForMaskedLM"]


def test_transformers_fills_the_mask_with_what_was_learned(corpus, tmp_path, handlers):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    run(config(corpus, style="bert", steps=200), tmp_path)
    words, theirs = AutoTokenizer.from_pretrained(tmp_path), AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    text = words("red green [MASK] red green blue", return_tensors="pt")
    with torch.no_grad():
        best = theirs(**text).logits[0, 3].argmax()
    assert words.decode([best]) == "blue" and load_model(tmp_path).config.types == 2
    assert load_tokenizer(tmp_path).mask == words.mask_token_id


def test_any_split_into_micro_batches_gives_the_same_step(corpus, tmp_path, handlers):
    def trained(rows: int, pairs: bool):
        out = tmp_path / f"{rows}-{pairs}"
        out.mkdir()
        run(config(corpus, style="bert", steps=3, micro_rows=rows, next_sentence=pairs,
                   optimizer={"name": "sgd", "lr": 0.05}), out)
        return load_model(out)

    for pairs in (False, True):
        whole, split = trained(16, pairs), trained(3, pairs)
        torch.testing.assert_close(whole.embedding.weight, split.embedding.weight, atol=1e-6, rtol=1e-4)


def test_what_cannot_be_is_said_before_any_work(corpus, tmp_path):
    for options, word in (({"model": {"preset": "gpt2"}}, "no masked language model"),
                          ({"style": "modern", "next_sentence": True}, "two types"),
                          ({"style": "bert", "next_sentence": True, "packing": "concatenated"}, "no next sentence"),
                          ({"sample_every": 3}, "writes no samples")):
        with pytest.raises((ConfigError, InputError), match=word):
            run(config(corpus, **options), tmp_path)
