"""What repeats: shares counted by hand, as each source counts them, and the compiled counts against the plain ones."""

from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.curate import repetition
from bloomery.curate.heuristics import Heuristic
from bloomery.curate.repetition import TABLE_A1, Repetition, ngrams, repeats, repetition_statistics
from bloomery.curate.scan import scan

SONG = "la la la la lo\nla la la la lo\n\nhey\n\nhey\n"
OPEN = {name: (0, 1) for name in TABLE_A1}


def batch(*texts):
    return pa.record_batch({"text": pa.array(texts, pa.large_string())})


def shares(text, **options):
    return {name: column[0] for name, column in repetition_statistics(batch(text), Repetition(**options)).items()}


def test_lines_and_paragraphs():
    found = shares("one\ntwo\n\none\ntwo\n\n\nother\n")
    assert found["duplicate_lines"] == pytest.approx(2 / 5)
    assert found["duplicate_paragraphs"] == pytest.approx(1 / 3)
    assert found["duplicate_line_characters"] == pytest.approx(6 / 25)
    assert found["duplicate_paragraph_characters"] == pytest.approx(7 / 25)
    assert not found.keys() & TABLE_A1.keys()


@pytest.mark.parametrize(("counting", "lines", "characters", "paragraphs"), [
    ("paper", 2 / 4, 17 / 40, 1 / 3), ("datatrove", 2 / 5, 17 / 40, 1 / 3),
    ("dolma", (4 + 3) / 7, 34 / 26, 1 / 3), ("dclm", 4 / 4, 34 / 34, 2 / 3)])
def test_sources_count_lines_differently(counting, lines, characters, paragraphs):
    found = shares(SONG, counting=counting)
    assert found["duplicate_lines"] == pytest.approx(lines)
    assert found["duplicate_line_characters"] == pytest.approx(characters)
    if counting != "dolma":
        assert found["duplicate_paragraphs"] == pytest.approx(paragraphs)


def test_blank_lines_count_only_where_they_are_said_to():
    text = "a\n \n \n \nb"
    assert shares(text)["duplicate_lines"] == 0
    assert shares(text, counting="datatrove")["duplicate_lines"] == pytest.approx(2 / 5)


def test_n_grams_as_each_source_counts_them():
    text = "a b c d e f a b c d e g"                                    # 23 characters, 12 of them words
    paper, dolma, dclm = (shares(text, counting=name, **OPEN) for name in ("paper", "dolma", "dclm"))
    assert paper["top_2_gram"] == pytest.approx(2 * 3 / 23)             # "a b", twice
    assert paper["top_4_gram"] == pytest.approx(2 * 7 / 23)
    assert paper["duplicate_5_gram"] == pytest.approx(5 / 23)           # the second "a b c d e"
    assert paper["duplicate_6_gram"] == 0
    assert dolma["top_2_gram"] == pytest.approx(2 * 2 / 12)
    assert dolma["duplicate_5_gram"] == pytest.approx(2 * 5 / (8 * 5))  # two of the eight 5-grams
    assert dclm["duplicate_5_gram"] == pytest.approx(10 / 12)           # words in either


def test_of_equally_frequent_n_grams_the_first_counts_and_in_dclm_the_longest():
    text = "a b x long words y a b z long words"
    assert shares(text, **OPEN)["top_2_gram"] == pytest.approx(2 * 3 / len(text))
    assert shares(text, counting="dclm", **OPEN)["top_2_gram"] == pytest.approx(2 * 9 / 25)
    assert shares("one two three", counting="dclm", **OPEN)["top_2_gram"] == 0                  # nothing is repeated
    assert shares("one two three", **OPEN)["top_2_gram"] == pytest.approx(7 / 13)


def test_a_hit_is_skipped_from_left_to_right():
    text = " ".join(["x"] * 11)                     # 5-grams at 0; a hit at 1..5, then at 6..10
    assert shares(text, **OPEN)["duplicate_5_gram"] == pytest.approx(10 / 21)


def test_the_step_gives_reasons_and_the_n_gram_rules_are_off_unless_asked():
    chorus = batch("\n".join(["same line"] * 9), "ho " * 50, " ".join(f"word{n} and" for n in range(40)))
    assert Heuristic(repetition_statistics, Repetition()).examine(chorus).reasons == ["duplicate_lines", None, None]
    assert Heuristic(repetition_statistics, Repetition(**TABLE_A1)).examine(chorus).reasons == [
        "duplicate_lines", "top_2_gram", None]
    assert Heuristic(repetition_statistics, Repetition()).examine(chorus.slice(0, 0)).reasons == []


@pytest.mark.skipif(not find_spec("numba"), reason="numba is not installed")
@given(st.lists(st.lists(st.sampled_from(["a", "bb", "c", "\n", "\n\n", " \n"]), max_size=60).map(" ".join),
                max_size=4))
@settings(max_examples=200)
def test_compiled_counts_are_the_plain_ones(texts):
    found = scan(pa.array(texts, pa.large_string()))
    asked = [(repeats, pieces, {"blank": blank}) for pieces in (found.rows, found.parts) for blank in (False, True)]
    asked += [(ngrams, found.words, {"variant": variant}) for variant in (0, 1, 2)]
    compiled = [count(pieces, **options) for count, pieces, options in asked]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repetition, "kernel", lambda name: None)
        plain = [count(pieces, **options) for count, pieces, options in asked]
    for one, other in zip(compiled[:4], plain):
        assert np.array_equal(one, other)
    for (top, duplicate), (plain_top, plain_duplicate) in zip(compiled[4:], plain[4:]):
        assert np.array_equal(top, plain_top)
        assert np.array_equal(duplicate[..., 0], plain_duplicate[..., 0])
        whole = plain_duplicate[..., 1]
        assert np.array_equal(duplicate[..., 0] / np.maximum(duplicate[..., 1], 1),
                              plain_duplicate[..., 0] / np.maximum(whole, 1)) or not duplicate[..., 1].any()
