"""Splits by prompt: all that begins with one question stays on one side."""

import pytest

from bloomery.core.records import Message, Preference
from bloomery.data.splits import question, shared_prompts, split_by_prompt, spread_out


def row(number: int, turns: int = 1) -> Preference:
    said = [Message("user", f"question {number}")]
    for turn in range(1, turns):
        said += [Message("assistant", "well"), Message("user", f"and {turn}?")]
    return Preference(tuple(said), "yes", "no")


def test_a_question_is_on_one_side_however_its_dialogue_goes_on():
    rows = [row(number, turns) for number in range(300) for turns in (1, 2, 3)]
    training, held_out = split_by_prompt(rows, 0.2)
    assert len(training) + len(held_out) == 900 and 120 <= len(held_out) <= 240
    assert not {question(r) for r in training} & {question(r) for r in held_out}
    assert shared_prompts(training, held_out) == 0
    assert split_by_prompt(rows[::-1], 0.2)[1] == held_out[::-1]                # whatever their order
    assert split_by_prompt(rows, 0.2, seed=1)[1] != held_out
    assert split_by_prompt(rows, 0.0) == (rows, [])


def test_the_first_of_the_user_is_the_question():
    asked = (Message("system", "Be brief."), Message("user", "Why?"))
    assert question(Preference(asked, "a", "b")) == "Why?" and question(Preference(asked[:1], "a", "b")) == "Be brief."


def test_prompts_on_both_sides_are_counted():
    assert shared_prompts([row(1), row(2)], [row(2), row(3), row(2)]) == 2


def test_a_share_of_all_is_refused():
    with pytest.raises(ValueError, match="a share"):
        split_by_prompt([row(1)], 1.0)


def test_a_few_rows_come_from_all_over_a_file_in_order():
    rows = ["helpful"] * 6 + ["harmless"] * 4
    assert spread_out(rows, 5) == ["helpful"] * 3 + ["harmless"] * 2
    assert spread_out(range(10), 4) == [0, 2, 5, 7] and spread_out(range(3), 9) == [0, 1, 2] and spread_out([], 4) == []
