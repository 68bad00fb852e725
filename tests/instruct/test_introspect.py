"""Introspected instructions: right answers, a split that leaks nothing, the same in every process."""

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.core.records import Conversation, Message
from bloomery.data import formats, stdlib
from bloomery.instruct.descriptions import describe
from bloomery.instruct.expressions import TEMPLATES, expressions
from bloomery.instruct.introspect import MALFORMED, Config, Subject, malformed, plain, run

FILES = ("instructions.jsonl", "instructions_heldout.jsonl", "preferences.jsonl", "preferences_heldout.jsonl",
         "show.jsonl")
SMALL = Config(max_objects=400, expressions=300)


@pytest.fixture(scope="module", autouse=True)
def library():
    """The library is examined once for all tests of this process."""
    found = list(stdlib.objects())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stdlib, "objects", lambda: iter(found))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("introspect")
    return out, run(Config(expressions=1500, max_objects=1500), out)


@pytest.fixture(scope="module")
def rows(made):
    return {name: [json.loads(line) for line in (made[0] / name).read_text().splitlines()] for name in FILES}


def test_counts_are_of_what_was_written_and_nothing_is_lost(made, rows):
    metrics = made[1]
    for name, part in (("", "train"), ("_heldout", "heldout")):
        tasks = Counter(row["task"] for row in rows[f"instructions{name}.jsonl"])
        kinds = Counter(row["kind"] for row in rows[f"preferences{name}.jsonl"])
        assert {key: metrics[f"{key}/{part}"] for key in tasks | kinds} == tasks | kinds
        assert set(tasks) == {"describe", "which", "parameters", "evaluate"}
        assert set(kinds) == {"hard_negative", "format"}
        assert metrics[f"describe/{part}"] == metrics[f"objects/{part}"]
    assert metrics["preferences/train"] > 2000
    assert metrics["objects/heldout"] > 80


def test_rows_are_read_back_without_loss(made, rows):
    for suffix in ("", "_heldout"):
        quarantine = Quarantine()
        assert len(formats.conversations(str(made[0] / f"instructions{suffix}.jsonl"), quarantine)) == len(
            rows[f"instructions{suffix}.jsonl"])
        assert len(formats.preferences(str(made[0] / f"preferences{suffix}.jsonl"), quarantine)) == len(
            rows[f"preferences{suffix}.jsonl"])
        assert len(quarantine) == 0


def test_ids_are_unique(rows):
    for names in (FILES[:2], FILES[2:4]):
        ids = [row["id"] for name in names for row in rows[name]]
        assert len(set(ids)) == len(ids)


def test_no_held_out_name_or_description_is_in_training(made, rows):
    heldout = [row for row in rows["instructions_heldout.jsonl"] if row["task"] == "describe"]
    names = {row["object"] for row in heldout}
    lasts = {name.rpartition(".")[2] for name in names}
    told = [plain(row["messages"][1]["content"].partition("`: ")[2]) for row in heldout]
    training = [row for name in ("instructions.jsonl", "preferences.jsonl") for row in rows[name]]
    assert not {row["object"].rpartition(".")[2] for row in training if row.get("task") != "evaluate"} & lasts
    answers = plain(" ".join((made[0] / name).read_text() for name in ("instructions.jsonl", "preferences.jsonl")))
    assert not [answer for answer in told if answer in answers]
    for row in training:
        text = json.dumps(row, ensure_ascii=False)
        assert not names & set(re.findall(r"`([\w.]+)`", text)), row["id"]
        assert not {name for name in names if "." in name} & set(re.findall(r"\w+(?:\.\w+)+", text)), row["id"]


def test_held_out_candidates_and_negatives_come_from_the_same_split(rows):
    trained = {row["object"] for row in rows["instructions.jsonl"] if row["task"] == "describe"}
    known = {row["messages"][1]["content"].partition("`: ")[2] for row in rows["instructions_heldout.jsonl"]
             if row["task"] == "describe"}
    for row in rows["preferences_heldout.jsonl"]:
        if row["kind"] == "hard_negative":
            assert row["rejected"].partition("`: ")[2] in known
    for row in rows["instructions_heldout.jsonl"]:
        if row["task"] == "which":
            owner = row["object"].rpartition(".")[0]
            candidates = set(re.findall(r"`([\w.]+)`", row["messages"][0]["content"]))
            assert not trained & (candidates - {owner} if "the standard library" in row["messages"][0]["content"] else
                                  {f"{owner}.{name}".lstrip(".") for name in candidates - {owner}})


def test_no_chosen_answer_equals_its_rejected_one(rows):
    for name in ("preferences.jsonl", "preferences_heldout.jsonl"):
        for row in rows[name]:
            assert row["chosen"].strip()
            assert row["rejected"].strip()
            assert row["chosen"].casefold() != row["rejected"].casefold() or row["kind"] == "format"
            assert row["chosen"] != row["rejected"]


def test_bad_forms_are_both_shorter_and_longer(rows):
    difference = [len(row["rejected"]) - len(row["chosen"]) for row in rows["preferences.jsonl"]
                  if row["kind"] == "format"]
    assert sum(d < 0 for d in difference) > 0.25 * len(difference)
    assert sum(d > 0 for d in difference) > 0.25 * len(difference)


def test_which_is_answered_by_one_of_its_candidates(rows):
    for row in rows["instructions.jsonl"]:
        if row["task"] == "which":
            question, answer = (turn["content"] for turn in row["messages"])
            assert question.count(answer) >= 1
            assert row["object"].endswith(answer.strip("`"))


def test_answers_of_expressions_are_their_values(rows):
    found = [row for name in FILES[:2] for row in rows[name] if row["task"] == "evaluate"]
    assert len({row["object"] for row in found}) == len(found) == 1500
    for row in found:
        question, answer = (turn["content"] for turn in row["messages"])
        assert f"`{row['object']}`" in question
        assert answer == f"`{eval(row['object'])!r}`"
        assert ast.literal_eval(answer.strip("`")) == eval(row["object"])
        assert len(answer) <= 42


def test_three_held_out_prompts_to_show(rows):
    heldout = {row["id"]: row for row in rows["instructions_heldout.jsonl"]}
    assert [row["task"] for row in rows["show.jsonl"]] == ["describe", "which", "evaluate"]
    for row in rows["show.jsonl"]:
        assert row == heldout[row["id"]]


def test_output_does_not_depend_on_the_process(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    run(SMALL, tmp_path / "here")
    code = ("import sys; from pathlib import Path; from bloomery.instruct.introspect import Config, run; "
            "run(Config.model_validate_json(sys.argv[1]), Path(sys.argv[2]))")
    subprocess.run([sys.executable, "-c", code, SMALL.model_dump_json(), str(tmp_path / "there")], check=True,
                   env=os.environ | {"PYTHONHASHSEED": "7"}, capture_output=True)
    for name in FILES:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_a_split_too_small_to_ask_from_is_an_error(tmp_path):
    with pytest.raises(InputError, match="too few objects"):
        run(Config(max_objects=20, expressions=0), tmp_path)


@pytest.mark.parametrize(("doc", "description"), [
    ("Remove any common\nleading whitespace from `text`.\n\n    More.",
     "Remove any common leading whitespace from `text`."),
    ("accept() -> (socket object, address info)\n\nWait for an incoming connection.  Then go.",
     "Wait for an incoming connection."),
    ("S.remove(value) -- remove first occurrence of value.\nRaise ValueError.", "Remove first occurrence of value."),
    ("D.pop(k[,d]) -> v, remove specified key and return the corresponding value.",
     "Remove specified key and return the corresponding value."),
    ("Flush the streams (e.g. the log) and *close* them, as ``exit`` does",
     "Flush the streams (e.g. the log) and close them, as `exit` does."),
    ("Send `data' to the server as JSON.", "Send `data` to the server as JSON.")])
def test_descriptions_are_one_clean_sentence(doc, description):
    assert describe(doc) == (description, "")


@pytest.mark.parametrize(("doc", "reason"), [
    ("", "no documentation"), ("Go away.", "too short"),
    ("See the base class for all of it.", "points elsewhere"),
    ("Return one of the following values:\n\n - a", "not plain prose"),
    ("FunctionDef(identifier name, expr value)", "not a sentence"),
    ("Return " + "very " * 50 + "much.", "too long"),
    ("Return the `half open thing of it.", "cut by markup")])
def test_what_is_no_description_has_a_reason(doc, reason):
    assert describe(doc) == ("", reason)


def test_every_bad_form_differs_from_the_good_answer():
    subject = Subject("textwrap.dedent", "textwrap", ("text",), "Remove any common leading whitespace from every line.")
    assert len(MALFORMED) >= 6
    question = "What does `textwrap.dedent` do?"
    assert len({form(question, subject.answer) for form in MALFORMED.values()} | {subject.answer}) == len(MALFORMED) + 1


@pytest.mark.parametrize("answer", ["`7`", "`a`, `b`", "`textwrap.dedent`: Remove it.", "It takes no parameters."])
def test_a_malformed_answer_is_never_the_answer(answer):
    for number in range(30):
        lesson = Conversation((Message("user", "What?"), Message("assistant", answer)), "which", f"lesson/{number}")
        assert malformed(lesson, seed=0).strip() not in ("", answer)


def test_expressions_are_distinct_short_and_of_every_kind():
    found = expressions(len(TEMPLATES) * 4, seed=3)
    assert len({text for text, _ in found}) == len(found) == len(TEMPLATES) * 4
    assert all(len(answer) <= 40 for _, answer in found)
    assert found != expressions(len(TEMPLATES) * 4, seed=4)
