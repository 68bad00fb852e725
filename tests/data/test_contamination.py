"""Overlap is found where 13 words agree and nowhere else, as a slow oracle says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.core.files import Quarantine, write_jsonl
from bloomery.core.records import Conversation, Message
from bloomery.data.contamination import Contamination, contamination, evaluation_texts

QUESTION = "How many clips did Natalia sell altogether in April and May if she sold half as many?"
WORDS = QUESTION.rstrip("?").split()


def test_thirteen_words_in_a_row_are_found_and_named():
    known = Contamination([QUESTION])
    copied = " ".join(WORDS[2:15])
    assert known.reason(f"and so we ask: {copied.upper()}, right") == \
        "overlaps with evaluation data: clips did natalia sell altogether in april and may if she sold half"
    assert known.reason(" ".join(WORDS[2:14])) is None                          # twelve are chance
    assert known.reason(" ".join([*WORDS[2:8], "nearly", *WORDS[8:15]])) is None


def test_punctuation_and_case_do_not_hide_a_copy():
    assert Contamination([QUESTION]).reason("- " + ", ".join(WORDS).lower() + "...")


def test_short_texts_are_looked_for_whole_and_shorter_ones_not_at_all():
    known = Contamination(["one two three four five six seven eight", "four words are chance", ""])
    assert known.reason("zero one two three four five six seven eight nine")
    assert known.reason("one two three four five six seven") is None
    assert known.reason("here four words are chance too") is None
    assert known.unchecked == 2


def test_a_benchmarks_own_wording_proves_nothing():
    said = "Read the passage below and answer the question that follows it in one short sentence"
    few = [f"{said}: number {i}" for i in range(10)]
    assert Contamination(few).reason(f"{said}, please")
    assert Contamination([*few, f"{said}: number 10"]).reason(f"{said}, please") is None
    assert Contamination([*few, *few]).reason(f"{said}, please")                # a text that stands twice is one text


@given(evaluation=st.lists(st.lists(st.sampled_from("abc"), max_size=9), max_size=5),
       text=st.lists(st.sampled_from("abc"), max_size=20), n=st.integers(2, 5))
def test_it_agrees_with_the_definition(evaluation, text, n):
    shortest = 2
    found = {tuple(words[i:i + min(n, len(words))]) for words in evaluation if len(words) >= shortest
             for i in range(len(words) - min(n, len(words)) + 1)}
    expected = any(tuple(text[i:i + len(run)]) == run for run in found for i in range(len(text)))
    known = Contamination([" ".join(words) for words in evaluation], n=n, shortest=shortest)
    assert (known.reason(" ".join(text)) is not None) == expected


def test_any_turn_of_a_conversation_counts():
    turns = (Message("user", "What was asked?"), Message("assistant", QUESTION))
    known = Contamination([QUESTION])
    assert "natalia" in known.of_conversation(Conversation(turns))
    assert known.of_conversation(Conversation(turns[:1])) is None


def test_every_text_of_a_row_of_any_shape_counts(tmp_path):
    write_jsonl(tmp_path / "test.jsonl", [{"question": "a", "choices": {"text": ["b", "c"], "label": [1, 2]}, "gold": 0,
                                           "turns": [{"content": "d"}], "none": None}])
    assert contamination([str(tmp_path / "test.jsonl")], Quarantine()).unchecked == 4
    assert list(evaluation_texts([str(tmp_path / "test.jsonl")], Quarantine())) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("arguments", [{"n": 5}, {"shortest": 0}])
def test_lengths_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError, match="shortest"):
        Contamination([], **arguments)


def test_without_evaluation_texts_nothing_overlaps():
    assert Contamination([]).reason(QUESTION) is None
