"""Turns as other tools write them; what a turn carries besides its words is kept, and nothing breaks the reader."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.core.records import Conversation, Document, Message, Preference, Problem, Rating
from bloomery.data.detect import FORMATS
from bloomery.data.dialects import messages, transcript
from bloomery.data.formats import conversation_row, message_rows, record

CALL = {"name": "add", "arguments": {"a": 1, "b": 2}}
CALLED = {"type": "function", "function": CALL}


def test_roles_of_sharegpt():
    turns = messages([{"from": "system", "value": "s"}, {"from": "human", "value": "q"},
                      {"from": "function_call", "value": json.dumps(CALL)}, {"from": "observation", "value": "3"},
                      {"from": "gpt", "value": "a"}])
    assert turns == (Message("system", "s"), Message("user", "q"), Message("assistant", "", tool_calls=(CALLED,)),
                     Message("tool", "3"), Message("assistant", "a"))


def test_parts_of_a_message():
    parts = [{"type": "reasoning", "value": "hm"}, {"type": "text", "text": "one "}, {"type": "text", "value": "two"},
             {"type": "tool_call", "value": json.dumps(CALL)}]
    assert messages([{"role": "assistant", "content": parts}]) == (
        Message("assistant", "one two", None, "hm", (CALLED,)),)


def test_openai_calls_and_thoughts():
    turn = {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALLED], "weight": None}
    assert messages([turn]) == (Message("assistant", "", None, "hm", (CALLED,)),)
    assert messages([turn])[0].spoken == f"<think>\nhm\n</think>\n\n<tool_call>\n{json.dumps(CALL)}\n</tool_call>"
    assert Message("assistant", "plain").spoken == "plain"


@pytest.mark.parametrize(("turn", "reason"), [
    ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "a part of a message that is not read"),
    ({"role": "user", "content": ["words"]}, "a part of a message that is not read"),
    ({"role": "user", "content": 3}, "a message without role and content"),
    ({"role": ["user"], "content": "q"}, "unknown role"), ({"content": "q"}, "a message without role and content"),
    ({"role": "assistant", "content": "", "tool_calls": [{"arguments": {}}]}, "a tool call without a name"),
    ({"from": "function_call", "value": "no JSON"}, "a tool call without a name"),
    ({"role": "user", "content": "q", "weight": -1}, "a weight that is not a number from 0 up"),
    ({"role": "user", "content": "q", "weight": "much"}, "a weight that is not a number from 0 up"),
    ("words", "a message without role and content")])
def test_what_cannot_be_read_says_why(turn, reason):
    found = messages([{"role": "user", "content": "before"}, turn])
    assert isinstance(found, str) and found.startswith(reason)


def test_weights_of_turns():
    rows = [{"role": "assistant", "content": "a", "weight": 0}, {"role": "assistant", "content": "b", "train": True},
            {"role": "assistant", "content": "c"}]
    assert [turn.weight for turn in messages(rows)] == [0.0, 1.0, None]


def test_a_transcript_of_hh_rlhf():
    text = "\n\nHuman: hi\n\nAssistant: hello\n\nthere\n\nHuman: bye\n\nAssistant:"
    assert transcript(text) == (Message("user", "hi"), Message("assistant", "hello\n\nthere"), Message("user", "bye"))
    row = {"chosen": text + " bye", "rejected": text + " go"}
    assert record(row, "1") == Preference(transcript(text), "bye", "go", "", "1")
    assert messages("Human: hi", "user") == (Message("user", "Human: hi"),)             # a text that only speaks of it


def test_an_instruction_its_input_and_what_came_before():
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be brief.", "history": [["Hi", "Hello"]]}
    assert record(row, "").messages == (
        Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"),
        Message("user", "Add.\n\n1 2"), Message("assistant", "3"))
    assert record(row | {"history": "x"}, "") == "history is not a list of [instruction, answer]"
    assert record(row | {"input": 3}, "") == "instruction or input is not a string"


def test_a_system_column_stands_first_once():
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "system": "s"}
    assert [turn.role for turn in record(row, "").messages] == ["system", "user", "assistant"]
    row["messages"].insert(0, {"role": "system", "content": "own"})
    assert [turn.content for turn in record(row, "").messages] == ["own", "q", "a"]
    pair = {"prompt": "q", "chosen": [*row["messages"][1:]], "rejected": [row["messages"][1], {"role": "assistant",
            "content": "b"}], "system": "s"}
    assert record(pair, "").prompt == (Message("system", "s"), Message("user", "q"))


def test_everything_a_conversation_carries_is_written_and_read_back():
    turns = (Message("user", "q"), Message("assistant", "a", 0.5, "hm", (CALLED,)))
    told = Conversation(turns, "sums", "7", 2.0, "train", "web", ({"type": "function", "function": {"name": "add"}},))
    assert record(json.loads(json.dumps(conversation_row(told))), "") == told
    plain = Conversation((Message("user", "q"), Message("assistant", "a")), "sums", "7")
    assert conversation_row(plain) == {"messages": message_rows(plain.messages), "task": "sums", "id": "7"}
    assert message_rows(plain.messages) == [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


WORDS = ["user", "assistant", "human", "gpt", "[]", "{}", "text", "\n\nHuman:", "\n\nAssistant:", "[" * 100_000,
         "\n\nHuman: x\n\nAssistant: y"]
KEYS = ["role", "from", "content", "value", "type", "text", "tool_calls", "function", "name", "weight"]
TURN = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=3)})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.just(10**400) | st.text(max_size=6) | st.sampled_from(WORDS) |
    st.lists(TURN, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner), max_leaves=12)
COLUMNS = sorted({name for forms in FORMATS.values() for form in forms for name in (*form.needs, *form.also)})


@settings(max_examples=100)
@given(st.sampled_from([form for forms in FORMATS.values() for form in forms]), st.data())
def test_any_row_is_a_record_or_a_reason(form, data):
    columns = {*form.needs, *data.draw(st.sets(st.sampled_from([*COLUMNS, "weight", "tools", "answer"]), max_size=2))}
    found = record({name: data.draw(VALUES) for name in sorted(columns)}, "place")
    kinds = Document | Conversation | Preference | Rating | Problem
    assert isinstance(found, kinds) or isinstance(found, str) and found
