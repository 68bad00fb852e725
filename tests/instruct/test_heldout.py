"""Held-out tasks leave training whole, and are asked with other examples before them that are not trained on."""

import pytest

from bloomery.core.errors import InputError
from bloomery.core.records import Conversation, Message
from bloomery.instruct.heldout import few_shot, parted
from bloomery.instruct.mixture import forms
from bloomery.text.chat import Renderer
from bloomery.text.tokenizer import SMALLEST, train_tokenizer


def rows_of(task: str, count: int) -> list[Conversation]:
    return [Conversation((Message("system", f"be {i}"), Message("user", f"ask {i}"),
                          Message("assistant", f"say {i}", thinking="so")), task, f"{task}-{i}") for i in range(count)]


def test_held_out_tasks_leave_training_whole_and_keep_their_direct_form():
    tasks = ("t0/nli", "t0/qa", "cot")
    pool = [form for task in tasks for record in rows_of(task, 3) for form in forms(record, 0.5, 0)]
    training, measured = parted(pool, ["t0/*"])
    assert {record.task for record in training} == {"cot"} and len(training) == 6
    assert set(measured) == {"t0/nli", "t0/qa"}
    assert [record.messages[-1].content for record in measured["t0/qa"]] == ["say 0", "say 1", "say 2"]


def test_nothing_held_out_is_everything_trained():
    pool = rows_of("a", 2)
    assert parted(pool, []) == (pool, {})


@pytest.mark.parametrize(("names", "what", "hint"), [(["nil"], "no such task", "nli"), (["*"], "every task", "leave")])
def test_names_that_cannot_be_meant_are_refused(names, what, hint):
    with pytest.raises(InputError, match=what) as error:
        parted(rows_of("nli", 2) + rows_of("qa", 2), names)
    assert hint in error.value.hint


def test_few_shot_examples_come_first_and_weigh_nothing():
    examples = rows_of("a", 12)
    made = few_shot(examples, 3, seed=0)
    assert len(made) == 12
    for record, own in zip(made, examples, strict=True):
        assert record.messages[0] == own.messages[0] and record.messages[-2:] == own.messages[1:]
        shown = record.messages[1:-2]
        assert [turn.role for turn in shown] == ["user", "assistant"] * 3
        assert all(turn.weight == 0 for turn in shown if turn.role == "assistant")
        said = [turn.content for turn in record.messages if turn.role == "user"]
        assert len(set(said)) == 4                                          # three others, never itself
    assert few_shot(examples, 3, seed=0) == made
    assert few_shot(examples, 3, seed=1) != made
    assert few_shot(examples, 3, limit=5) == made[:5]


def test_shots_are_as_many_as_there_are():
    examples = rows_of("a", 2)
    assert few_shot(examples, 0) == examples
    assert len(few_shot(examples, 5)[0].messages) == 5
    with pytest.raises(ValueError, match="shots"):
        few_shot(examples, -1)


def test_only_the_answer_that_is_asked_for_is_scored():
    tokenizer = train_tokenizer(["ask say be so 0123456789"] * 4, vocabulary=SMALLEST)
    examples = rows_of("a", 6)
    shown, alone = (Renderer(tokenizer).conversation(rows[0].messages) for rows in (few_shot(examples, 2), examples))
    assert sum(shown.weights) == sum(alone.weights) > 0
    last = max(i for i, weight in enumerate(shown.weights) if weight)
    scored = [i for i, weight in enumerate(shown.weights) if weight]
    assert scored == list(range(last - len(scored) + 1, last + 1))          # one run, at the end
