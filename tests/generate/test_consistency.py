"""The answer most completions reach wins, whoever was seen first among equals, and silence is no vote."""

import pytest

from bloomery.generate.consistency import majority


def test_the_commonest_answer_wins():
    vote = majority(["18", "20", "18", "7", "18"])
    assert vote == ("18", 0.6, {"18": 3, "20": 1, "7": 1}) and list(vote.counts) == ["18", "20", "7"]


@pytest.mark.parametrize(("answers", "winner"), [("baab", "b"), ("cba", "c"), ([2, 1, 1, 2, 3], 2)])
def test_among_equals_the_first_seen_wins(answers, winner):
    assert majority(answers).answer == winner


def test_completions_without_an_answer_do_not_vote_but_count():
    assert majority([None, None, "a", None]) == ("a", 0.25, {"a": 1})
    assert majority([None, None]) == (None, 0.0, {})


def test_falsy_answers_are_answers():
    assert majority([0, "", 0, 1]) == (0, 0.5, {0: 2, "": 1, 1: 1})


def test_no_completions_are_refused():
    with pytest.raises(ValueError, match="nothing to vote on"):
        majority([])
