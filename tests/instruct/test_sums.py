"""Arithmetic problems: answers are right, no problem or its mirror image is on both sides, mistakes are as asked."""

import json
from collections import Counter

import pytest

from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.data import formats
from bloomery.instruct.sums import OPERATIONS, Config, run


def made(out, **given):
    metrics = run(Config(**given), out)
    return metrics, {path.stem: [json.loads(line) for line in path.read_text().splitlines()]
                     for path in out.glob("*.jsonl")}


def computed(question: str) -> int:
    return eval(question.removesuffix("="))


def test_every_problem_is_there_once_with_its_answer(tmp_path):
    metrics, rows = made(tmp_path, operations=list(OPERATIONS), below=12)
    every = rows["problems"] + rows["problems_heldout"]
    assert len({row["prompt"] for row in every}) == len(every) == 3 * 12 * 12
    assert all(int(row["answer"]) == computed(row["prompt"]) for row in every)
    assert metrics["problems/train"] == len(rows["problems"]) == len(rows["instructions"])
    assert 0.04 < metrics["problems/heldout"] / len(every) < 0.2


def test_a_problem_and_its_mirror_image_are_on_one_side(tmp_path):
    _, rows = made(tmp_path, operations=["+", "*"], below=20)
    sides = [{tuple(sorted(row["prompt"].strip("=").replace("*", "+").split("+"))) + (row["prompt"].count("*"),)
              for row in rows[name]} for name in ("problems", "problems_heldout")]
    assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_who_is_careless_is_one_short_as_often_as_asked(tmp_path):
    _, rows = made(tmp_path, below=30, careless=0.6, demonstrations=3)
    wrong = Counter(computed(row["prompt"]) - int(row["completion"]) for row in rows["instructions"])
    assert set(wrong) == {0, 1} and wrong[1] / wrong.total() == pytest.approx(0.6, abs=0.04)
    assert all(int(row["completion"]) == computed(row["prompt"]) for row in rows["instructions_heldout"])
    by_problem = Counter(row["prompt"] for row in rows["instructions"])
    assert set(by_problem.values()) == {3}
    order = [row["prompt"] for row in rows["instructions"]]
    assert order[:len(by_problem)] != order[len(by_problem):2 * len(by_problem)]     # no order to learn by heart


def test_worked_answers_have_the_form_of_gsm8k_or_lack_their_last_line(tmp_path):
    _, rows = made(tmp_path, below=20, worked=True, unmarked=0.5)
    answers = [(row["prompt"], row["completion"]) for row in rows["instructions"]]
    marked = [text for question, text in answers if text == f"{question}<<{question}{computed(question)}>>"
              f"{computed(question)}\n#### {computed(question)}"]
    assert len(marked) / len(answers) == pytest.approx(0.5, abs=0.1)
    assert all("####" not in text for _, text in answers if text not in marked)


def test_what_it_writes_is_read_by_those_who_want_it_and_is_the_same_again(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        made(tmp_path / name, below=10, careless=0.3)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    quarantine = Quarantine()
    problems = formats.problems(str(tmp_path / "a"), quarantine)
    chats = formats.conversations(str(tmp_path / "a"), quarantine)
    pages = list(formats.documents(str(tmp_path / "a" / "documents.jsonl"), quarantine))
    assert problems[0].answer == str(computed(problems[0].prompt[0].content)) and len(chats) == len(problems)
    assert pages[0].text.count("\n") == 99 and not len(quarantine)


def test_too_few_problems_to_split_are_an_error_that_says_what_to_change(tmp_path):
    with pytest.raises(InputError, match="too few problems"):
        run(Config(below=4, heldout=0.001), tmp_path)
