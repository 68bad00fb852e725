"""Rows become records, or are set aside with the reason; what is written is read back."""

import json

import pytest

from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, write_jsonl
from bloomery.core.records import Conversation, Document, Message, Preference, text_id
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
    ({"prompt": "hi"}, "no column messages, nor prompt and completion")])
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
    ({"prompt": "q", "chosen": "a"}, "no column rejected"), ({"chosen": "a", "rejected": "b"}, "no prompt"),
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
