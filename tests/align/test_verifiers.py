"""Verifiers: what counts as the answer that was meant, forms, limits, and the labels people gave to real solutions."""

import gzip
import json
import os
import time
from pathlib import Path

import pytest

from bloomery.align.verifiers import (
    KNOWN,
    VERIFIERS,
    choice,
    contains,
    exact,
    ifeval,
    ifeval_strict,
    is_json,
    marked,
    number,
    parallel,
    prepared,
    regex,
    schema,
    symbolic,
    tags,
)
from bloomery.core.errors import InputError
from bloomery.core.records import Message, Problem

REAL = Path(os.environ.get("BLOOMERY_DATA", "absent")) / "gsm8k" / "example_model_solutions.jsonl.gz"


def problem(answer="", **columns):
    return Problem((Message("user", "q"),), answer, id="p", columns=columns)


@pytest.mark.parametrize(("said", "known", "right"), [
    ("So 3 boxes of 4 make 12.", "12", 1), ("It is 1,250 in all", "1250.0", 1), ("2 and then 3", "2", 0),
    ("no idea", "4", 0), ("#### 7\nthat was 7 of 9", "7", 1), (r"\boxed{3} not 4", "3", 1), ("minus -5", "-5", 1),
    ("3-5", "5", 1), ("it is 12.50", "12.5", 1), ("\\boxed{1}, no: \\boxed{2}", "2", 1), (".5", "0.50", 1),
    ("The answer is 5. I checked 7 times", "5", 1), ("A: 18", "#### 18", 1), ("<answer>4</answer> of 5", "4", 1),
    (r"\boxed{\frac{3}{4}}", "75%", 1), ("The answer is 3.5 m.", "3.5", 1), ("<answer>four</answer>, 4", "4", 1),
])
def test_numbers_are_compared_by_value_and_the_last_that_is_meant_counts(said, known, right):
    assert number(said, known) == right


def test_a_known_answer_without_a_number_is_the_datas_fault():
    with pytest.raises(ValueError, match="no number"):
        number("4", "four")
    with pytest.raises(ValueError, match="no letter"):
        choice("A", "?")


def test_words_are_compared_without_case_space_and_full_stop():
    assert exact("  It  IS blue. ", "it is blue") == 1 and exact("It is blue, or so", "it is blue") == 0
    assert contains("I think it is BLUE, or so.", "it is blue.") == 1 and contains("bluebell", "blue") == 0
    assert contains("c++ (of course)", "C++") == 1


def test_without_a_mark_all_that_was_said_counts():
    assert marked("plain") == "plain" and marked("#### 1\n#### 2") == "2" and marked(r"#### 1 \boxed{2}") == "2"
    assert marked(r"\boxed{\text{a {b} c}} and \boxed{open") == r"\text{a {b} c}"


def test_expressions_are_compared_by_value_and_words_by_letters():
    assert symbolic(r"so \boxed{2(x+1)}", "2x+2") == 1 and symbolic(r"\boxed{\text{East}}", "east") == 1
    assert symbolic("x = 3 or so, I think", "3") == 0 and symbolic("north", "east") == 0


@pytest.mark.parametrize(("said", "known", "right"), [
    ("B", "B", 1), ("(b)", "B", 1), ("The answer is (C).", "C", 1), ("A dog is a friend, so D.", "D", 1),
    ("A is wrong, B is right", "B", 1), ("C) because", "C", 1), ("none", "A", 0), ("A. yes\nB. no\nanswer: A", "A", 1),
    ("I think B", "B", 1), ("B", "(B) the second", 1),
])
def test_the_letter_that_was_chosen(said, known, right):
    assert choice(said, known) == right


def test_forms():
    assert regex("call 555-0199", r"\d{3}-\d{4}") == 1 and regex("x", "^y$") == 0
    assert tags("<think>hm</think>\n<answer>4</answer>") == 1 and tags("<answer>4</answer>") == 0
    assert tags("<think>a</think><answer>4</answer> more") == tags("<think></think><answer>4</answer>") == 0
    assert tags("<think>a</think><answer>1</answer><answer>2</answer>") == 0 and tags("<a>1</a>", "a") == 1
    assert is_json('{"a": [1]}') == is_json("Here:\n```json\n[1]\n```") == 1 and is_json("{a}") == is_json("NaN") == 0
    asked = json.dumps({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}})
    assert schema('{"n": 3}', asked) == 1 and schema('{"n": "3"}', asked) == schema("no", asked) == 0


def test_a_schema_is_never_fetched():
    with pytest.raises(Exception, match="(?i)unresolvable|example.invalid"):
        schema('{"a": 1}', '{"properties": {"a": {"$ref": "http://example.invalid/s.json"}}}')


def test_what_fails_or_takes_too_long_scores_0_and_is_named():
    slow = prepared("regex", "(a+)+$", seconds=0.2)
    start = time.process_time()
    assert slow(problem(), "a" * 40 + "b").failure == "TookTooLong" and time.process_time() - start < 5
    assert prepared("regex", "a")(problem(), "cat").score == 1
    broken = prepared("number")(problem("four"), "4")
    assert broken.score == 0 and broken.failure == "ValueError"


@pytest.mark.parametrize(("name", "known"), [("regex", "("), ("schema", '{"type": 3}'), ("schema", "{")])
def test_a_rule_that_is_wrong_whatever_is_said_is_refused_at_once(name, known):
    with pytest.raises(InputError, match=f"this {name} cannot be used"):
        prepared(name, known)


def test_every_verifier_says_what_it_must_know():
    assert KNOWN.keys() == VERIFIERS.keys()
    assert prepared("tags").knows(problem()) and prepared("json").knows(problem())
    assert not prepared("number").knows(problem()) and not prepared("code").knows(problem())
    assert prepared("regex", "x").knows(problem()) and prepared("ifeval").knows(problem(
        instruction_id_list=["punctuation:no_comma"], kwargs=[{}]))


def test_checks_with_processes_of_their_own_keep_their_order():
    asked = [(problem("assert f() == 1"), f"def f(): return {value}") for value in (0, 1, 2, 1)]
    assert [one.score for one in parallel(prepared("code"), asked)] == [0, 1, 0, 1]


def test_instructions_count_each_or_all_together():
    known = json.dumps({"instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]})
    assert ifeval("no comma", known) == 0.5 and ifeval_strict("no comma", known) == 0 and ifeval('"ok"', known) == 1


@pytest.mark.skipif(not REAL.exists(), reason="BLOOMERY_DATA has no gsm8k")
@pytest.mark.parametrize("name", ["number", "math"])
def test_labels_of_real_solutions_are_agreed_with(name):
    """GSM8K's own labels of 5,276 model solutions: every one."""
    with gzip.open(REAL, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    judged = [(VERIFIERS[name](said["solution"], row["ground_truth"]), said["is_correct"])
              for row in rows for said in row.values() if isinstance(said, dict)]
    assert len(judged) == 5276 and all(score == label for score, label in judged)
