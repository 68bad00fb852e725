"""Every vector that has something built to answer it, and the runner that says so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vectors.__main__ import HERE, Outcome, judge, load, main, table
from tests.vectors.adapters import ADAPTERS
from tests.vectors.not_built import NotBuilt

VECTORS = dict(load(HERE))
BUILT = [name for name, vector in VECTORS.items() if vector["algorithm"] in ADAPTERS]
SQUARE = {"algorithm": "square", "inputs": {"x": [1.0, 2.0]}, "expected": {"y": [1.0, 4.0]},
          "tolerance": {"atol": 1e-9, "rtol": 0}}


@pytest.mark.parametrize("name", BUILT)
def test_vector(name):
    outcome = judge(name, VECTORS[name], HERE)
    if outcome.verdict == "not built":
        pytest.skip(outcome.why)
    assert outcome.verdict == "passed", outcome.why


def test_every_adapter_has_a_vector_and_passes_one():
    passed = {VECTORS[name]["algorithm"] for name in BUILT if judge(name, VECTORS[name], HERE).verdict == "passed"}
    assert passed == set(ADAPTERS)


def square(inputs: dict, folder: Path) -> dict:
    return {"y": [x * x for x in inputs["x"]]}


@pytest.mark.parametrize(("algorithm", "answer", "verdict"), [
    ("square", square, "passed"),
    ("square", lambda inputs, folder: {"y": [1.0, 4.1]}, "failed"),
    ("square", lambda inputs, folder: {"y": [1.0]}, "failed"),
    ("square", lambda inputs, folder: {"other": 1.0}, "failed"),            # nothing of what was asked
    ("square", lambda inputs, folder: {"other": 1.0, "y": [1.0, 4.0]}, "passed"),
    ("square", lambda inputs, folder: 1 / 0, "failed"),
    ("cube", square, "not built"),
])
def test_verdicts(algorithm, answer, verdict):
    assert judge("square__00", SQUARE | {"algorithm": algorithm}, HERE, {"square": answer}).verdict == verdict


def test_an_adapter_may_say_that_a_variant_is_not_built():
    def refuses(inputs: dict, folder: Path) -> dict:
        raise NotBuilt("complex squares")

    assert judge("square__00", SQUARE, HERE, {"square": refuses}) == \
        Outcome("square__00", "square", "not built", "complex squares")


def test_the_runner_counts_failures_and_what_is_not_built(tmp_path, capsys):
    good = json.loads((HERE / "rmsnorm__00.json").read_text())
    bad = json.loads(json.dumps(good))
    bad["expected"]["out"][0][0] += 1e-6
    strange = good | {"algorithm": "perpetual_motion"}
    for name, content in (("rmsnorm__00", good), ("rmsnorm__01", bad), ("strange", strange), ("index", {"count": 3})):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 passed, 1 failed"
    assert any(line.split() == ["perpetual_motion", "-", "-", "1"] for line in lines)
    assert any(line.strip().startswith("rmsnorm__01: failed: /out[0][0]: got") for line in lines)

    (tmp_path / "rmsnorm__01.json").unlink()
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 0 failed"


def test_a_folder_without_vectors_is_a_usage_error(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_the_table_shows_every_algorithm_once():
    lines = table([Outcome("a__00", "a", "passed"), Outcome("a__01", "a", "failed", "x"),
                   Outcome("b__00", "b", "not built")])
    assert [line.split()[0] for line in lines] == ["algorithm", "a", "a__01:", "b"]


def test_the_module_runs_as_a_command():
    done = subprocess.run([sys.executable, "-m", "tests.vectors", str(HERE)], capture_output=True, text=True,
                          cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].endswith(" passed, 0 failed")
