"""Decontamination: what an evaluation text says is dropped, or cut to the byte."""

import json

import pytest

from bloomery.core.errors import InputError
from bloomery.core.records import Document
from bloomery.curate.contamination import Decontaminated, Decontamination
from bloomery.curate.edits import apply
from bloomery.curate.step import batch_of

QUESTION = "Which of the two rivers that run to the northern sea is the longer one"


@pytest.fixture
def evaluation(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"question": QUESTION, "choices": ["Rhine", "a short one"]}))
    return str(path)


def test_a_document_with_a_question_in_it_goes_and_shows_it(evaluation):
    text = f"Éclair! {QUESTION.upper()}, they asked."
    found = Decontaminated(Decontamination(evaluation=evaluation)).examine(
        batch_of([Document("", "Rhine, a short one"), Document("", text)]))
    assert found.reasons == [None, "contaminated"]
    mark = text.encode()[found.marks.start[0]:found.marks.stop[0]].decode()
    assert (found.marks.row.tolist(), mark) == ([1], QUESTION.upper())


@pytest.mark.parametrize(("margin", "expected"), [(0, "Éclair!  They asked."), (3, "Éclaiey asked."), (99, "")])
def test_or_the_question_is_cut_out(evaluation, margin, expected):
    batch = batch_of([Document("", f"Éclair! {QUESTION} They asked.")])
    step = Decontaminated(Decontamination(evaluation=[evaluation], action="cut", margin=margin))
    found = step.examine(batch)
    assert found.reasons == [None]
    assert apply(batch, found.edits).column("text").to_pylist() == [expected]


def test_twelve_words_in_a_row_are_enough_for_twelve(evaluation):
    batch = batch_of([Document("", " ".join(QUESTION.split()[:12]))])
    reasons = [Decontaminated(Decontamination(evaluation=evaluation, n=n)).examine(batch).reasons for n in (12, 13)]
    assert reasons == [["contaminated"], [None]]


def test_it_needs_something_to_look_for(evaluation, tmp_path):
    with pytest.raises(InputError, match="decontaminate of what"):
        Decontaminated(Decontamination())
    short = tmp_path / "short.jsonl"
    short.write_text('{"text": "too short"}')
    with pytest.raises(InputError, match="nothing to look for") as error:
        Decontaminated(Decontamination(evaluation=str(short)))
    assert "8 words" in error.value.why
