"""Exact match, token F1 and compressed sizes."""

import lzma
import random

import pytest

from bloomery.classic.answers import exact_match, normalise, token_f1
from bloomery.classic.ngram import Ngram
from bloomery.evaluate.compression import (
    compressor_bits_per_byte,
    ngram_bits_per_byte,
    ngram_word_perplexity,
    words,
)


@pytest.mark.parametrize(("text", "expected"), [
    ("The  Eiffel-Tower!", "eiffeltower"), ("an apple, a day", "apple day"), ("theory", "theory"), ("the", ""),
])
def test_normalisation(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize(("prediction", "gold", "match", "f1"), [
    ("The cat", ["cat"], 1.0, 1.0),
    ("black cat", ["cat", "dog"], 0.0, 2 / 3),
    ("cat cat", ["cat"], 0.0, 2 / 3),                       # repeated words count once
    ("the", ["a"], 1.0, 1.0),                               # both empty
    ("cat", [""], 0.0, 0.0),
    ("x b c d", ["b y", "b c d"], 0.0, 6 / 7),              # the best of several answers
])
def test_matching(prediction, gold, match, f1):
    assert exact_match(prediction, gold) == match
    assert token_f1(prediction, gold) == pytest.approx(f1)


def test_compressors_are_measured_in_bits_a_byte():
    noise = random.Random(0).randbytes(20_000)
    plain = compressor_bits_per_byte([noise])
    assert all(8.0 <= bits < 8.1 for bits in plain.values()) and set(plain) == {"xz", "zstd"}
    documents = [b"again and again"] * 100
    assert all(bits < 0.6 for bits in compressor_bits_per_byte(documents).values())
    joined = b"\n".join(documents)
    assert compressor_bits_per_byte(documents)["xz"] == 8 * len(lzma.compress(joined, preset=9)) / len(joined)


def test_counting_is_measured_in_the_same_unit():
    train, held_out = [b"abcabcabcabc"] * 5, [b"abcabc", b"cab"]
    nats = Ngram(3).fit(train).nats(held_out)
    assert ngram_bits_per_byte(train, held_out, order=3) == pytest.approx(nats / 9 * 1.4426950408889634)
    noise = random.Random(0).randbytes(500)
    assert ngram_bits_per_byte([b"\0"], [noise], order=1) == pytest.approx(8)            # one byte teaches nothing


def test_words_are_counted_as_wikitext_counts_them():
    assert words(" = Title = \n \n a <unk> b \n") == ["=", "Title", "=", "\n", "\n", "a", "<unk>", "b", "\n"]


def test_an_unseen_word_is_the_unknown_one():
    train = ["the cat <unk> sat \n the dog sat \n"]
    assert ngram_word_perplexity(train, ["the zebra sat \n"], order=2) == \
        pytest.approx(ngram_word_perplexity(train, ["the <unk> sat \n"], order=2))
    assert ngram_word_perplexity(train, ["the dog sat \n"]) < ngram_word_perplexity(train, ["sat the \n dog"])
