"""Who says which answer is better: one of several, on one scale, and failures that are told."""

import json

import pytest
import torch
from drawing_data import prompts, reward, shortest

from bloomery.align.judging import RewardConfig, opened
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.core.records import Message, Problem
from bloomery.data.formats import problems
from bloomery.generate.scoring import RewardModel

ASKED = [Problem((Message("user", "What is 1 + 1?"),), "2", id="one"),
         Problem((Message("user", "What is 3 + 1?"),), "4", id="two")]
SAID = [["2", "It is 3"], ["four", "4", ""]]


def scores(tmp_path, asked=ASKED, said=SAID, **options):
    return opened(RewardConfig(**options), scales=tmp_path / "scales.json", compute=torch.float32)(asked, said)


@pytest.mark.parametrize(("given", "why"), [({}, "none"), ({"verifier": "exact", "judge": "x"}, "verifier and judge")])
def test_there_is_one_reward(given, why):
    with pytest.raises(ValueError, match=f"one reward is needed, not {why}"):
        RewardConfig(**given)


def test_a_verifier_knows_the_answers_of_its_prompts(tmp_path):
    assert scores(tmp_path, verifier="exact") == [[1, 0], [0, 1, 0]]
    unknown = [Problem(ASKED[0].prompt, "", id="mystery")]
    with pytest.raises(InputError) as error:
        scores(tmp_path, unknown, [["2"]], verifier="exact")
    assert error.value.where == "mystery"


def test_a_function_of_ones_own_is_given_the_problem_and_its_failures_are_told(tmp_path, capsys):
    found = [score for group in scores(tmp_path, function=str(shortest())) for score in group]
    assert found == pytest.approx([-1, -7, -4, -1, 0], abs=0.1)
    file = tmp_path / "breaks.py"
    file.write_text("def score(problem, answer):\n    return 1 / (problem.answer == answer)\n")
    assert scores(tmp_path, function=str(file)) == [[1, 0], [0, 1, 0]]
    assert "failed on 3 of 5 answers" in capsys.readouterr().err


def test_what_has_nothing_to_say_counts_nothing_where_numbers_are_needed(tmp_path):
    file = tmp_path / "silent.py"
    file.write_text("def score(problem, answer):\n    return len(answer) if answer == '2' else None\n")
    assert scores(tmp_path, function=str(file)) == [[1, 0], [0, 0, 0]]


@pytest.mark.parametrize("text", ["x = 1\n", "def score(answer):\n    return 1\n"])
def test_a_file_without_such_a_function_is_refused(tmp_path, text):
    file = tmp_path / "empty.py"
    file.write_text(text)
    with pytest.raises(InputError, match="no reward in this file"):
        scores(tmp_path, function=str(file))


def test_one_reward_model_says_what_it_says_and_several_share_a_scale_for_good(tmp_path):
    one, other = RewardModel(reward(3)), RewardModel(reward(4))
    asked = [problem.prompt for problem in ASKED]
    assert scores(tmp_path, models=[str(reward(3))]) == one(asked, SAID) and not (tmp_path / "scales.json").exists()
    both = {"models": [str(reward(3)), str(reward(4))]}
    found = [score for group in scores(tmp_path, **both) for score in group]
    assert sum(found) == pytest.approx(0, abs=1e-6)             # each member's mean over these answers is 0
    scales = json.loads((tmp_path / "scales.json").read_text())
    wanted = [[((a - scales[0][0]) / scales[0][1] + (b - scales[1][0]) / scales[1][1]) / 2 for a, b in
               zip(*group, strict=True)] for group in zip(one(asked, SAID), other(asked, SAID), strict=True)]
    assert found == pytest.approx([score for group in wanted for score in group], abs=1e-5)
    again = scores(tmp_path, ASKED[:1], [["5", "2"]], **both)   # other answers, the same scale
    assert json.loads((tmp_path / "scales.json").read_text()) == scales
    assert sum(again[0]) != pytest.approx(0, abs=1e-6)
    least = scores(tmp_path, combine="min", **both)
    assert all(low <= mean + 1e-6 for group, own in zip(least, [found[:2], found[2:]], strict=True)
               for low, mean in zip(group, own, strict=True))


def test_known_answers_are_read_beside_the_prompts():
    assert [p.answer for p in problems(str(prompts()), Quarantine())][:4] == ["0", "1", "2", "1"]
