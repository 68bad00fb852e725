"""Win rates of a model over the one before it, judged on the prompts both could answer."""

import pytest
from drawing_answers import chatting

from bloomery.core.errors import InputError
from bloomery.core.records import Conversation, Message, Preference
from bloomery.evaluate.winrate import Duels, asked

ASKED = [(Message("user", "What is iron?"),), (Message("user", "Why?"),)]


def test_prompts_are_asked_once_and_without_any_there_is_nothing_to_judge():
    pairs = [Preference(ASKED[0], "a", "b"), Preference(ASKED[0], "a", "c")]
    rows = [Conversation((*ASKED[1], Message("assistant", "So."))), Conversation(ASKED[0])]
    assert asked(rows, pairs, 9) == ASKED and asked(rows, pairs, 1) == ASKED[:1]
    with pytest.raises(InputError, match="nothing to judge"):
        asked(rows[1:], [], 9)


def test_each_model_is_compared_with_the_one_before_it():
    said: list[list[float]] = [[1.0, 5.0], [2.0, 5.0], [0.0, 9.0]]
    duels = Duels(lambda prompts, completions: [[score] for score in said[len(duels.scores)]], ASKED, 4)
    model, renderer = chatting(context=64)
    assert [duels.answer(name, model, renderer)["reward"] for name in ("base", "sft", "dpo")] == [3.0, 3.5, 4.5]
    found = duels.metrics()
    assert (found["sft.win_rate_over_base"], found["dpo.win_rate_over_sft"]) == (0.75, 0.5)
    assert found["sft.win_rate_over_base_low"] < 0.75 < found["sft.win_rate_over_base_high"] and len(found) == 8


def test_a_prompt_that_does_not_fit_one_model_is_compared_for_none():
    long = (Message("user", "iron " * 30),)
    duels = Duels(lambda prompts, completions: [[float(len(prompt[0].content))] for prompt in prompts],
                  [*ASKED, long], 2)
    means = [duels.answer(f"{context}", *chatting(context=context))["reward"] for context in (256, 40)]
    assert means[0] > means[1]
    assert len(duels.scores["256"]) == 3 and len(duels.scores["40"]) == 2
    assert duels.metrics()["40.win_rate_over_256"] == 0.5
