"""FineWeb's rules, each on a text that only it drops."""

import pyarrow as pa
import pytest

from bloomery.curate.fineweb import FineWeb, fineweb_statistics
from bloomery.curate.heuristics import Heuristic

LINE = "A line that is long enough and ends as {} should."


def examine(text, **options):
    batch = pa.record_batch({"text": pa.array([text], pa.large_string())})
    return Heuristic(fineweb_statistics, FineWeb(**options)).examine(batch)


@pytest.mark.parametrize(("text", "reason"), [
    ("\n".join(LINE.format(n) for n in range(9)), None),
    ("\n".join(LINE.format(n) + " or not" for n in range(9)), "ended_lines"),
    ("\n".join([LINE.format(0), *(f"short one, number {n}." for n in range(8))]), "short_lines"),
    ("\n".join([LINE.format(n) for n in range(9)] + [LINE.format(1)]), "duplicate_characters"),
    ("\n".join(f"{n}-" + "x" * 40 + " ends." for n in range(9)), "newlines_a_word"),
    ("\n \n", "filled_lines"), ("", "filled_lines")])
def test_each_rule(text, reason):
    assert examine(text).reasons == [reason]


def test_statistics_by_hand():
    columns = examine("aa bb.\n\naa bb.\ncc “dd”\n").columns
    assert {name: column[0] for name, column in columns.items()} == pytest.approx({
        "filled_lines": 3, "ended_lines": 2 / 3, "short_lines": 1, "duplicate_characters": 6 / 19,
        "newlines_a_word": 4 / 6})


def test_what_is_short_and_the_papers_limit_can_be_set():
    text = "\n".join([LINE.format(n) for n in range(30)] + [LINE.format(1)])
    assert examine(text).reasons == ["duplicate_characters"]
    assert examine(text, duplicate_characters=(0, 0.1)).reasons == [None]
    assert examine(text, duplicate_characters=None, short=60).reasons == ["short_lines"]
