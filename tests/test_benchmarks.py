"""The machinery of comparisons: order, medians, gates, what is not run, and the line other programs read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import harness, machine, scaling, shakespeare
from benchmarks.harness import (
    PASSED,
    Broken,
    Options,
    Row,
    compared,
    equal_steps,
    fresh,
    low_precision,
    quartiles,
    turns,
)

ROOT = Path(__file__).parents[1]
PAIRS = [({"rate": ours, "cold": 1.0}, {"rate": peer, "cold": 2.0})
         for ours, peer in ((20, 10), (30, 10), (10, 10), (50, 10), (40, 10))]


def row(**changes: object) -> Row:
    given = {"gate": PASSED, "key": "rate", "unit": "tokens/s"} | changes
    return compared("x", PAIRS, **given)


def test_sides_take_turns_so_that_drift_falls_on_both():
    order: list[str] = []
    pairs = turns(lambda: order.append("A") or {"n": len(order)}, lambda: order.append("B") or {"n": len(order)}, 4)
    assert "".join(order) == "ABBAABBA"
    assert [(a["n"], b["n"]) for a, b in pairs] == [(1, 2), (4, 3), (5, 6), (8, 7)]


def test_a_row_holds_the_median_and_the_quartiles_of_paired_ratios():
    found = row()
    assert (found.ratio, found.low, found.high, found.ours, found.peer) == (3, 2, 4, 30, 10)
    assert found.details["cold_seconds"] == [1.0, 2.0] and found.details["pairs"] == 5


def test_where_less_is_better_the_ratio_is_turned_round():
    assert row(less=True).ratio == pytest.approx(1 / 3)


def test_one_value_is_its_own_quartiles():
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)


def test_a_failed_gate_leaves_no_ratio():
    found = row(gate="failed: losses differ")
    assert (found.ratio, found.low, found.high) == (None, None, None) and found.ours == 30


def test_a_ratio_beyond_what_the_peer_leaves_is_an_error():
    assert row(floor=1.0, peer_mfu=0.3).ratio == 3                  # 1 / 0.3 = 3.33 is possible
    found = row(floor=1.0, peer_mfu=0.5)                            # 2 is all there is
    assert found.ratio is None and found.gate.startswith("failed: a ratio of 3 is above 2")


def test_a_missing_peer_is_not_run():
    missing = [(ours, {"not_run": "No module named 'trl'"}) for ours, _ in PAIRS]
    found = compared("x", missing, gate=PASSED, key="rate", unit="tokens/s")
    assert found.gate == "not run: No module named 'trl'" and found.ratio is None and found.peer is None


def test_steps_must_agree_one_by_one():
    peer = {"losses": [4.0, 3.0], "grad_norms": [1.0, 2.0]}
    assert equal_steps({"losses": [4.0003, 3.0], "grad_norms": [1.0, 2.001]}, peer) == PASSED
    assert "losses of step 1 are" in equal_steps({"losses": [4.0, 3.0004], "grad_norms": [1.0, 2.0]}, peer)
    assert "grad norms of step 1" in equal_steps({"losses": [4.0, 3.0], "grad_norms": [1.0, 2.01]}, peer)
    assert "losses of step 1 are" in equal_steps({"losses": [4.0, float("nan")], "grad_norms": [1.0, 2.0]}, peer)
    assert equal_steps({"losses": []}, {"losses": []}).startswith("failed")


def test_in_low_precision_we_may_be_a_quarter_further_off_than_the_peer():
    reference, peer = {"losses": [2.0, 2.0]}, {"losses": [2.02, 1.98]}
    assert low_precision({"losses": [2.024, 1.976]}, peer, reference) == PASSED
    assert low_precision({"losses": [2.026, 1.974]}, peer, reference).startswith("failed")
    assert low_precision({"losses": [2.0001, 1.9999]}, reference, reference) == PASSED      # as near as fp32 must be


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A side that can be run as `benchmarks.probe`, made of a line of Python."""
    package = tmp_path / "benchmarks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(harness, "ROOT", tmp_path)

    def write(line: str) -> None:
        (package / "probe.py").write_text(line)

    return write


def test_a_side_is_a_process_of_its_own_with_the_threads_asked_for(module, tmp_path):
    module("import json, os, sys; print('noise'); "
           "print(json.dumps({'said': sys.argv[1:], 'threads': os.environ['OMP_NUM_THREADS'], 'pid': os.getpid()}))")
    runs = [fresh(Options(threads=3), "probe", "a", "b", cwd=tmp_path) for _ in range(2)]
    assert runs[0]["said"] == ["a", "b"] and runs[0]["threads"] == "3" and runs[0]["cold"] > 0
    assert runs[0]["pid"] != runs[1]["pid"]


def test_only_a_peer_may_be_missing(module, tmp_path):
    module("import a_peer_nobody_has")
    assert fresh(Options(), "probe", peer=True, cwd=tmp_path) == {"not_run": "No module named 'a_peer_nobody_has'"}
    with pytest.raises(Broken, match="a_peer_nobody_has"):
        fresh(Options(), "probe", cwd=tmp_path)


def test_a_side_that_fails_says_why(module, tmp_path):
    module("raise ValueError('out of tokens')")
    with pytest.raises(Broken, match="out of tokens"):
        fresh(Options(), "probe", peer=True, cwd=tmp_path)


@pytest.fixture
def run(monkeypatch, capsys):
    """The command with one case, on a machine that is as busy as `load` says."""
    monkeypatch.setattr(command, "peak", lambda dtype: 1e9)

    def call(rows: list[Row], *flags: str, load: float = 0.0) -> tuple[int, dict | None, str]:
        monkeypatch.setattr(command, "load", lambda: load)
        monkeypatch.setitem(command.CASES, "mfu", lambda options: iter(rows))
        code = command.main(["mfu", *flags])
        said = capsys.readouterr()
        return code, json.loads(said.out.splitlines()[-1]) if said.out else None, said.err

    return call


def test_the_last_line_is_json_with_the_keys_others_read(run):
    code, line, table = run([row()])
    assert code == 0 and set(line) == {"case", "rows", "versions", "machine"} and line["case"] == "mfu"
    assert {"name", "gate", "ratio", "low", "high", "ours", "peer", "unit", "floor"} <= set(line["rows"][0])
    assert line["rows"][0]["ratio"] == 3 and line["versions"]["torch"] and line["machine"]["busy"] is False
    assert "tokens/s" in table


def test_a_failed_gate_is_exit_code_3_and_not_run_is_not(run):
    assert run([row(gate="failed: losses differ")])[0] == 3
    assert run([Row("x", "not run: no nanoGPT")])[0] == 0


def test_json_alone_says_nothing_else(run):
    assert run([row()], "--json")[2] == ""


def test_a_busy_machine_is_refused_or_marked(run):
    code, line, said = run([row()], load=0.8)
    assert code == 1 and line is None and "busy" in said
    code, line, _ = run([row()], "--busy", load=0.8)
    assert code == 0 and line["machine"]["busy"] is True


def test_waiting_for_quiet_ends(monkeypatch):
    loads = iter([0.9, 0.5, 0.2])
    monkeypatch.setattr(command, "load", lambda: next(loads))
    assert command.quiet(10, poll=0) is True
    monkeypatch.setattr(command, "load", lambda: 0.9)
    assert command.quiet(0.01, poll=0.001) is False


@pytest.mark.parametrize("flags", [["nothing"], ["mfu", "--pairs", "0"], ["mfu", "--threads", "0"]])
def test_usage_is_exit_code_2(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(flags)
    assert stop.value.code == 2 and capsys.readouterr().err


def test_the_peak_and_the_machine_are_what_they_say():
    assert 1e7 < machine.peak("float32", sizes=(256,), seconds=0.02) < 1e15
    assert machine.describe(2)["threads"] == 2 and machine.versions(sys.executable)["torch"]


def test_a_slope_is_the_exponent_of_a_power():
    exact, error = scaling.slope([(x, 3 * x**1.5) for x in (1, 2, 4, 8)])
    assert exact == pytest.approx(1.5) and error == pytest.approx(0, abs=1e-9)
    _, error = scaling.slope([(1, 1.0), (2, 2.2), (4, 3.8), (8, 8.1)])
    assert 0.01 < error < 0.2


def test_shakespeare_without_a_checkout_is_not_run():
    rows = list(shakespeare.run(Options()))
    assert [(r.name, r.gate[:8]) for r in rows] == [("system", "not run:"), ("recipe", "not run:")]


def test_the_clock_looks_near_the_target_only_and_stops_there():
    values = iter([2.0, 1.9, 1.87])
    clock = shakespeare.Clock(lambda: next(values), last=1000)
    stopped = []
    for step in range(100):
        clock.losses.append(2.5 if step < 20 else 1.9)
        if clock.stop(every=10):
            stopped.append(step + 1)
            break
    assert stopped == [50] and [step for step, _, _ in clock.curve] == [30, 40, 50]
    assert clock.answer()["reached"] and clock.answer()["validation"] == 1.87


def test_the_schedule_is_that_of_train_py():
    assert shakespeare.nanogpt_rate(0) == pytest.approx(1e-3 / 101)
    assert shakespeare.nanogpt_rate(99) == pytest.approx(1e-3 * 100 / 101)
    assert shakespeare.nanogpt_rate(100) == pytest.approx(1e-3)
    assert shakespeare.nanogpt_rate(2000) == pytest.approx(1e-4)


def test_validation_windows_cover_the_split_once():
    rows = shakespeare.windows(torch.arange(1000))
    assert rows.shape == (15, 65) and rows[:, 1:].flatten().tolist() == list(range(1, 961))


def test_the_recipe_is_read_from_its_pretrain_stage(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('[base]\nrun = "pretrain"\nsteps = 7\nrows = 3\nmodel = { depth = 2 }\noptimizer = { lr = 1e-2 }\n')
    assert shakespeare.settings_of(path) == {"model": {"depth": 2}, "optimizer": {"lr": 1e-2}, "rows": 3, "steps": 7}


def test_it_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "benchmarks", "shakespeare", "--busy", "--json", "--threads", "1"],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [r["name"] for r in json.loads(done.stdout.splitlines()[-1])["rows"]] == ["system", "recipe"]
