"""The compiled encoder gives the library's ids, of every text, or is not used."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from bloomery.text import encode, tokenizer
from bloomery.text.bpe import bpe
from bloomery.text.encode import AWKWARD, LETTERS, Encoder, encoder, kinds
from bloomery.text.tokenizer import SMALLEST, Tokenizer, load_tokenizer, train_tokenizer
from bloomery.text.unigram import unigram
from bloomery.text.wordpiece import wordpiece

pytest.importorskip("numba")
TEXTS = [f"the {animal} and it's {other} {n} naïve Größe 東京 🙂\n\n  went  to\tthe sea, we'll aaaa aaaaaa"
         for n, (animal, other) in enumerate([("cat", "dog"), ("dogs", "cats"), ("river", "boats")] * 20)]
MIXED = st.text(st.sampled_from(
    " \t\n\r\xa0\u2028\u3000'strevmdlSLaabthe1²Ⅳ٣.,!_<|>é\u0301東ไ🙂\u200d\x00\x1f\u0378"), max_size=60)


def by_library(backend: Backend, texts: list[str]) -> list[list[int]]:
    return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]


@pytest.fixture(scope="module", params=["library", "counts", "without merges"])
def made(request):
    size = SMALLEST + (0 if request.param == "without merges" else 60)
    return {"library": train_tokenizer, "counts": bpe}.get(request.param, bpe)(TEXTS, vocabulary=size)


@given(texts=st.lists(MIXED | st.text(max_size=40), max_size=6))
@settings(max_examples=150)
def test_ids_are_those_of_the_library(made, texts):
    assert encoded(made)(texts) == by_library(made.backend, texts)


def encoded(made: Tokenizer) -> Encoder:
    made.__dict__.setdefault("tried", encoder(made.backend))
    return made.__dict__["tried"]


@given(words=st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=40), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_any_order_of_merges_is_followed(words, seed):
    """Random merges of two letters, in an order that no training gives: what is merged first decides all that follows.

    A word that stood before is copied; a long one is merged by a heap.
    """
    generator = np.random.default_rng(seed)
    pieces, pairs = [*LETTERS.values()], []
    for place in generator.permutation(36):
        known = [piece for piece in pieces if set(piece) <= set("ab")]
        pair = known[place // 6 % len(known)], known[place % 6 % len(known)]
        if "".join(pair) not in pieces and len("".join(pair)) < 7:
            pairs.append(pair)
            pieces.append("".join(pair))
    pairs = [pairs[i] for i in generator.permutation(len(pairs))]
    backend = Backend(models.BPE({piece: i for i, piece in enumerate(pieces)}, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [" ".join(words), "".join(words) * 5]
    assert encoder(backend)(texts) == by_library(backend, texts)


def test_what_is_awkward_holds_every_kind_of_character_and_every_alternative():
    text = "".join(AWKWARD)
    assert {int(kinds()[ord(character)]) for character in text} == {0, 1, 2, 3}
    assert all(part in text for part in ("'s ", "'ll", "'ve", "'re", "'m ", "'d ", "  a", "\n\n", " \n", "\t"))
    assert kinds()[[ord(c) for c in "aß東१²_ \u2028\u200b"]].tolist() == [1, 1, 1, 2, 2, 0, 3, 3, 0]


def test_other_tokenizers_are_left_to_the_library(real):
    own = train_tokenizer(TEXTS, vocabulary=SMALLEST + 9)
    assert encoder(own.backend) is not None
    own.backend.normalizer = normalizers.NFC()
    assert encoder(own.backend) is None
    own = train_tokenizer(TEXTS, vocabulary=SMALLEST + 9)
    own.backend.add_tokens([AddedToken("<think>", special=False)])
    assert encoder(own.backend) is None
    others = [unigram(TEXTS, vocabulary=SMALLEST + 9), wordpiece(TEXTS, vocabulary=80), load_tokenizer(real("llama3")),
              load_tokenizer(real("llama2"))]
    assert [encoder(other.backend) for other in others] == [None] * 4


def test_one_id_that_differs_and_it_is_not_used(monkeypatch, capsys):
    """Here what it takes for a number is wrong."""
    backend = train_tokenizer(TEXTS, vocabulary=SMALLEST + 60).backend
    wrong = kinds().copy()
    wrong[ord("a")] = 2
    monkeypatch.setattr(encode, "kinds", lambda: wrong)
    assert encoder(backend) is None
    assert "otherwise than tokenizers does; it is not used" in capsys.readouterr().err


def test_without_numba_there_is_none(monkeypatch):
    monkeypatch.setattr(encode, "kernel", lambda name: None)
    assert encoder(train_tokenizer(TEXTS, vocabulary=SMALLEST).backend) is None


def test_a_tokenizer_loads_it_when_there_is_much_to_encode(monkeypatch):
    monkeypatch.setattr(tokenizer, "MANY", 5000)
    loaded = []
    monkeypatch.setattr(tokenizer, "encoder", lambda backend: loaded.append(1) or encoder(backend))
    made = train_tokenizer(TEXTS, vocabulary=SMALLEST + 60)
    texts = [*TEXTS, "", "<|im_start|>"]
    found = [made.encode_batch(texts) for _ in range(4)]
    assert loaded == [1] and all(one == by_library(made.backend, texts) for one in found)
    assert made.control.isdisjoint(i for row in found[-1] for i in row)


@pytest.mark.skipif("BLOOMERY_DATA" not in os.environ, reason="needs corpora and GPT-2's vocabulary in BLOOMERY_DATA")
def test_real_corpora_in_gpt2s_vocabulary():
    data = Path(os.environ["BLOOMERY_DATA"])
    vocabulary, merges = (gzip.decompress((data / "tokenizers" / name).read_bytes()).decode()
                          for name in ("gpt2_vocab.json.gz", "gpt2_merges.txt.gz"))
    backend = Backend(models.BPE(json.loads(vocabulary), [
        tuple(line.split()) for line in merges.splitlines() if len(line.split()) == 2 and line[0] != "#"]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [json.loads(line)["text"] for line in
             gzip.decompress((data / "langid_lingua" / "sentences.jsonl.gz").read_bytes()).splitlines()[::40]]
    for name in ("books/wagahaiwa_nekodearu_ja.txt.gz", "books/botchan_en.txt.gz", "wikitext-2/wiki.test.tokens.gz"):
        texts += gzip.decompress((data / name).read_bytes()).decode().splitlines(keepends=True)[:3000:3]
    assert len(texts) > 4000 and encoder(backend)(texts) == by_library(backend, texts)
