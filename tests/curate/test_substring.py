"""Repeated passages: two methods, one definition, and cuts that leave whole characters and words."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.core.records import Document
from bloomery.curate.edits import apply
from bloomery.curate.step import batch_of, decide_alone
from bloomery.curate.substring import METHODS, Passages, Substring, by_suffixes, by_windows, duplicate_ranges
from bloomery.text.tokenizer import train_tokenizer

pytest.importorskip("numba")
pytest.importorskip("pydivsufsort")


def by_definition(documents, n, keep_first):
    """Ranges that windows cover which stand twice, by counting every window."""
    windows = [(row, at, tuple(document[at:at + n])) for row, document in enumerate(documents)
               for at in range(len(document) - n + 1)]
    counts, seen, out = Counter(window for *_, window in windows), set(), [set() for _ in documents]
    for row, at, window in windows:
        if counts[window] > 1 and not (keep_first and window not in seen):
            out[row].update(range(at, at + n))
        seen.add(window)
    return [[(at, end) for at in sorted(covered) if at - 1 not in covered
             for end in [next(e for e in range(at + 1, at + len(covered) + 1) if e not in covered)]] for covered in out]


@given(st.lists(st.lists(st.sampled_from([0, 1, 2, 70000]), max_size=14), max_size=6), st.integers(1, 6), st.booleans())
def test_both_methods_are_the_definition(documents, n, keep_first):
    expected = by_definition(documents, n, keep_first)
    for method in METHODS:
        assert duplicate_ranges(documents, n, keep_first=keep_first, method=method) == expected


def test_hashes_by_parts_of_their_range_mark_what_the_suffix_array_marks():
    generator = np.random.default_rng(0)
    text = generator.integers(0, 4, 50_000).astype(np.uint8)
    text[30_000:31_000] = text[2_000:3_000]
    starts = np.array([0, 100, 2_500, 30_500, 50_000])
    expected = by_suffixes(text, starts, 30)
    assert expected.sum() > 800
    for memory in (1 << 12, 1 << 18, 1 << 32):
        assert (by_windows(text, starts, 30, memory=memory) == expected).all()


def test_hashes_that_collide_deceive_nobody(monkeypatch):
    """Thue and Morse's words have the same polynomial hash modulo 2^64, whatever the base (Pachocki & Radoszewski)."""
    word = [0]
    for _ in range(11):
        word += [1 - bit for bit in word]
    other = [1 - bit for bit in word]
    documents = [word, other, [2] * 2048, other]
    assert duplicate_ranges(documents, 2048, method="windows") == [[], [(0, 2048)], [], [(0, 2048)]]
    assert duplicate_ranges(documents, 2048, method="sorted") == [[], [(0, 2048)], [], [(0, 2048)]]


def cut(texts, **options):
    batch = batch_of([Document(str(place), text) for place, text in enumerate(texts)])
    found = decide_alone(Passages(Substring(**options)), [batch.slice(0, 1), batch.slice(1)])
    return apply(batch, found.edits).column("text").to_pylist(), found


@pytest.mark.parametrize("method", METHODS)
def test_cuts_leave_whole_words_and_the_first_copy(method):
    texts = ["Первый: мама мыла раму и пела. Конец", "Другой: дама мыла раму и пела. Нет"]
    assert cut(texts, n=25, method=method, min_left=0)[0] == [texts[0], "Другой: дамаНет"]
    assert cut(texts, n=25, method=method, min_left=0, keep="none")[0] == ["Первый: мамаКонец", "Другой: дамаНет"]
    assert cut(texts, n=25, method=method, min_left=0, snap="character")[0] == [texts[0], "Другой: дНет"]


def test_scripts_without_spaces_are_cut_between_characters():
    texts = ["全部漢字的文章在這裡重複出現。甲", "乙全部漢字的文章在這裡重複出現了"]
    assert cut(texts, n=25, min_left=0)[0] == [texts[0], "乙了"]


def test_cuts_are_valid_text_whatever_the_bytes():
    chooser = random.Random(1)
    texts = ["".join(chooser.choice("aé漢𝒳 .") for _ in range(400)) for _ in range(3)]
    texts = [a[:200] + b[100:300] + a[200:] for a in texts for b in texts]
    found, findings = cut(texts, n=9, keep="none", min_left=0)
    assert sum(map(len, found)) < sum(map(len, texts))
    assert findings.account["bytes"] == sum(len(a.encode()) - len(b.encode()) for a, b in zip(texts, found))


def test_what_is_too_short_after_a_cut_goes():
    passage = "the same long passage that stands in both of them, word by word. "
    _, found = cut([passage + "first", passage + "x"], n=40, min_left=10)
    assert found.reasons == [None, "repeated_passages"]
    assert found.columns["repeated_share"][0] == 0 and found.columns["repeated_share"][1] > 0.9
    assert cut(["tiny", "tiny"], n=40)[1].reasons == [None, None]


def test_nothing_is_found_across_documents():
    assert cut(["abcdef", "ghijkl", "defghi"], n=6)[1].account["passages"] == 0
    assert cut(["", "", ""], n=2)[1].account["passages"] == 0


def test_tokens_are_counted_where_a_tokenizer_is_given(tmp_path):
    train_tokenizer(["one two three four five six seven eight é"] * 50, vocabulary=300).save(tmp_path, context=64)
    texts = ["é é one two three four five six", "one two three four five seven", "five six"]
    assert cut(texts, n=5, tokenizer=str(tmp_path), min_left=0)[0] == [texts[0], " seven", "five six"]
    assert cut(texts, n=6, tokenizer=str(tmp_path), min_left=0)[0] == texts
