"""The table of lines: counted by hand, and compiled against plain."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from bloomery.curate import lines as module
from bloomery.curate.c4 import PHRASES
from bloomery.curate.edits import apply
from bloomery.curate.lines import Line, count_sentences, gaps, lines
from tests.curate.test_scan import TEXTS

DATA = Path(os.environ.get("BLOOMERY_DATA", Path(__file__).parents[3] / "shared" / "data"))


def table(text, **options):
    return lines(pa.array([text], pa.large_string()), ("use cookies", "terms of use"), **options)


def column(found, name):
    return found[:, name].tolist()


def test_lines_counted_by_hand():
    found = table("  We USE cookies. 12 {\r\n\n“É” ends...  \u2028Terms of Use")
    assert column(found, Line.BEGIN) == [0, 24, 25, 46]
    assert column(found, Line.END) == [22, 24, 43, 58]
    assert column(found, Line.START) == [2, 24, 25, 46]
    assert column(found, Line.STOP) == [22, 24, 41, 58]
    assert column(found, Line.CHARACTERS) == [22, 0, 13, 12]
    assert column(found, Line.WORDS) == [5, 0, 2, 3]
    assert column(found, Line.LONGEST) == [8, 0, 7, 5]
    assert column(found, Line.UPPER) == [4, 0, 1, 2]
    assert column(found, Line.DIGITS) == [2, 0, 0, 0]
    assert column(found, Line.PHRASES) == [1, 0, 0, 2]
    assert column(found, Line.FINAL) == [ord("{"), -1, ord("."), ord("e")]
    assert column(found, Line.DOTS) == [0, 0, 3, 0]
    assert column(found, Line.CURLY) == [1, 0, 0, 0]


def test_only_line_feeds_end_lines_where_that_is_asked():
    assert column(table("a\rb\n\n", universal=False), Line.CHARACTERS) == [3, 0, 0]
    assert column(table("a\rb\n\n"), Line.CHARACTERS) == [1, 1, 0]
    assert column(table("", universal=False), Line.WORDS) == [0]
    assert len(table("")) == 0


@pytest.mark.parametrize(("line", "count"), [
    ("", 0), ("no end", 1), ("One. Two! Three?", 3), ('He said "yes." She went.', 2), ("(Really?) Yes", 2),
    ("Mr J. Smith of the U.S. came.", 1), ("It cost 3.50 in all.", 1), ("Wait... what", 1),
    ("All of NATO. Then more", 2), ("\u65e5\u672c\u3002 \u4e8c\u3064\u3002", 2)])
def test_sentences(line, count):
    assert count_sentences(line) == count
    assert column(table(line), Line.SENTENCES) == ([count] if line else [])


@pytest.mark.skipif(not find_spec("numba"), reason="numba is not installed")
@pytest.mark.parametrize("universal", [True, False])
@given(TEXTS)
@settings(max_examples=300)
def test_the_compiled_table_is_the_plain_one(universal, text):
    found = lines(pa.array([text, "use of cookies"], pa.large_string()), PHRASES, universal=universal)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "kernel", lambda name: None)
        plain = lines(pa.array([text, "use of cookies"], pa.large_string()), PHRASES, universal=universal)
    assert np.array_equal(found, plain)


@given(TEXTS)
@settings(max_examples=200)
def test_gaps_leave_the_kept_lines(text):
    texts = pa.array([text, text], pa.large_string())
    found = lines(texts)
    kept = found[:, Line.WORDS] > 1
    edited = apply(pa.record_batch({"text": texts}), gaps(found, kept, texts, np.array([True, False])))
    wanted = [line.strip() for line in text.splitlines() if len(line.split()) > 1]
    assert edited.column("text").to_pylist() == ["\n".join(wanted), text]
