"""Code that a model wrote: right is right, and what would cheat, hang, read or write elsewhere fails."""

import gzip
import json
import os
from pathlib import Path

import pytest

from bloomery.align.limits import TookTooLong
from bloomery.align.sandbox import known_tests, passes, program
from bloomery.core.records import Message, Problem

DATA = Path(os.environ.get("BLOOMERY_DATA", "absent"))


def task(tests, prompt="", entry=""):
    return json.dumps({"tests": tests, "prompt": prompt, "entry_point": entry})


def test_right_passes_and_wrong_says_why():
    assert passes("def f(x):\n    return x + 1", "assert f(1) == 2") is None
    assert passes("def f(x):\n    return x", "assert f(1) == 2, 'off by one'") == "AssertionError: off by one"
    assert "SyntaxError" in passes("def f(:", "f()") and "NameError" in passes("x = 1", "f()")
    assert "ZeroDivisionError" in passes("def f():\n    return 1 / 0", "f()")


@pytest.mark.parametrize(("code", "tests"), [
    ("from collections import Counter\ndef f(s): return Counter(s)", "assert f('aab') == {'a': 2, 'b': 1}"),
    ("def f(xs): xs.sort()", "a = [2, 1]\nf(a)\nassert a == [1, 2]"),
    ("def f(d): d['k'] = (1, {2})", "a = {}\nf(a)\nassert a == {'k': (1, {2})}"),
    ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2] and sum(f(4)) == 6"),
    ("class P:\n    def __init__(self, a): self.a = a\n    def twice(self): return 2 * self.a\n"
     "    def __len__(self): return 5\ndef f(ps): return max(p.a for p in ps)",
     "p = P(3)\nassert f([p, P(4)]) == 4 and p.a == 3 and p.twice() == 6 and len(p) == 5\np.a = 9\nassert f([p]) == 9"),
    ("def f(x):\n    if x < 0:\n        raise KeyError(x)",
     "try:\n    f(-1)\nexcept KeyError:\n    pass\nelse:\n    assert 0"),
    ("def f(): return b'x', 1j, frozenset([1]), range(2), float('inf'), 10 ** 5000, int",
     "assert f() == (b'x', 1j, frozenset([1]), range(2), float('inf'), 10 ** 5000, int)"),
    ("def sum(a, b): return a + b", "assert sum(1, 2) == 3"),
    ("import math\ndef f(x): return math.sqrt(x)", "assert math.isclose(f(2), 2 ** .5)"),
    ("import re\ndef f(s): return re.match('a', s)", "assert f('abc') and not f('b')"),
    ("def f():\n    with open('note.txt', 'w') as file:\n        file.write('x')\n    return open('note.txt').read()",
     "assert f() == 'x'"),
])
def test_what_honest_code_does_works(code, tests):
    assert passes(code, tests) is None


@pytest.mark.parametrize("code", [
    "class Yes:\n    def __eq__(self, other): return True\ndef f(): return Yes()",
    "class Yes(int):\n    def __eq__(self, other): return True\ndef f(): return Yes(3)",
    "def f(): return 3\ndef set(x): return 1\ndef len(x): return 1\nimport builtins\nbuiltins.set = set",
    "import sys\ndef f(): sys.exit(0)", "import os\ndef f(): os._exit(0)", "import os\nos._exit(0)",
    "import sys\ndef f():\n    frame = sys._getframe()\n    while frame.f_back: frame = frame.f_back\n"
    "    return {2} if '2' in str(frame.f_code.co_consts) else 3",
    "import gc\ndef f(): return [x for x in gc.get_objects() if isinstance(x, str) and 'assert' in x]",
    "print('passed')\ndef f(): return 3",
])
def test_cheats_find_no_test_to_cheat(code):
    assert passes(code, "assert set([f()]) == {2}") is not None


def test_a_module_that_tests_use_is_the_real_one():
    code = "class math:\n    @staticmethod\n    def isclose(a, b): return True\ndef f(): return 3"
    assert passes(code, "import math\nassert math.isclose(f(), 2)") is not None


@pytest.mark.parametrize("body", [
    "open('/etc/passwd').read()", "open('../tests', 'w')", "open('/tmp/sandbox-test', 'w')",
    "__import__('os').listdir('/')",
    "__import__('os').system('true')", "__import__('subprocess').run(['true'])", "__import__('os').fork()",
    "__import__('socket').socket()", "__import__('ctypes').CDLL(None)", "__import__('os').kill(1, 0)",
    "__import__('os').remove('/etc/hostname')", "__import__('os').symlink('/etc', 'x')",
    "open('/proc/%d/mem' % __import__('os').getppid(), 'rb')", "__import__('os').chdir('/')",
    "__import__('os').rename('note', '/tmp/note')", "open(__import__('os').environ['HOME'])", "bytearray(1 << 40)",
])
def test_nothing_outside_its_folder_can_be_reached(body):
    assert passes(f"def f():\n    {body}\n    return 1", "assert f() == 1", memory=256) is not None


AUDITED = """
import os, posixpath, builtins, sys
def f():
    posixpath._joinrealpath = posixpath.realpath = os.path.realpath = lambda *a, **k: (os.getcwd(), True)
    builtins.any = builtins.all = lambda *a: True
    for path in ("/etc/hostname", b"/etc/hostname", "x/../../../../etc/hostname"):
        try:
            open(path)
        except PermissionError as error:
            assert "not allowed here" in str(error), error
        else:
            return path
    return 1
"""


def test_the_audit_hook_uses_nothing_that_code_could_replace():
    assert passes(AUDITED, "assert f() == 1") is None


def test_files_are_small_and_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    big = "def f():\n    with open('big', 'wb') as file:\n        file.write(bytes(1 << 24))\n    return 1"
    assert passes(big, "assert f() == 1") is not None and not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", ["def f():\n    while True: pass", "import time\ndef f(): time.sleep(60)",
                                  "def f():\n    while True:\n        try:\n            while True: pass\n"
                                  "        except BaseException: pass"])
def test_what_does_not_end_is_ended(code):
    with pytest.raises(TookTooLong):
        passes(code, "f()", seconds=1)


def test_an_answer_is_its_last_fence_and_continues_the_prompt_unless_it_repeats_it():
    prompt = "import math\ndef f(x):\n    \"\"\"Doc.\"\"\"\n"
    asked = {"prompt": prompt, "entry_point": "f", "tests": ""}
    assert program("    return x", asked) == prompt + "    return x"
    assert program("Sure:\n```python\ndef f(x):\n    return 2\n```\nDone.", asked) == \
        "import math\ndef f(x):\n    return 2\n"
    assert passes("    return math.floor(x)", task("assert f(2.5) == 2", prompt, "f")) is None


def test_what_the_prompt_defines_is_the_prompts():
    prompt = "def even(x):\n    return x % 2 == 0\ndef f(x):\n    \"\"\"The next even number.\"\"\"\n"
    tests = task("assert even(f(3))", prompt, "f")
    assert passes("    return x + 1", tests) is None
    assert passes("def even(x): return True\ndef f(x): return 3", tests) is not None


def test_rows_of_all_three_kinds_have_tests():
    def row(answer="", **columns):
        return json.loads(known_tests(Problem((Message("user", "def f():\n"),), answer, columns=columns)) or "{}")

    assert row(test="def check(c): pass", entry_point="f") == {
        "tests": "def check(c): pass\ncheck(f)\n", "prompt": "def f():\n", "entry_point": "f"}
    assert row(test_list=["a", "b"], test_setup_code="import x")["tests"] == "import x\na\nb\n"
    assert row(tests="assert f()")["tests"] == row("assert f()")["tests"] == "assert f()" and row() == {}


def read(*parts):
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"BLOOMERY_DATA has no {parts[0]}")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def asked(row):
    return known_tests(Problem((Message("user", row.get("prompt") or row["text"]),), "", columns=row))


def test_real_solutions_pass_and_broken_ones_do_not():
    """Every 8th of HumanEval and every 40th of MBPP; all 164 and 974 pass (docs/rewards.md)."""
    for row in read("humaneval", "HumanEval.jsonl.gz")[::8]:
        assert passes(row["canonical_solution"], asked(row)) is None, row["task_id"]
        assert passes("    return [None]\n", asked(row)) is not None, row["task_id"]
    for row in read("mbpp", "mbpp.jsonl.gz")[::40]:
        assert passes(row["code"], asked(row)) is None, row["task_id"]
