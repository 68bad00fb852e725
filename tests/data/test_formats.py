"""Rows become records, or are set aside with the reason; what is written is read back."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, write_jsonl
from bloomery.core.records import Conversation, Document, Message, Preference, Problem, Rating, text_id
from bloomery.data import formats

ASK, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


def test_documents_have_a_content_id_and_a_source(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "one", "source": "web"}, {"text": " "}, {"text": 3}, {"t": "x"},
                                       {"text": "two"}])
    quarantine = Quarantine()
    found = list(formats.documents(str(tmp_path), quarantine))
    assert found == [Document(text_id("one"), "one", "web"), Document(text_id("two"), "two", "a.jsonl:5")]
    assert list(quarantine.reasons) == ["empty text", "text is not a string", "no column text"]


def test_the_place_of_a_document_does_not_depend_on_where_its_folder_is(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "a.jsonl", [{"text": "same"}])
    one, other = (list(formats.documents(str(tmp_path / name), Quarantine())) for name in ("one", "other"))
    assert one == other


def test_a_stage_output_gives_only_what_is_meant_for_training(tmp_path):
    write_jsonl(tmp_path / "instructions.jsonl", [{"messages": [ASK, ANSWER]}])
    write_jsonl(tmp_path / "instructions_heldout.jsonl", [{"messages": [ASK, ANSWER]}])
    assert len(formats.conversations(str(tmp_path), Quarantine())) == 1


def test_an_unknown_built_in_source_is_an_error():
    with pytest.raises(InputError, match="unknown source") as error:
        list(formats.documents("python:stdlibs", Quarantine()))
    assert "python:stdlib" in error.value.hint


CONVERSATION = Conversation((Message("user", "hi"), Message("assistant", "hello")), "greet", "7")


@pytest.mark.parametrize("row", [
    {"messages": [ASK, ANSWER]}, {"prompt": "hi", "completion": "hello"}, {"prompt": [ASK], "completion": [ANSWER]}])
def test_conversation_formats_agree(tmp_path, row):
    write_jsonl(tmp_path / "a.jsonl", [row | {"task": "greet", "id": 7}])
    assert formats.conversations(str(tmp_path / "a.jsonl"), Quarantine()) == [CONVERSATION]


@pytest.mark.parametrize(("row", "reason"), [
    ({"messages": []}, "an empty list of messages"), ({"messages": "hi"}, "not a list of messages"),
    ({"messages": [ASK]}, "no assistant turn"),
    ({"messages": [ASK, {"role": "robot", "content": "x"}]}, "unknown role"),
    ({"messages": [ASK, {"role": "assistant"}]}, "a message without role and content"),
    ({"prompt": "hi", "completion": " "}, "empty answer"),
    ({"prompt": "hi"}, "columns of no known format")])
def test_bad_conversations_are_set_aside(tmp_path, row, reason):
    write_jsonl(tmp_path / "a.jsonl", [{"messages": [ASK, ANSWER]}, row])
    quarantine = Quarantine()
    assert len(formats.conversations(str(tmp_path / "a.jsonl"), quarantine)) == 1
    assert list(quarantine.reasons) == [reason]


PREFERENCE = Preference((Message("user", "hi"),), "hello", "go away", "tone", "1")


@pytest.mark.parametrize("row", [
    {"prompt": "hi", "chosen": "hello", "rejected": "go away"},
    {"prompt": [ASK], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "go away"}]},
    {"prompt": "hi", "chosen": [ASK, ANSWER], "rejected": [ASK, {"role": "assistant", "content": "go away"}]},
    {"chosen": [ASK, ANSWER], "rejected": [ASK, {"role": "assistant", "content": "go away"}]}])
def test_preference_formats_agree(tmp_path, row):
    write_jsonl(tmp_path / "a.jsonl", [row | {"kind": "tone", "id": "1"}])
    assert formats.preferences(str(tmp_path / "a.jsonl"), Quarantine()) == [PREFERENCE]


@pytest.mark.parametrize(("row", "reason"), [
    ({"prompt": "q", "chosen": "a", "rejected": "a"}, "equal answers"),
    ({"prompt": "q", "chosen": "a", "rejected": "\n"}, "empty answer"),
    ({"prompt": "q", "chosen": "a"}, "columns of no known format"), ({"chosen": "a", "rejected": "b"}, "no prompt"),
    ({"prompt": "q", "chosen": [ASK], "rejected": "b"}, "the last turn of an answer is not the assistant's"),
    ({"chosen": [ASK, ANSWER], "rejected": [ANSWER]}, "chosen and rejected answer different prompts")])
def test_bad_preferences_are_set_aside(tmp_path, row, reason):
    write_jsonl(tmp_path / "a.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}, row])
    quarantine = Quarantine()
    assert len(formats.preferences(str(tmp_path / "a.jsonl"), quarantine)) == 1
    assert list(quarantine.reasons) == [reason]


def test_only_bad_rows_is_an_error_that_says_what_is_there(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "reply": "r"}])
    with pytest.raises(InputError) as error:
        formats.preferences(str(tmp_path / "a.jsonl"), Quarantine())
    for part in ("a.jsonl:1", "question, reply", "`chosen`"):
        assert part in str(error.value)


def test_only_damaged_rows_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(InputError, match="no row can be read"):
        formats.conversations(str(tmp_path / "a.jsonl"), Quarantine())


def test_what_is_written_is_read_back(tmp_path):
    write_jsonl(tmp_path / "c.jsonl", [json.loads(json.dumps(formats.conversation_row(CONVERSATION)))])
    write_jsonl(tmp_path / "p.jsonl", [json.loads(json.dumps(formats.preference_row(PREFERENCE)))])
    assert formats.conversations(str(tmp_path / "c.jsonl"), Quarantine()) == [CONVERSATION]
    assert formats.preferences(str(tmp_path / "p.jsonl"), Quarantine()) == [PREFERENCE]


QUESTION = (Message("user", "hi"),)


@pytest.mark.parametrize(("row", "desirable"), [
    ({"prompt": "hi", "completion": "hello", "label": True}, True),
    ({"messages": [ASK, ANSWER], "kto_tag": False}, False), ({"messages": [ASK, ANSWER], "label": "False"}, False),
    ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}], "kto_tag": 1}, True),
    ({"instruction": "hi", "output": "hello", "label": "0"}, False)])
def test_rating_formats_agree(tmp_path, row, desirable):
    write_jsonl(tmp_path / "a.jsonl", [row | {"id": "1"}])
    assert formats.ratings(str(tmp_path), Quarantine()) == [Rating(QUESTION, "hello", desirable, "1")]


@pytest.mark.parametrize(("row", "reason"), [
    ({"prompt": "hi", "completion": "x", "label": "entailment"}, "a label that is not true or false"),
    ({"prompt": "hi", "completion": "x", "label": 2}, "a label that is not true or false"),
    ({"prompt": "hi", "completion": " ", "label": True}, "empty answer"),
    ({"messages": [ANSWER], "label": True}, "no prompt, or the last turn is not the assistant's")])
def test_bad_ratings_are_set_aside(tmp_path, row, reason):
    write_jsonl(tmp_path / "a.jsonl", [{"prompt": "q", "completion": "a", "label": True}, row])
    quarantine = Quarantine()
    assert len(formats.ratings(str(tmp_path / "a.jsonl"), quarantine)) == 1
    assert list(quarantine.reasons) == [reason]


def test_what_is_rated_undesirable_is_not_learned_as_an_answer(tmp_path):
    rows = [{"messages": [ASK, ANSWER], "label": label} for label in (True, False)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    quarantine = Quarantine()
    assert len(formats.conversations(str(tmp_path), quarantine)) == 1
    assert quarantine.reasons == {"an answer that is rated undesirable": 1}


@pytest.mark.parametrize(("row", "answer", "task"), [
    ({"prompt": "hi"}, "", ""), ({"prompt": [ASK], "solution": 3}, "3", ""), ({"prompt": "hi", "answer": "x"}, "x", ""),
    ({"data_source": "gsm8k", "prompt": [ASK], "ability": "math", "extra_info": {"index": 1},
      "reward_model": {"style": "rule", "ground_truth": "42"}}, "42", "gsm8k"),
    ({"messages": [ASK, ANSWER], "ground_truth": ["72"], "dataset": ["math"]}, "72", "math"),
    ({"messages": [ASK], "ground_truth": ["a", "b"], "task": "two"}, '["a", "b"]', "two")])
def test_problem_formats_agree(tmp_path, row, answer, task):
    write_jsonl(tmp_path / "a.jsonl", [row | {"id": "1"}])
    rest = {name: value for name, value in row.items() if name not in ("prompt", "messages")} | {"id": "1"}
    assert formats.problems(str(tmp_path), Quarantine()) == [Problem(QUESTION, answer, task, "1", rest)]


def test_verl_rows_from_parquet_keep_what_a_reward_needs(tmp_path):
    rows = [{"data_source": "gsm8k", "prompt": [ASK], "ability": "math", "extra_info": {"index": number},
             "reward_model": {"style": "rule", "ground_truth": str(number)}} for number in range(3)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    found = formats.problems(str(tmp_path), Quarantine())
    assert [problem.answer for problem in found] == ["0", "1", "2"]
    assert found[2].columns["extra_info"] == {"index": 2} and found[2].columns["reward_model"]["style"] == "rule"


def test_tools_and_weights_are_carried_through(tmp_path):
    tool = {"type": "function", "function": {"name": "add"}}
    write_jsonl(tmp_path / "a.jsonl", [{"messages": [ASK, ANSWER], "tools": json.dumps([tool]), "weight": "0.5"},
                                       {"messages": [ASK, ANSWER], "tools": [tool], "weight": 2},
                                       {"messages": [ASK, ANSWER], "tools": "add"},
                                       {"messages": [ASK, ANSWER], "weight": "heavy"}])
    quarantine = Quarantine()
    found = formats.conversations(str(tmp_path), quarantine)
    assert [(one.tools, one.weight) for one in found] == [((tool,), 0.5), ((tool,), 2.0)]
    assert list(quarantine.reasons) == ["tools is not a list of objects", "a weight that is not a number from 0 up"]


def test_a_split_is_the_row_s_or_told_by_the_file_s_name(tmp_path):
    (tmp_path / "test").mkdir()
    for name, more in (("test/x.jsonl", {}), ("train-00000-of-1.jsonl", {}), ("a_dev.jsonl", {}), ("contest.jsonl", {}),
                       ("z-test.jsonl", {"split": "own"})):
        write_jsonl(tmp_path / name, [{"messages": [ASK, ANSWER], "id": name} | more])
    found = {one.id: one.split for one in formats.conversations(str(tmp_path), Quarantine())}
    assert found == {"test/x.jsonl": "test", "train-00000-of-1.jsonl": "train", "a_dev.jsonl": "validation",
                     "contest.jsonl": "", "z-test.jsonl": "own"}


def test_a_table_of_texts_may_hold_dialogues(tmp_path):
    turns = json.dumps([ASK, ANSWER]).replace('"', '""')
    (tmp_path / "a.csv").write_text(f'messages,task\n"{turns}",greet\n')
    [found] = formats.conversations(str(tmp_path), Quarantine())
    assert (found.messages, found.task) == (CONVERSATION.messages, "greet")


def test_a_hub_id_is_the_folder_its_files_are_in(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "train.jsonl", [{"instruction": "hi", "output": "hello", "text": "hi hello"}])
    monkeypatch.setattr(formats, "located", lambda path: str(tmp_path) if path == "hf:datasets/some/data" else path)
    [found] = formats.conversations("hf:datasets/some/data", Quarantine())
    assert (found.messages, found.split) == (CONVERSATION.messages, "train")
    assert [document.text for document in formats.documents("hf:datasets/some/data", Quarantine())] == ["hi hello"]


DATA = os.environ.get("BLOOMERY_DATA", "")
MAPPED = {"question": "prompt", "answer": "completion"}
DEMO = "instr_llamafactory_demo"


@pytest.mark.skipif(not DATA, reason="BLOOMERY_DATA is not set")
@pytest.mark.parametrize(("read", "name", "columns", "good", "bad"), [
    (formats.conversations, "instr_dolly_1k", {"category": "task"}, 1000, 0),
    (formats.conversations, f"{DEMO}/alpaca_en_demo.json.gz", {}, 999, 0),         # LLaMA-Factory#7322: its own
    (formats.conversations, f"{DEMO}/glaive_toolcall_en_demo.json.gz", {}, 300, 0),
    (formats.conversations, f"{DEMO}/reason_tool_use_demo_50.jsonl.gz", {}, 50, 0),
    (formats.conversations, "instr_gpteacher", {}, 6931, 0),
    (formats.conversations, "instr_t0_templates", {}, 11128, 0),
    (formats.conversations, "gsm8k/test.jsonl.gz", MAPPED, 1319, 0),
    (formats.conversations, "instr_flan_cot/qasc_train.tsv.gz", {"1": "prompt", "2": "completion"}, 1084, 0),
    (formats.preferences, "pref_hh_rlhf_test", {}, 4642, 24),
    (formats.preferences, "pref_llamafactory_demo/dpo_en_demo.json.gz", {}, 300, 0),
    (formats.ratings, "pref_llamafactory_demo/kto_en_demo.json.gz", {}, 300, 0),
    (formats.problems, "gsm8k/test.jsonl.gz", {"question": "prompt"}, 1319, 0),
    (formats.problems, "humaneval", {}, 164, 0)],
    ids=lambda value: value if isinstance(value, str) else "")
def test_public_files_are_read_as_they_are(read, name, columns, good, bad):
    quarantine = Quarantine()
    assert len(read(str(Path(DATA) / name), quarantine, columns=columns)) == good
    assert len(quarantine) == bad


@pytest.mark.skipif(not DATA, reason="BLOOMERY_DATA is not set")
def test_tools_of_public_files_are_kept():
    found = formats.conversations(str(Path(DATA) / DEMO), Quarantine())
    assert sum(bool(one.tools) for one in found) == 239                                 # of 350 rows; the rest have []
    assert sum(len(turn.tool_calls) for one in found for turn in one.messages) == 211 + 68
    assert sum(bool(turn.thinking) for one in found for turn in one.messages) == 112
