"""One scan: hand-counted texts, and the compiled scan against the plain one on any Unicode and on real pages."""

import gzip
import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bloomery.curate.characters import BREAK, DIGIT, LETTER, SPACE, SYMBOL, TERMINAL, UPPER, classes
from bloomery.curate.scan import SPLITS, STOP_WORDS, Count, Pieces, Scan, buffers, digest, plain_scan, scan, scanned

DATA = Path(os.environ.get("BLOOMERY_DATA", Path(__file__).parents[3] / "shared" / "data"))
PAGES = DATA / "web_quality_labels_dclm" / "agreement_data.jsonl.gz"
needs_numba = pytest.mark.skipif(not find_spec("numba"), reason="numba is not installed")
PARTS = st.sampled_from(["\n", "\n\n", "\r\n", "\r", "\u2028", "\x85", "\x1c", "\x1f", " ", "\u3000", "the", "of", "be",
                         ".", "..", "...", "…", "#", "•", "-", "*", "—", "'s", "n't", "e.g.", "a,b", "x-y",
                         "http://a.io/b", "is.it", "U.S.", "12", "+1", "$5", "É", "ß", "\u8a9e", "\u6587\u3002",
                         "\U0001f600", "\U00010a57", "\0", "\"", "’", "%", "("])
TEXTS = st.lists(st.one_of(PARTS, st.text(max_size=5)), max_size=40).map("".join).filter(
    lambda text: not any("\ud800" <= one <= "\udfff" for one in text))


def array(texts):
    return pa.array(texts, pa.large_string())


def differences(found: Scan, expected: Scan) -> list[str]:
    """What of two scans is not the same."""
    wrong = [count.name for count in Count if not np.array_equal(found[count], expected[count])]
    return wrong + [f"{name} {field}" for name in ("words", "rows", "parts")
                    for field, one, other in zip(Pieces._fields, getattr(found, name), getattr(expected, name))
                    if not np.array_equal(one, other)]


def test_a_text_counted_by_hand():
    found = scan(array(["• The the end...\n\n- of 12 #1 …\r\nso.\n"]))
    counted = {count.name: found[count][0] for count in Count}
    assert counted == {
        "CHARACTERS": 36, "VISIBLE": 24, "DIGITS": 3, "HASHES": 1, "ELLIPSES": 2, "NEWLINES": 4,
        "WORDS": 10, "WORD_CHARACTERS": 24, "LONGEST_WORD": 6, "MEDIAN_WORD": 2,
        "SOLID_WORDS": 8, "SOLID_CHARACTERS": 22, "LETTER_WORDS": 5, "MARKED_WORDS": 2, "STOP_WORDS": 2,
        "STOP_OCCURRENCES": 2, "LINES": 4, "FILLED_LINES": 3, "ELLIPSIS_LINES": 2, "DOT_LINES": 1, "DASH_LINES": 1,
        "STAR_LINES": 0, "FILLED_ROWS": 3, "ENDED_ROWS": 2, "SHORT_ROWS": 3}
    assert found.rows.lengths.tolist() == [16, 13, 3]
    assert found.parts.lengths.tolist() == [16, 17]                     # of the last, the line feed behind it is none
    assert found.words.hashes[1] != found.words.hashes[2] == digest(b"the")


@needs_numba
@pytest.mark.parametrize("split", SPLITS)
@given(st.lists(TEXTS, max_size=4))
@example(["", "\n\n", "  \n\n a b\n\n  \n\n", "a\r\nb\r", "a\n\n\nb\n\n\n\n \n\n"])
@settings(max_examples=300)
def test_the_compiled_scan_is_the_plain_one(split, texts):
    assert differences(scan(array(texts), split=split), plain_scan(texts, split)) == []


@needs_numba
@pytest.mark.skipif(not PAGES.is_file(), reason=f"no public texts in {DATA}: set BLOOMERY_DATA")
@pytest.mark.parametrize("split", SPLITS)
def test_the_compiled_scan_is_the_plain_one_on_real_pages(split):
    with gzip.open(PAGES, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file][:60]
    assert differences(scan(array(texts), split=split), plain_scan(texts, split)) == []


def test_without_a_compiler_the_plain_scan_serves(monkeypatch):
    texts = ["the end of it.", "two\nlines"]
    expected = scan(array(texts))
    monkeypatch.setattr("bloomery.curate.scan.kernel", lambda name: None)
    assert differences(scan(array(texts)), expected) == []


def test_slices_are_scanned_where_they_lie():
    texts = array(["first one", "second of them", "", "third"])
    data, offsets = buffers(texts.slice(1, 2))
    assert (offsets - offsets[0]).tolist() == [0, 14, 14]
    assert data.ctypes.data == buffers(texts)[0].ctypes.data                        # not a copy
    assert differences(scan(texts.slice(1, 2)), scan(array(["second of them", ""]))) == []


def test_a_batch_is_scanned_once_and_another_anew():
    texts = array(["a b c"])
    assert scanned(texts) is scanned(texts)
    assert scanned(texts, split="english") is not scanned(texts)
    assert scanned(array(["a b"]))[Count.WORDS] == 2


def test_what_cannot_be_scanned_is_said():
    with pytest.raises(ValueError, match="split is one of white, english"):
        scan(array(["a"]), split="spacy")
    with pytest.raises(ValueError, match="large_string"):
        scan(pa.array(["a"]))
    with pytest.raises(ValueError, match="1 texts are null"):
        scan(array([None]))


def test_stop_words_may_be_others():
    assert scan(array(["und der und"]), stop_words=("und", "der"))[Count.STOP_WORDS] == 2
    assert len(STOP_WORDS) == 8


def test_kinds_of_characters_are_those_of_the_interpreter():
    table = classes()
    for character in map(chr, [*range(0x3000), 0x3000, 0x3002, 0x4E00, 0xFF11, 0x1D7D8, 0x1F600, 0x10FFFF]):
        kind = table[ord(character)]
        assert (bool(kind & SPACE), bool(kind & LETTER), bool(kind & UPPER), bool(kind & DIGIT)) == (
            character.isspace(), character.isalpha(), character.isupper(), character.isdigit()), hex(ord(character))
        assert bool(kind & BREAK) == (len(f"a{character}b".splitlines()) == 2), hex(ord(character))
    assert table[ord("。")] & TERMINAL and not table[ord("…")] & TERMINAL and table[ord("…")] & SYMBOL
