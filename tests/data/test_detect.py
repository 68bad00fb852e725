"""The format is told by the columns; what is unclear is one error that says what was found and what to write."""

import pytest

from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, write_jsonl
from bloomery.core.records import Message
from bloomery.data import formats
from bloomery.data.detect import FORMATS, candidates

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHARED = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
ROWS = {
    "messages": {"messages": TURNS}, "prompt-completion": {"prompt": "q", "completion": "a"},
    "ShareGPT": {"conversations": SHARED}, "Alpaca": {"instruction": "q", "input": "", "output": "a"},
    "Dolly": {"instruction": "q", "context": "", "response": "a"}}


@pytest.fixture
def folder(tmp_path):
    """`folder(name, rows)` writes a file and is its path."""
    def write(rows, name="a.jsonl"):
        write_jsonl(tmp_path / name, rows)
        return str(tmp_path / name)
    return write


@pytest.mark.parametrize("name", ROWS)
def test_every_conversation_format_is_known_by_its_columns_and_said(folder, name, capsys):
    [found] = formats.conversations(folder([ROWS[name]]), Quarantine())
    assert found.messages == (Message("user", "q"), Message("assistant", "a"))
    said = capsys.readouterr().err
    assert f"{name} format by the columns" in said and "not read" not in said


def test_the_table_has_a_row_for_each_format_and_no_two_are_alike():
    for forms in FORMATS.values():
        assert len({form.needs for form in forms}) == len({form.name for form in forms}) == len(forms)
    for kind, forms in FORMATS.items():
        for form in forms:                                  # its own columns always mean itself
            assert candidates(kind, frozenset(form.needs)) == [form]


def test_the_format_that_needs_most_is_meant():
    names = frozenset({"prompt", "chosen", "rejected", "messages", "score"})            # UltraFeedback's columns
    assert [form.name for form in candidates("preferences", names)] == ["preference"]
    assert [form.name for form in candidates("conversations", names)] == ["messages"]
    names = frozenset({"data_source", "prompt", "reward_model", "extra_info"})
    assert [form.name for form in candidates("problems", names)] == ["verl"]


def test_the_prompt_of_a_pair_is_no_conversation(folder):
    asked, (chosen, rejected) = SHARED * 2 + SHARED[:1], [{"from": "gpt", "value": answer} for answer in "ab"]
    path = folder([{"conversations": asked, "chosen": chosen, "rejected": rejected}])
    with pytest.raises(InputError) as error:
        formats.conversations(path, Quarantine())
    assert "are they preferences" in error.value.hint
    assert len(formats.preferences(path, Quarantine())) == 1


def test_each_file_of_a_folder_may_have_a_format_of_its_own(folder, tmp_path):
    for number, row in enumerate(ROWS.values()):
        folder([row], f"{number}.jsonl")
    assert len(formats.conversations(str(tmp_path), Quarantine())) == len(ROWS)


def test_a_strange_file_beside_good_ones_is_an_error(folder, tmp_path):
    """Pain 14, LLaMA-Factory#4236, #7322: which file, which row, what is there, what is expected, which option."""
    folder([ROWS["Alpaca"]])
    folder([{"question": "q", "reply": "a"}], "b.jsonl")
    with pytest.raises(InputError) as error:
        formats.conversations(str(tmp_path), Quarantine())
    for part in ("b.jsonl:1", "question, reply", "`prompt`, `completion`",
                 "columns.question=prompt columns.reply=completion"):
        assert part in str(error.value)


def test_a_file_of_another_kind_says_for_whom_it_is(folder):
    path = folder([{"text": "words"}])
    with pytest.raises(InputError, match="no row can be used") as error:
        formats.conversations(path, Quarantine())
    assert "are they documents, for curate" in error.value.hint
    with pytest.raises(InputError) as error:
        formats.preferences(folder([ROWS["Dolly"]]), Quarantine())
    assert "are they conversations, for sft" in error.value.hint


def test_two_formats_in_one_row_must_be_settled(folder):
    path = folder([ROWS["messages"] | {"prompt": "other", "completion": "words"}])
    with pytest.raises(InputError, match="fit more than one format") as error:
        formats.conversations(path, Quarantine())
    assert "columns.messages=messages, or columns.prompt=prompt columns.completion=completion" in error.value.hint
    for column, first in (("messages", "q"), ("prompt", "other")):
        [found] = formats.conversations(path, Quarantine(), columns={column: column})
        assert found.messages[0].content == first


def test_four_formats_in_one_row_can_be_settled(folder):
    path = folder([ROWS["messages"] | {"prompt": "q", "completion": "a", "label": True, "kto_tag": False}])
    with pytest.raises(InputError, match="fit more than one format") as error:
        formats.ratings(path, Quarantine())
    assert "columns.messages=messages columns.kto_tag=kto_tag" in error.value.hint
    [found] = formats.ratings(path, Quarantine(), columns={"messages": "messages", "label": "label"})
    assert found.desirable


def test_columns_are_mapped(folder, capsys):
    path = folder([{"question": "q", "reply": "a", "kind_of": "sums", "prompt": "not this", "extra": 1}])
    [found] = formats.conversations(path, Quarantine(), columns={"question": "prompt", "reply": "completion",
                                                                "kind_of": "task"})
    assert (found.messages[0].content, found.task) == ("q", "sums")
    assert "not read: extra" in capsys.readouterr().err


@pytest.mark.parametrize(("columns", "parts"), [
    ({"question": "promt"}, ("no format has a column promt", "did you mean prompt?")),
    ({"question": "prompt", "reply": "prompt"}, ("two columns are mapped to prompt",)),
    ({"question": "prompt", "reply": "completion", "sort": "task"}, ("no row has the column sort", "question, reply")),
    ({"question": "prompt", "replay": "completion"}, ("no row has the mapped column replay",))])
def test_a_wrong_mapping_is_an_error(folder, columns, parts):
    path = folder([{"question": "q", "reply": "a"}])
    with pytest.raises(InputError) as error:
        formats.conversations(path, Quarantine(), columns=columns)
    assert all(part in str(error.value) for part in parts)


def test_a_column_of_nothing_is_no_column(folder):
    path = folder([{"messages": None} | ROWS["Alpaca"] | {"system": None}])             # as Arrow fills it
    assert len(formats.conversations(path, Quarantine())) == 1
