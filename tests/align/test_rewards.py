"""Rewards: parts with weights, what nobody says, what length costs, and functions in three signatures."""

import math

import pytest
import torch
from drawing_data import reward

from bloomery.align.limits import TookTooLong, within
from bloomery.align.rewards import PartConfig, RewardsConfig, opened, overlong
from bloomery.core.config import Settings
from bloomery.core.errors import InputError
from bloomery.core.records import Message, Problem
from bloomery.core.toml import tomllib

ASKED = [Problem((Message("user", "1 + 1?"),), "2", "sums", "one", {"level": 1}),
         Problem((Message("user", "3 + 1?"),), "4", "sums", "two", {"level": 2, "extra_info": {"index": 7}})]
SAID = [["2", "It is 3"], ["<think>hm</think><answer>4</answer>", "4"]]
ENDED = [[True, False], [True, True]]


def told(tmp_path, said=SAID, lengths=None, asked=ASKED, ended=ENDED, **options):
    rewards = opened(RewardsConfig(**options), scales=tmp_path / "scales.json", compute=torch.float32)
    return rewards(asked, said, ended, lengths=lengths)


def file(tmp_path, text, name="own.py"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


class Recipe(Settings):
    reward: RewardsConfig


def test_a_recipe_says_it_in_one_line_or_in_parts():
    one = Recipe(**tomllib.loads('[reward]\nverifier = "number"'))
    more = Recipe(**tomllib.loads('[reward]\nverifier = "number"\n'
                                  '[reward.parts.form]\nverifier = "tags"\nweight = 0.2'))
    only = Recipe(**tomllib.loads('[reward.parts.a]\nverifier = "tags"\n[reward.parts.b]\nverifier = "json"'))
    assert list(one.reward.named) == ["number"] and list(more.reward.named) == ["number", "form"]
    assert more.reward.named["form"].weight == 0.2 and list(only.reward.named) == ["a", "b"]


@pytest.mark.parametrize(("options", "why"), [
    ({}, "one reward is needed, not none"), ({"verifier": "exact", "judge": "x"}, "verifier and judge"),
    ({"verifier": "number", "parts": {"number": {"verifier": "tags"}}}, "two parts are called number"),
    ({"verifier": "number", "overlong": 1, "soft_limit": 9, "hard_limit": 9}, "soft_limit < hard_limit"),
    ({"parts": {"a": {}}}, "one reward is needed")])
def test_what_makes_no_reward_is_refused(options, why):
    with pytest.raises(ValueError, match=why):
        RewardsConfig(**options)


def test_parts_are_weighted_and_told_apart(tmp_path):
    found = told(tmp_path, verifier="number", parts={"form": PartConfig(verifier="tags", weight=0.5)})
    assert found.total == [[1, 0], [1.5, 1]] and found.parts == {"number": [[1, 0], [1, 1]], "form": [[0, 0], [1, 0]]}
    figures = found.figures()
    assert figures["rewards/number/mean"] == 0.75 and figures["rewards/form/std"] == pytest.approx(math.sqrt(3) / 4)
    assert figures["rewards/failures"] == figures["rewards/missing"] == 0


def test_a_missing_end_length_and_overlong_answers_cost(tmp_path):
    found = told(tmp_path, lengths=[[10, 60], [80, 100]], verifier="number", missing_end=0.25, length_cost=0.01,
                 overlong=2, soft_limit=60, hard_limit=100)
    assert [score for group in found.total for score in group] == pytest.approx(
        [1 - 0.1, -0.25 - 0.6, 1 - 0.8 - 1, 1 - 1 - 2])
    assert overlong(10, 20, 30) == 0 and overlong(25, 20, 30) == 0.5 and overlong(99, 20, 30) == 1
    with pytest.raises(ValueError, match="needs the lengths"):
        told(tmp_path, verifier="number", length_cost=0.1)


def test_clipping_is_of_the_sum_before_what_length_costs(tmp_path):
    found = told(tmp_path, verifier="number", weight=10, clip=2, missing_end=1)
    assert found.total == [[2, -1], [2, 2]]


TRL = ("def even(prompts, completions, level, **rest):\n"
       "    assert prompts == ['1 + 1?', '1 + 1?', '3 + 1?', '3 + 1?'] and rest['answer'] == ['2', '2', '4', '4']\n"
       "    return [None if one == 2 else len(text) for text, one in zip(completions, level)]\n")


def test_what_nobody_says_is_missing_and_what_one_part_says_counts(tmp_path):
    own = file(tmp_path, TRL)
    assert told(tmp_path, function=own).total == [[1, 7], [None, None]]
    both = told(tmp_path, function=own, parts={"right": {"verifier": "number"}})
    assert both.total == [[2, 7], [1, 1]] and both.figures()["rewards/function/mean"] == 4
    assert told(tmp_path, function=own).figures()["rewards/missing"] == 0.5


def test_a_trl_function_may_be_given_messages(tmp_path):
    own = file(tmp_path, "def f(completions, prompts, **rest):\n"
                         "    return [len(one[0]['content']) + len(q) for one, q in zip(completions, prompts)]\n")
    assert told(tmp_path, function=own, conversational=True).total[0] == [2, 8]


def test_verls_signature_is_called_as_verl_does(tmp_path):
    own = file(tmp_path, "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n"
                         "    assert data_source == 'sums' and 'level' in extra_info or extra_info['index'] == 7\n"
                         "    return {'score': float(solution_str == ground_truth), 'acc': 1}\n")
    found = told(tmp_path, function=own)
    assert found.total == [[1, 0], [0, 1]] and found.failures == {"function": 0}
    short = file(tmp_path, "def reward(solution_str, ground_truth):\n    return 3\n")
    assert told(tmp_path, function=short).total[0] == [3, 3]


@pytest.mark.parametrize(("body", "why"), [
    ("raise RuntimeError(completions)", "RuntimeError"), ("return [1]", "1 rewards for 4 answers"),
    ("return [float('nan')] * 4", "not finite"), ("return ['x'] * 4", "ValueError"),
    ("while True: pass", "TookTooLong")])
def test_a_function_that_fails_is_counted_and_never_ends_the_run(tmp_path, capsys, body, why):
    own = file(tmp_path, f"def f(prompts, completions):\n    {body}\n")
    found = told(tmp_path, function=own, seconds=0.05)
    assert found.total == [[0, 0], [0, 0]] and found.figures()["rewards/failures"] == 1
    assert f"failed on 4 of 4 answers, which score 0: {why} 4" in capsys.readouterr().err


def test_failures_are_said_when_they_are_new(tmp_path, capsys):
    own = file(tmp_path, "def score(problem, answer):\n    return 1 / (problem.answer == answer)\n")
    rewards = opened(RewardsConfig(function=own), scales=tmp_path / "s.json", compute=torch.float32)
    counts = [rewards(ASKED, SAID, ENDED).failures["function"] for _ in range(2)]
    assert counts == [2, 2] and capsys.readouterr().err.count("warning") == 1


@pytest.mark.parametrize(("text", "why"), [
    ("x = 1\n", "defines no function"), ("def f(answer):\n    return 1\n", "defines no function"),
    ("def f(a, b): pass\ndef g(a, b): pass\n", "of f, g any could be meant"), ("1 / 0\n", "ZeroDivisionError")])
def test_a_file_without_one_reward_is_refused(tmp_path, text, why):
    with pytest.raises(InputError) as error:
        told(tmp_path, function=file(tmp_path, text))
    assert why in error.value.why


def test_of_several_one_is_named(tmp_path):
    own = file(tmp_path, "from math import gcd\ndef f(a, b):\n    return 1\ndef g(a, b):\n    return 2\n")
    assert told(tmp_path, function=own, name="g").total[0] == [2, 2]


def test_a_part_is_standardised_once_and_for_all(tmp_path):
    own = file(tmp_path, "def score(problem, answer):\n    return len(answer)\n")
    first = told(tmp_path, function=own, standardise=True)
    again = told(tmp_path, said=[["22", "4444"], ["", "1"]], function=own, standardise=True)
    values = [score for group in first.total for score in group]
    assert sum(values) == pytest.approx(0) and sum(v * v for v in values) / 4 == pytest.approx(1)
    assert again.total[0][1] - again.total[0][0] == pytest.approx((first.total[0][1] - first.total[0][0]) * 2 / 6)
    with pytest.raises(InputError, match="cannot be standardised"):
        told(tmp_path, verifier="json", standardise=True, said=[["x", "x"], ["x", "x"]])


def test_an_ensemble_tells_how_far_its_members_are_apart(tmp_path):
    found = told(tmp_path, models=[str(reward(3)), str(reward(4))])
    assert found.disagreement > 0 and found.figures()["rewards/disagreement"] == found.disagreement
    assert told(tmp_path, verifier="number").disagreement is None


def test_a_time_limit_ends_what_is_inside_and_leaves_what_was_there():
    with pytest.raises(TookTooLong), within(5), within(0.05):
        while True:
            pass
    with within(0.05):
        pass
    assert sum(range(10**6)) == 499999500000            # longer than the limit that is over
