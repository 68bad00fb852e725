"""Constitutional AI: critiques and revisions, labels in both orders, a judge behind a server, and files that go on."""

import json
import math
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from drawing_data import room, tokenizer
from stub_server import letters, serving, text

from bloomery.align import assistants, constitution, feedback, written
from bloomery.align.assistants import AssistantConfig, read_letters
from bloomery.align.principles import CONSTITUTION, drawn, read_principles
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine, write_jsonl
from bloomery.core.records import Message
from bloomery.data.formats import conversations, preferences
from bloomery.generate.judge import Judge
from bloomery.model.config import ModelConfig
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer
from bloomery.text.templates import TEMPLATES

ASKED = [{"prompt": f"What is {a} + {b}?", "id": f"sum {a} {b}"} for a in range(3) for b in range(3)]
PAIRS = [{"prompt": f"What is {a} + {b}?", "chosen": f"It is {a + b}.", "rejected": f"It is {a + b + 1}!",
          "id": f"pair {a} {b}"} for a in range(3) for b in range(2)]


@cache
def speaker() -> Path:
    """A random model with room for a dialogue of several rounds."""
    folder = room() / "speaker"
    config = ModelConfig(vocabulary=tokenizer().size, context=2048, depth=1, width=16, heads=2, kv_heads=1,
                         head_width=8, hidden=24)
    save_model(Transformer(config, seed=5), folder, bos=tokenizer().eos, eos=[tokenizer().eos])
    tokenizer().save(folder, context=2048, chat_template=TEMPLATES["chatml"].jinja())
    return folder


def made(stage, out: Path, rows: list[dict], **options) -> dict:
    out.mkdir(parents=True, exist_ok=True)
    write_jsonl(out.parent / "data.jsonl", rows)
    return stage.run(stage.Config(data=str(out.parent / "data.jsonl"), precision="fp32", **options), out)


# --- principles -------------------------------------------------------------------------------------------------------

def principles(tmp_path, content: str) -> str:
    path = tmp_path / "principles.toml"
    path.write_text(content, encoding="utf-8")
    return str(path)


def test_a_constitution_is_read_from_toml(tmp_path):
    path = principles(tmp_path, '[[principles]]\nname = "a"\ncritique = "C"\nrevise = "R"\n'
                                '[[principles]]\nname = "b"\nprefer = "P"\n')
    assert [one.name for one in read_principles(path, "critique")] == ["a"]
    assert [one.name for one in read_principles(path, "prefer")] == ["b"]
    assert read_principles(None, "prefer") == list(CONSTITUTION) == read_principles(None, "critique")


@pytest.mark.parametrize(("content", "why"), [
    ("x = 1\n", "not a constitution"), ('[[principles]]\nname = "a"\ncritique = "C"\n', "needs critique and revise"),
    ('[[principles]]\nname = "a"\nprefer = 3\n', "must be a text"), ('[[principles]]\nprefer = "P"\n', "needs a name"),
    ('[[principles]]\nname = "a"\nwish = "P"\nprefer = "P"\n', "wish is not one of"), ("[", "not valid TOML"),
    ('[[principles]]\nname = "a"\nprefer = "P"\n[[principles]]\nname = "a"\nprefer = "P"\n', "one name"),
    ('[[principles]]\nname = "a"\ncritique = "C"\nrevise = "R"\n', "no principle has prefer")])
def test_a_file_that_is_none_says_what_is_wrong_with_it(tmp_path, content, why):
    with pytest.raises(ConfigError, match=why):
        read_principles(principles(tmp_path, content), "prefer")


def test_every_principle_is_drawn_and_always_the_same_for_one_key():
    found = [drawn(list(CONSTITUTION), 0, "x", number).name for number in range(60)]
    assert set(found) == {one.name for one in CONSTITUTION}
    assert found == [drawn(list(CONSTITUTION), 0, "x", number).name for number in range(60)]


# --- critiques and revisions ------------------------------------------------------------------------------------------

def scripted(body: dict) -> dict:
    """Answers "bad", finds fault with it once, and makes it good."""
    last = body["messages"][-1]["content"]
    if "point out" in last.lower():
        return text("It is bad." if body["messages"][-2]["content"] == "bad" else "Nothing.")
    return text("good") if last.startswith("Rewrite") else text("bad")


def test_answers_are_criticised_and_revised_until_nothing_is_found(tmp_path):
    with serving(scripted) as stub:
        told = made(constitution, tmp_path / "out", ASKED, url=stub.url, rounds=3)
    assert told["critiques/revised"] == 9 and told["critiques/nothing_found"] == 18
    assert told["critique_acceptance"] == pytest.approx(1 / 3) and told["words_by_round"]["3"] == 1
    chats = conversations(str(tmp_path / "out"), Quarantine())
    assert [one.messages[-1].content for one in chats] == ["good"] * 9
    assert chats[0].messages[0].content == "What is 0 + 0?"
    pairs = preferences(str(tmp_path / "out"), Quarantine())
    assert {(one.chosen, one.rejected) for one in pairs} == {("good", "bad")} and len(pairs) == 9
    assert {body["model"] for body in stub.bodies} == {"stub-model"}
    critique = next(body for body in stub.bodies if "point out" in body["messages"][-1]["content"].lower())
    assert [turn["role"] for turn in critique["messages"]] == ["user", "assistant", "user"]


def test_a_revision_that_was_cut_off_or_changes_nothing_leaves_the_answer(tmp_path):
    def cut(body):
        last = body["messages"][-1]["content"]
        return text("half", "length") if last.startswith("Rewrite") else text("fine" if "?" in last else "Bad.")

    with serving(cut) as stub:
        told = made(constitution, tmp_path / "out", ASKED, url=stub.url, rounds=2)
    assert told["critiques/unfinished"] == 18 and told["preferences"] == 0 and told["conversations"] == 9


def test_answers_of_which_none_ends_are_an_error(tmp_path):
    with serving(lambda body: text("on and on", "length")) as stub, pytest.raises(InputError, match="no answer came"):
        made(constitution, tmp_path / "out", ASKED, url=stub.url, rounds=1)


def test_a_model_folder_revises_and_a_killed_run_goes_on_with_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(written, "CHUNK", 4)
    options = {"model": str(speaker()), "rounds": 2, "max_tokens": 24, "temperature": 1.0}
    monkeypatch.setattr(constitution, "usable", lambda row: True)           # a random model seldom ends
    whole = made(constitution, tmp_path / "a" / "out", ASKED, **options)
    lines = (tmp_path / "a" / "out" / "revisions.jsonl").read_bytes().splitlines(keepends=True)
    begun = tmp_path / "b" / "out"
    begun.mkdir(parents=True)
    (begun / "revisions.jsonl").write_bytes(b"".join(lines[:6]) + lines[6][:20])
    again = made(constitution, begun, ASKED, **options)
    assert again == whole and (begun / "revisions.jsonl").read_bytes() == b"".join(lines) and len(lines) == 9
    assert len({json.loads(row)["first"] for row in lines}) > 1


# --- labels -----------------------------------------------------------------------------------------------------------

def shown_first(body: dict) -> str:
    return body["messages"][0]["content"].partition("Answer A: ")[2].partition("\n")[0]


def test_labels_are_averaged_over_both_orders_and_all_principles(tmp_path):
    def say(body):                                              # likes a full stop, and what stands first a little
        return letters(A=-0.2, B=-1.7) if shown_first(body).endswith(".") else letters(A=-1.2, B=-0.5)

    with serving(say) as stub:
        told = made(feedback, tmp_path / "out", PAIRS, url=stub.url)
    pairs = preferences(str(tmp_path / "out"), Quarantine())
    p = (1 / (1 + math.exp(-1.5)) + 1 / (1 + math.exp(-0.7))) / 2
    assert len(pairs) == 6 and pairs[0].share == pytest.approx(p) and pairs[0].chosen == "It is 0."
    assert told["agreement"] == told["order_consistency"] == 1 and told["unparseable"] == 0
    assert told["questions"] == len(stub.bodies) == 6 * 5 * 2 and told["first_shown"] > 0.5
    assert stub.bodies[0]["top_logprobs"] == 20 and stub.bodies[0]["logprobs"] is True


def test_who_only_likes_what_stands_first_labels_nothing(tmp_path):
    with serving(lambda body: letters(A=-0.1, B=-2.4)) as stub, \
            pytest.raises(InputError, match="no comparison") as error:
        made(feedback, tmp_path / "out", PAIRS, url=stub.url)
    assert "6 undecided" in error.value.why


def test_a_judge_that_nearly_goes_by_the_order_is_warned_of(tmp_path, capsys):
    def say(body):
        return letters(A=-0.1, B=-2.4) if shown_first(body).endswith(".") else letters(A=-0.2, B=-2.3)

    with serving(say) as stub:
        told = made(feedback, tmp_path / "out", PAIRS, url=stub.url)
    assert told["order_consistency"] == 0 and "goes by which answer stands first" in capsys.readouterr().err


def test_what_cannot_be_read_is_counted_and_no_label(tmp_path):
    def say(body):
        if "It is 1." in body["messages"][0]["content"] and "rude" not in body["messages"][0]["content"]:
            return letters(Both=-0.1, Neither=-3.0)
        return text("B.") if shown_first(body).endswith("!") else text("**A**")

    with serving(say) as stub:
        told = made(feedback, tmp_path / "out", PAIRS, url=stub.url, average=2)
    assert told["dropped/unparseable"] == 2 and told["unparseable"] == 8 and told["preferences"] == 4
    assert told["agreement"] == 1


def test_a_judge_that_reasons_is_held_between_04_and_06(tmp_path):
    def say(body):
        if body["max_tokens"] > 1:
            return text("I think the one with the full stop.")
        assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
        return letters(A=-0.001, B=-9) if shown_first(body).endswith(".") else letters(A=-9, B=-0.001)

    with serving(say) as stub:
        made(feedback, tmp_path / "out", PAIRS, url=stub.url, reason=True, average=1)
    assert {one.share for one in preferences(str(tmp_path / "out"), Quarantine())} == {0.6}


def test_hard_labels_and_a_least_gap(tmp_path):
    def say(body):
        first = shown_first(body)
        sure = 3.0 if "0" in first else 0.1
        return letters(A=0.0, B=-sure) if first.endswith(".") else letters(A=-sure, B=0.0)

    with serving(say) as stub:
        told = made(feedback, tmp_path / "out", PAIRS, url=stub.url, soft=False, least_gap=0.1, average=1)
    found = preferences(str(tmp_path / "out"), Quarantine())
    assert {one.share for one in found} == {1.0} and told["dropped/undecided"] == 6 - len(found) > 0


def test_drawn_answers_and_rows_of_answers_are_compared_with_their_neighbours(tmp_path):
    rows = [{"prompt": "Q?", "answers": ["a.", "b!", "c.", "b!"], "id": "three"},
            {"prompt": [{"role": "user", "content": "R?"}], "id": "two",
             "candidates": [{"text": "x."}, {"text": "y!"}]},
            {"prompt": "S?", "answers": ["same", "same"]}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    quarantine = Quarantine()
    found = feedback.comparisons(str(tmp_path / "rows.jsonl"), quarantine)
    assert [(one.id, one.first, one.second) for one in found] == [
        ("three#0", "a.", "b!"), ("three#1", "b!", "c."), ("two", "x.", "y!")]
    assert quarantine.reasons == {"fewer than two different answers": 1} and found[0].human is None


def test_a_model_folder_judges_as_the_judge_does_and_a_killed_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(written, "CHUNK", 4)
    toml = principles(tmp_path, '[[principles]]\nname = "p"\nprefer = "Which answer is better?"\n')
    options = {"model": str(speaker()), "principles": toml}
    whole = made(feedback, tmp_path / "a" / "out", PAIRS, **options)
    rows = (tmp_path / "a" / "out" / "labels.jsonl").read_bytes().splitlines(keepends=True)
    judge = Judge(speaker(), question=feedback.QUESTION.replace("{prefer}", "Which answer is better? Say A or B."))
    scores = judge([(Message("user", row["prompt"]),) for row in PAIRS],
                   [[row["chosen"], row["rejected"]] for row in PAIRS])
    assert [json.loads(row)["p"] for row in rows] == pytest.approx([own[0] for own in scores], abs=1e-6)
    begun = tmp_path / "b" / "out"
    begun.mkdir(parents=True)
    (begun / "labels.jsonl").write_bytes(b"".join(rows[:5]))
    assert made(feedback, begun, PAIRS, **options) == whole
    assert (begun / "labels.jsonl").read_bytes() == b"".join(rows)


def test_what_stands_in_an_answer_is_not_filled_in():
    one = feedback.Comparison("x", (Message("user", "{first}?"),), "{second}", "b")
    asked = feedback.question(one, CONSTITUTION[0], swapped=False, ending="Say A or B.")[0].content
    assert "Answer A: {second}\n" in asked and "user: {first}?" in asked


# --- who is asked -----------------------------------------------------------------------------------------------------

def test_one_who_answers_is_needed():
    for options in ({}, {"model": "x", "url": "http://y/v1"}, {"url": "ftp://y"}):
        with pytest.raises(ValueError, match="model=FOLDER or url=|must begin with"):
            AssistantConfig(**options)


def ask(stub, **options):
    assistant = assistants.opened(AssistantConfig(url=stub.url, **options), compute=torch.float32)
    return assistant.replies([(Message("user", "Hi"),)], max_tokens=8, temperature=0.5, seeds=[3])


def test_what_may_pass_is_tried_again_and_the_key_comes_from_the_environment(monkeypatch):
    waits = []
    monkeypatch.setattr(assistants, "time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setenv("STUB_KEY", "secret")
    with serving(lambda body: text(" hello "), (429, {"Retry-After": "7"}), (503, {}), (500, {})) as stub:
        assert ask(stub, key="STUB_KEY", served="big")[0] == assistants.Reply("hello", True)
    assert waits == [7, 1, 2] and stub.keys == ["Bearer secret"] * 4
    assert stub.bodies[0]["model"] == "big" and stub.bodies[0]["seed"] == 3 and stub.bodies[0]["temperature"] == 0.5


@pytest.mark.parametrize(("failures", "why", "asked"), [
    ([(401, {})], "401", 1), ([(503, {})] * 3, "503", 3)])
def test_what_does_not_pass_is_an_error_that_says_so(monkeypatch, failures, why, asked):
    monkeypatch.setattr(assistants, "time", SimpleNamespace(sleep=lambda wait: None))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(lambda body: text("never"), *failures) as stub, pytest.raises(InputError) as error:
        ask(stub, retries=2)
    assert why in error.value.why and len(stub.keys) == asked and stub.keys[0] is None


def test_a_server_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(assistants, "time", SimpleNamespace(sleep=lambda wait: None))
    with pytest.raises(InputError, match="did not answer") as error:
        assistants.opened(AssistantConfig(url="http://127.0.0.1:9/v1", retries=1, timeout=2), compute=torch.float32)
    assert "Error" in error.value.why


def test_letters_are_read_or_not_there():
    assert read_letters(letters(A=-0.1, B=-2.0), "AB") == [-0.1, -2.0]
    assert read_letters(letters(A=-0.1, C=-2.0, D=-9.0), "AB") == [-0.1, -9.0]
    assert read_letters(letters(**{" B": -0.3, "B": -1.0, "A": -2.0}), "AB") == [-2.0, -0.3]
    assert read_letters(letters(Yes=-0.1), "AB") is None and read_letters(text("(B)"), "AB") == [-100, 0]
    assert read_letters(text("Both are fine"), "AB") is None and read_letters({}, "AB") is None
    assert read_letters(text(""), "AB") is None
