"""Our merges are those of the definition, of the library where nothing ties, and any text comes back as it was."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from bloomery.core.errors import InputError
from bloomery.core.kernels import kernel
from bloomery.text import bpe as module
from bloomery.text.bpe import BYTES, LETTERS, PIECE, bpe, learn, word_counts
from bloomery.text.tokenizer import SMALLEST, train_tokenizer
from bloomery.text.unigram import unigram

TEXTS = [f"the {animal} and the {other} {n} naïve Größe 東京 🙂\n\n  went  to\tthe sea"
         for n, (animal, other) in enumerate([("cat", "dog"), ("dogs", "cats"), ("river", "boats")] * 20)]


def test_merges_by_hand():
    """Sennrich et al.'s example with counts: (u, g) 20, (u, n) 16, then (h, ug) 15 and (p, un) 12."""
    words = {b"hug": 10, b"pug": 5, b"pun": 12, b"bun": 4, b"hugs": 5}
    assert learn(words, 4) == [(b"u", b"g"), (b"u", b"n"), (b"h", b"ug"), (b"p", b"un")]
    assert learn({b"ab": 1, b"cd": 1, b"aa": 1}, 2) == [(b"a", b"a"), (b"a", b"b")]        # ties: the lesser in bytes
    assert learn({b"aaa": 3, b"aaaa": 1}, 9) == [(b"a", b"a"), (b"aa", b"a"), (b"aa", b"aa")]
    assert learn({}, 5) == learn({b"a": 3}, 5) == []


def test_counts_beyond_32_bits_are_counted():
    assert learn({b"ab": 2**33, b"cd": 2**33 + 1}, 2) == [(b"c", b"d"), (b"a", b"b")]


@given(st.dictionaries(st.text("abc", max_size=9).map(str.encode), st.integers(1, 5), max_size=12), st.integers(0, 30))
@settings(max_examples=60)
def test_the_kernel_computes_what_is_defined(words, merges):
    pytest.importorskip("numba")
    fast = module.compiled(kernel("text/bpe"), words, merges)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "kernel", lambda name: None)
        assert fast == learn(words, merges)


@given(st.text(st.sampled_from(" \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u2003\u3000ab1's._é東🙂"), max_size=30))
def test_words_are_those_of_the_library(text):
    """Cut at white space first and split by GPT-2's pattern then, as by the pattern alone."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    expected = Counter(bytes(map(BYTES.__getitem__, word)) for word, _ in splitter.pre_tokenize_str(text))
    assert word_counts([text]) == expected and "".join(PIECE.findall(text)) == text


def test_bounded_memory_counts_the_same(monkeypatch):
    whole = word_counts(TEXTS)
    spilled = []
    spill = module.spilled
    monkeypatch.setattr(module, "spilled", lambda words, path: spilled.append(1) or spill(words, path))
    assert word_counts(TEXTS, most=len(whole)) == whole and list(word_counts(TEXTS)) == sorted(whole)
    few = word_counts(TEXTS, most=5)
    assert len(spilled) > 3 and len(few) == 5
    assert min(few.values()) >= max(count for word, count in whole.items() if word not in few)


def test_the_library_agrees_where_nothing_ties():
    generator = np.random.default_rng(0)
    texts = [" ".join("".join(generator.choice(list("abcdefgh"), generator.integers(2, 9))) for _ in range(400))]
    ours, theirs = (json.loads(make(texts, vocabulary=SMALLEST + 30).backend.to_str())["model"]["merges"]
                    for make in (bpe, train_tokenizer))
    assert ours[:8] == theirs[:8] and len({tuple(m) for m in ours} & {tuple(m) for m in theirs}) >= 26


@pytest.fixture(scope="module", params=[bpe, unigram, train_tokenizer])
def tokenizer(request):
    return request.param(TEXTS, vocabulary=SMALLEST + 40, reserved=["<|tool|>"])


@given(text=st.text(max_size=60))
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_byte_has_an_id_and_reserved_tokens_are_no_text(tokenizer):
    assert all(tokenizer.backend.token_to_id(letter) is not None for letter in LETTERS.values())
    assert sorted(LETTERS.values()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert SMALLEST < tokenizer.size <= SMALLEST + 40
    control = tokenizer.token("<|tool|>")
    assert control in tokenizer.control and control not in tokenizer.encode("<|tool|>")
    assert tokenizer.decode(tokenizer.encode("<|tool|>")) == "<|tool|>"


def test_too_small_is_an_error():
    for make in (bpe, unigram, train_tokenizer):
        with pytest.raises(InputError, match="too small"):
            make(TEXTS, vocabulary=SMALLEST, reserved=["<|tool|>"])
