"""Edits: applied once, on character boundaries, cuts before replacements where they overlap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.core.records import Document
from bloomery.curate.edits import Edits, apply, joined, merged
from bloomery.curate.step import batch_of


def edits(*spans):
    row, start, stop, text = zip(*spans) if spans else ((), (), (), ())
    return Edits(*(np.array(part, np.int64) for part in (row, start, stop)), list(text))


def edited(texts, *spans):
    return apply(batch_of([Document("", text) for text in texts]), edits(*spans)).column("text").to_pylist()


def test_spans_are_bytes_of_the_text():
    assert edited(["größer", "b"], (0, 2, 6, "")) == ["grer", "b"]
    assert edited(["mail a@b.c now", "日本語"], (1, 3, 6, "x"), (0, 5, 10, "|||EMAIL|||")) == \
        ["mail |||EMAIL||| now", "日x語"]


def test_overlapping_spans_become_one_and_a_cut_wins():
    assert edited(["0123456789"], (0, 2, 5, "A"), (0, 4, 8, "")) == ["0189"]
    assert edited(["0123456789"], (0, 4, 8, "B"), (0, 2, 5, "A")) == ["01A89"]
    assert edited(["0123456789"], (0, 2, 4, "A"), (0, 4, 6, "B")) == ["01AB6789"]


def test_rows_outside_the_batch_are_refused():
    with pytest.raises(ValueError, match="edits of rows"):
        edited(["a"], (1, 0, 1, ""))


def test_selections_and_ranges_of_edits():
    found = edits((3, 0, 1, "x"), (1, 2, 3, "")).by_row()
    assert found.row.tolist() == [1, 3] and found.text == ["", "x"]
    assert found.within(2, 5).row.tolist() == [1] and found.within(4, 9).row.tolist() == []
    assert edits((0, 0, 1, "")).at(np.array([7])).row.tolist() == [7]
    assert len(joined([])) == 0


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.sampled_from(["", "#"])), max_size=8))
def test_what_no_span_touches_stays(spans):
    text = "abcdefghijklmnopqrstuvwxyz0123"
    spans = [(0, min(a, b), max(a, b), new) for a, b, new in spans if a != b]
    touched = {place for _, start, stop, _ in spans for place in range(start, stop)}
    (found,) = edited([text], *spans)
    assert found.replace("#", "") == "".join(c for place, c in enumerate(text) if place not in touched)
    one = merged(edits(*spans))
    assert all(a <= b for a, b in zip(one.stop[:-1], one.start[1:]))
