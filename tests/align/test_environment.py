"""A calculator inside an answer: what it computes, what it will not, and worlds of one's own."""

import pytest

from bloomery.align.environment import Calculator, computed, opened
from bloomery.core.errors import InputError
from bloomery.core.records import Message, Problem


@pytest.mark.parametrize(("expression", "value"), [
    ("48/2", "24"), ("1/4", "0.25"), ("2+3*4", "14"), ("-(2+3)", "-5"), ("2**10", "1024"), ("0.1+0.2", "0.3"),
    ("1/3", "0.333333"), ("2/0", "?"), ("9**9**9", "?"), ("__import__('os')", "?"), ("True+1", "?"), ("", "?"),
    ("1,2", "?"), ("(" * 500, "?")])
def test_arithmetic_is_exact_and_nothing_else_is_computed(expression, value):
    assert computed(expression) == value


def test_a_call_is_completed_and_other_equal_signs_are_left_alone():
    world, problem = Calculator(), Problem((Message("user", "48/2?"),), "24")
    assert world.reset(problem) == problem.prompt
    assert world.step("so <<48/2=").text == "24>>"
    assert world.step("x=").text == "" and world.step("it is 24") is None


def test_a_world_of_ones_own_comes_from_a_file(tmp_path):
    path = tmp_path / "world.py"
    path.write_text("from bloomery.align.environment import Reply\n\nclass Environment:\n    stops = ()\n"
                    "    def reset(self, problem):\n        return problem.prompt\n"
                    "    def step(self, said):\n        return Reply(reward=1.0)\n", encoding="utf-8")
    assert opened(str(path))().step("x").reward == 1.0 and opened("calculator") is Calculator
    path.write_text("Environment = 3\n", encoding="utf-8")
    with pytest.raises(InputError, match="no environment in this file"):
        opened(str(path))
    with pytest.raises(InputError, match="no such environment"):
        opened(str(tmp_path / "nowhere.py"))
