"""Hidden tokens: how many, which, what is read instead, and that a draw depends on nothing but what names it."""

from collections import Counter

import numpy as np
import pytest

from bloomery.core.errors import ConfigError
from bloomery.pretrain.masking import MaskingConfig, how_many, masker, selected
from bloomery.pretrain.next_sentence import elsewhere, pair, truncated
from bloomery.text.tokenizer import train_tokenizer
from bloomery.text.wordpiece import wordpiece

WORDS = ["furnace", "furnaces", "smelting", "smelter", "iron", "ironwork", "bloomery", "blooming"] * 30
TOKENIZER = wordpiece([" ".join(WORDS)], vocabulary=60)
TEXT = np.array([TOKENIZER.cls, *TOKENIZER.encode(" ".join(WORDS[:16])), TOKENIZER.sep])


def of(**options):
    return masker(TOKENIZER, MaskingConfig(**options), seed=7, where="here")


def test_how_many_rounds_as_bert_does():
    assert [how_many(n) for n in (1, 3, 10, 12, 20)] == [1, 1, 2, 2, 3]      # 1.5 rounds to the even 2
    assert how_many(1000, 0.15, 20) == 20


def test_control_tokens_are_never_hidden_nor_read_instead():
    mask = of(rate=0.9, masked=0.0, random=1.0)
    for step in range(50):
        read, chosen = mask(TEXT, 0, step)
        assert not {0, len(TEXT) - 1} & set(chosen.tolist()) and not set(range(5)) & set(read[1:-1].tolist())


def test_of_the_hidden_eight_tenths_are_masked_one_is_random_one_stays():
    mask, found = of(rate=0.5), Counter()
    for step in range(400):
        read, chosen = mask(TEXT, 3, step)
        assert len(chosen) == how_many(len(TEXT), 0.5)
        for place in chosen:
            found["mask" if read[place] == TOKENIZER.mask else "same" if read[place] == TEXT[place] else "other"] += 1
        assert np.array_equal(np.delete(read, chosen), np.delete(TEXT, chosen))
    total = found.total()
    assert abs(found["mask"] / total - 0.8) < 0.02 and abs(found["other"] / total - 0.1) < 0.02


def test_bernoulli_hides_each_token_with_its_probability():
    counts = [len(of(selection="bernoulli", rate=0.3)(TEXT, place, 0)[1]) for place in range(500)]
    expected = 0.3 * (len(TEXT) - 2)
    assert abs(np.mean(counts) - expected) < 0.5 and np.std(counts) > 1


@pytest.mark.parametrize("selection", ["exact", "bernoulli"])
def test_words_are_hidden_whole(selection):
    begins = np.array([not (TOKENIZER.name(i)).startswith("##") for i in TEXT])
    word = np.cumsum(begins)
    for step in range(50):
        _, chosen = of(whole_words=True, rate=0.4, selection=selection)(TEXT, 0, step)
        hidden = set(word[chosen].tolist())
        assert sorted(chosen.tolist()) == [i for i in range(len(TEXT)) if word[i] in hidden]
    assert selected([[1, 2, 3], [4], [5, 6]], 3) == [1, 2, 3] and selected([[1, 2], [3, 4], [5]], 3) == [1, 2, 5]


def test_static_masks_stay_and_dynamic_ones_move_and_both_come_again():
    static, dynamic = of(dynamic=False), of()
    assert all(np.array_equal(a, b) for a, b in zip(static(TEXT, 5, 1), static(TEXT, 5, 900), strict=True))
    assert any(not np.array_equal(dynamic(TEXT, 5, 1)[1], dynamic(TEXT, 5, step)[1]) for step in range(2, 9))
    assert np.array_equal(dynamic(TEXT, 5, 3)[0], of()(TEXT, 5, 3)[0])


def test_a_text_of_control_tokens_has_nothing_to_hide():
    read, chosen = of()(np.array([TOKENIZER.cls, TOKENIZER.sep]), 0, 0)
    assert len(chosen) == 0 and read.tolist() == [TOKENIZER.cls, TOKENIZER.sep]


def test_a_tokenizer_that_hides_nothing_is_refused_with_the_command_that_makes_one():
    with pytest.raises(ConfigError) as error:
        masker(train_tokenizer(["some text"], vocabulary=259), MaskingConfig(), seed=0, where="vocabulary")
    assert "kind=wordpiece" in error.value.hint


def test_pairs_are_half_from_elsewhere_and_never_longer_than_they_may_be():
    text, other, labels = np.arange(100, 140), np.arange(500, 600), []
    for seed in range(400):
        a, b, label = pair(text, lambda draw: other, 30, np.random.default_rng(seed))
        labels.append(label)
        assert 0 < len(a) + len(b) <= 30
        assert (b == [] or (b[0] >= 500) == bool(label)) and all(i < 500 for i in a)
    assert 0.42 < np.mean(labels) < 0.58


def test_the_longer_part_loses_tokens_and_another_document_is_another():
    a, b = truncated(list(range(10)), [100, 101], 6, np.random.default_rng(0))
    assert len(a) == 4 and b == [100, 101] and a == list(range(a[0], a[0] + 4))
    assert {elsewhere(3, 1, np.random.default_rng(seed)) for seed in range(40)} == {0, 2}
    with pytest.raises(ValueError, match="two documents"):
        elsewhere(1, 0, np.random.default_rng(0))
