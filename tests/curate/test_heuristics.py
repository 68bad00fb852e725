"""The heuristic rules against the published thresholds and hand-made texts."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from bloomery.core.records import Document
from bloomery.curate.heuristics import (
    Generated,
    Gopher,
    Heuristic,
    Repetition,
    duplicate_shares,
    generated_statistics,
    gopher_quality,
    quality_statistics,
    repetition_statistics,
)
from bloomery.curate.step import ByDocument, batch_of

VECTORS = sorted((Path(__file__).parents[1] / "vectors").glob("gopher_quality_rules__*.json"))
PROSE = "the river runs to the sea and it is wide with boats that have sails " * 8


@pytest.mark.skipif(not VECTORS, reason="tests/vectors is not here")
@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_gopher_vectors(path):
    vector = json.loads(path.read_text())
    assert gopher_quality(vector["inputs"]["text"]) == vector["expected"]["failed_rules"]


@pytest.mark.parametrize(("text", "failed"), [
    (PROSE, []),
    ("the cat and dog", ["word_count"]),
    ("- the cat and dog\n" * 20, ["mean_word_length", "bullet_lines"]),
    ("this line is the end and more...\n" * 20, ["symbol_ratio", "ellipsis_lines"]),
    ("the words and # marks " * 20, ["symbol_ratio"]),
    ("the sum and 1234 5678 " * 20, ["alphabetic_words"]),
    ("plain words without any glue " * 20, ["stop_words"]),
    ("internationalisation and the characterisations " * 20, ["mean_word_length"]),
    ("", ["word_count", "mean_word_length", "alphabetic_words", "stop_words"])])
def test_each_gopher_rule_fails_alone_where_it_can(text, failed):
    assert gopher_quality(text) == failed


def test_limits_are_inclusive_and_can_be_changed_or_left_out():
    text = "word " * 48 + "the of"
    assert quality_statistics(text)["word_count"] == 50
    assert gopher_quality(text) == []
    assert gopher_quality("short text", Gopher(word_count=(1, 10), without=("stop_words",))) == []


def test_an_unknown_rule_is_named():
    with pytest.raises(ValidationError, match="no rule named stopwords; there are word_count"):
        Gopher(without=("stopwords",))


def test_duplicate_shares_count_what_occurred_before():
    assert duplicate_shares(["aa", "b", "aa", "aa"]) == (0.5, 4)
    assert duplicate_shares([]) == (0, 0)


def test_repetition_is_measured_on_lines_and_paragraphs():
    found = repetition_statistics("one\ntwo\n\none\ntwo\n\n\nother\n")
    assert found["duplicate_lines"] == pytest.approx(2 / 5)
    assert found["duplicate_paragraphs"] == pytest.approx(1 / 3)
    assert found["duplicate_line_characters"] == pytest.approx(6 / 25)


def test_a_step_gives_the_first_broken_limit_of_each_row():
    texts = [PROSE, "# DO NOT EDIT\n" + PROSE, "x = [0x01, 0x02, 0x1234]\n" * 9, "\n".join(["same line"] * 9)]
    batch = batch_of([Document(str(n), text) for n, text in enumerate(texts)])
    generated = Heuristic(generated_statistics, Generated())
    assert generated.reasons(batch) == [None, "generated_marker", "digit_ratio", None]
    repetition = Heuristic(repetition_statistics, Repetition())
    assert repetition.reasons(batch)[2:] == ["duplicate_lines", "duplicate_lines"]
    assert repetition.reasons(batch.slice(0, 0)) == []


def test_a_plain_function_of_a_document_is_a_step():
    step = ByDocument(lambda document: "odd" if int(document.id) % 2 else None)
    assert step.reasons(batch_of([Document("1", "a"), Document("2", "b")])) == ["odd", None]
