"""Verifiers: what counts as the answer that was meant."""

import pytest

from bloomery.align.verifiers import contains, exact, marked, number


@pytest.mark.parametrize(("said", "known", "right"), [
    ("So 3 boxes of 4 make 12.", "12", 1), ("It is 1,250 in all", "1250.0", 1), ("2 and then 3", "2", 0),
    ("no idea", "4", 0), ("#### 7\nthat was 7 of 9", "7", 1), (r"\boxed{3} not 4", "3", 1), ("minus -5", "-5", 1),
    ("3-5", "5", 1), ("it is 12.50", "12.5", 1), ("\\boxed{1}, no: \\boxed{2}", "2", 1), (".5", "0.50", 1),
])
def test_numbers_are_compared_by_value_and_the_last_that_is_meant_counts(said, known, right):
    assert number(said, known) == right


def test_a_known_answer_without_a_number_is_the_datas_fault():
    with pytest.raises(ValueError, match="no number"):
        number("4", "four")


def test_words_are_compared_without_case_space_and_full_stop():
    assert exact("  It  IS blue. ", "it is blue") == 1 and exact("It is blue, or so", "it is blue") == 0
    assert contains("I think it is BLUE, or so.", "it is blue.") == 1 and contains("bluebell", "blue") == 0
    assert contains("c++ (of course)", "C++") == 1


def test_without_a_mark_all_that_was_said_counts():
    assert marked("plain") == "plain" and marked("#### 1\n#### 2") == "2"
