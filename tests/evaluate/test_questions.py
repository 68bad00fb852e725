"""Questions with known answers: what counts as given exactly, and what as well formed."""

import pytest
from pydantic import ValidationError

from bloomery.evaluate.generative import Question, exact_matches, well_formed
from bloomery.evaluate.run import Config


def asked(*tasks_and_answers):
    return [Question([1], [2], "?", expected, task) for task, expected in tasks_and_answers]


def test_only_closed_tasks_count_for_exact_match():
    found = exact_matches(asked(("sum", "7"), ("sum", "8"), ("tell", "a story")), ["7", "9", "a story"], ["sum"])
    assert found == {"exact_match": 0.5, "exact_match_by_task": {"sum": 0.5}}


def test_a_wrong_answer_can_be_well_formed_and_a_right_one_must_match_whole():
    rows = asked(("sum", "7"), ("sum", "7"), ("tell", "x"))
    assert well_formed(rows, ["8", "7 of course", "y"], {"sum": r"\d+"}) == {
        "well_formed": 0.5, "well_formed_by_task": {"sum": 0.5}}


def test_nothing_is_reported_of_tasks_that_were_not_asked():
    assert exact_matches(asked(("tell", "x")), ["x"], ["sum"]) == well_formed(asked(("tell", "x")), ["x"], {}) == {}


def test_an_expression_that_cannot_be_read_is_a_configuration_error():
    with pytest.raises(ValidationError, match="sum is not a regular expression"):
        Config(models={"base": "x"}, formats={"sum": "(unclosed"})
