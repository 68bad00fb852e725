"""Comparisons of learning from preferences: the work, what each side cannot leave out, gates, memory, rows."""

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import dpo, orpo, preferences, preferring, reward, sft
from benchmarks.harness import PASSED, Options, equal_figures
from bloomery.model.presets import sized

TINY = sized(1, vocabulary=90, context=128, width=32, heads=2, kv_heads=1, hidden=64)
WORK = {"prompts": [10, 20, 30, 40], "chosen": [5, 6, 7, 8], "rejected": [9, 4, 3, 2], "rows": 2,
        "order": [[2, 0], [3, 1]]}
BODY = TINY.parameters() - TINY.tables() - TINY.vocabulary * TINY.width
WIDE = TINY.depth * TINY.heads * TINY.head_width
HEAD = TINY.vocabulary * TINY.width


def spec(task: str, **more: object) -> dict:
    return preferences.TUNED | {"task": task} | WORK | more


@pytest.fixture(scope="module")
def folder(tmp_path_factory):                                                             # noqa: ANN001, ANN201
    return sft.export(TINY, tmp_path_factory.mktemp("model"))


# --- the work -----------------------------------------------------------------------------------------------------

def test_lengths_spread_as_asked_and_steps_are_the_stages_own():
    found = preferences.work(256, 96, steps=100, rows=8)
    for name, mean in (("prompts", 256), ("chosen", 96), ("rejected", 96)):
        drawn = torch.tensor(found[name]).double()
        assert abs(drawn.mean() / mean - 1) < 0.05 and 0.4 < drawn.std() / drawn.mean() < 0.6
    assert found["chosen"] != found["rejected"]
    assert sorted(i for step in found["order"] for i in step) == list(range(800))
    level = preferences.work(64, 96, steps=2, rows=4, spread=0.0)
    assert set(level["prompts"]) == {64} and set(level["rejected"]) == {96}


def test_grouped_steps_hold_neighbours_in_length_and_everything_once():
    assert preferring.order(spec("dpo")) == WORK["order"]
    grouped = preferring.order(spec("dpo", grouped=True))
    assert sorted(map(sorted, grouped)) == [[0, 1], [2, 3]]


def test_every_answer_of_kto_borrows_the_one_before_it_in_its_step():
    assert preferring.mismatched(spec("kto")) == {2: 0, 0: 2, 3: 1, 1: 3}
    assert preferring.wanted(spec("kto")) == {2: True, 0: False, 3: True, 1: False}


def test_both_sides_are_given_the_same_ids_and_answers_end_the_text():
    first, again = (preferring.examples(spec("dpo"), 90) for _ in range(2))
    assert first == again
    for (prompt, *answers), asked in zip(first, WORK["prompts"], strict=True):
        assert len(prompt) == asked and min(prompt) > preferring.END
        assert all(answer[-1] == preferring.END and min(answer[:-1]) > preferring.END for answer in answers)
    names = ["<pad>", "<eos>", *map(str, range(2, 10))]
    row = preferring.row("dpo", ([5, 7], [8, 1], [9, 6, 1]), True, names)
    assert row == {"prompt": "5 7", "chosen": " 8", "rejected": " 9 6"}
    assert preferring.row("reward", ([5, 7], [8, 1], [9, 1]), True, names) == {"chosen_ids": [5, 7, 8, 1],
                                                                               "rejected_ids": [5, 7, 9, 1]}
    rated = preferring.row("kto", ([0], [8, 1], [9, 1]), False, names)
    assert rated == {"prompt": "<pad>", "completion": " 8", "label": False}


def test_orpo_is_gated_on_prompts_and_chosen_answers_of_one_length_together():
    found = orpo.level(16, 48)
    assert len({a + b for a, b in zip(found["prompts"], found["chosen"], strict=True)}) == 1
    assert min(found["chosen"]) > 1


# --- rates, floors and gates --------------------------------------------------------------------------------------

def test_a_rate_counts_the_reference_once_and_the_steps_of_every_epoch():
    said = preferring.answer(spec("dpo"), reference=0.5, resident=0, ends=[1.0, 3.0, 6.0], losses=[], grad_norms=[],
                             figures=[{"logps/chosen": -1.0, "logps/rejected": -2.0, "other": 3.0}])
    assert said["seconds"] == 2.5                               # of the two steps after the first, 1.25 a pair
    assert said["rate 1"] == pytest.approx(1 / 1.75) and said["rate 3"] == pytest.approx(3 / (0.5 + 3.75))
    assert said["figures"] == {"logps/chosen": [-1.0], "logps/rejected": [-2.0]} and said["peak_bytes"] > 0


def flops(passes: float, tokens: int, squares: int, scored: int) -> float:
    return 2 * passes * (BODY * tokens + WIDE * squares + HEAD * scored)


def test_our_floor_has_each_prompt_once_and_the_peers_its_padding_and_its_repeated_prompts():
    ours, peer = (preferences.floor(TINY, read(spec("dpo"), 3))
                  for read in (preferences.ours_read, preferences.peer_reads))
    squares = 48**2 + 42**2 - 40**2 + 26**2 + 24**2 - 20**2     # of the step [3, 1], the one on the clock
    assert ours == pytest.approx(flops(3 + 1 / 3, 50 + 30, squares, 10 + 10))
    assert peer == pytest.approx(4 * flops(3 + 1 / 3, 48, 48**2, 48))
    each_step = preferences.floor(TINY, preferences.peer_reads(spec("dpo", precompute=False), 3))
    assert each_step == pytest.approx(4 * flops(4, 48, 48**2, 48))
    checkpointed = preferences.floor(TINY, preferences.peer_reads(spec("dpo", tuned=False), 1))
    assert checkpointed == pytest.approx(4 * flops(5, 48, 48**2, 48))


def test_a_reward_model_scores_one_position_and_kto_reads_the_borrowed_answer_without_a_gradient():
    assert all(scored == 0 for step in preferences.ours_read(spec("reward"), 1) for _, _, _, scored in step)
    (step,) = preferences.ours_read(spec("kto"), 1)
    assert step == [(4, 0, 40, 0), (4, 40, 8, 8), (2, 40, 6, 6), (4, 0, 20, 0), (4, 20, 6, 6), (2, 20, 8, 8)]
    (padded,) = preferences.peer_reads(spec("kto"), 1)
    assert padded == [(4, 0, 48, 48)] * 2 + [(2, 0, 46, 46)] * 2
    assert preferences.useful(spec("kto")) == pytest.approx((40 + 8 + 6 + 20 + 6 + 8) / (4 * 48 - 4), abs=1e-3)


def test_figures_must_agree_as_closely_as_their_usual_size_asks():
    peer = {"figures": {"margin": [1.0, -1.0, 0.0]}}
    assert equal_figures({"figures": {"margin": [1.0, -1.0007, 0.0007]}}, peer) == PASSED
    assert "margin of step 2" in equal_figures({"figures": {"margin": [1.0, -1.0, 0.0011]}}, peer)
    assert "margin of step 0" in equal_figures({"figures": {"margin": [float("nan"), -1.0, 0.0]}}, peer)


@pytest.mark.parametrize("task", ["dpo", "reward", "kto", "orpo"])
def test_our_side_learns_in_the_stages_own_way_and_precision_changes_little(task, folder, tmp_path):
    place = reward.scored(folder, tmp_path / "scored") if task == "reward" else folder
    asked = spec(task, folder=str(place), order=[[2, 0], [1, 3]], precision="fp32")
    exact, rounded = preferring.ours(asked), preferring.ours(asked | {"precision": "bf16"})
    assert len(exact["losses"]) == 2 and exact["losses"] == pytest.approx(rounded["losses"], rel=0.02)
    assert set(exact["figures"]) == set(preferring.FIGURES[task]) and exact["losses"] != rounded["losses"]
    assert (exact["reference"] > 0) is (task in ("dpo", "kto"))


# --- rows ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def sides(monkeypatch):                                                                   # noqa: ANN001, ANN201
    """Both sides without processes of their own; what was asked is remembered."""
    asked: list[dict] = []

    def fresh(options: Options, module: str, which: str, given: str, *, peer: bool) -> dict:
        asked.append(command.json.loads(given) | {"which": which, "peer": peer})
        assert module == "preferring" and peer is (which == "trl")
        slow = 0.01 + 0.001 * sum(asked[-1]["prompts"]) / len(asked[-1]["prompts"]) * (3 if peer else 1)
        early = 2 if asked[-1]["precompute"] else 1
        names = preferring.FIGURES[asked[-1]["task"]]
        return {"losses": [0.7] * 24, "grad_norms": [1.0] * 24, "figures": {name: [-9.0] * 24 for name in names},
                "rate 1": 1 / slow, "rate 3": early / slow, "seconds": slow, "reference": 0.1, "cold": 1.0,
                "peak_bytes": 5e8 if peer else 2e8}

    monkeypatch.setattr(preferences, "fresh", fresh)
    monkeypatch.setattr(dpo, "fresh", fresh)
    monkeypatch.setattr(preferences, "peak", lambda dtype: 1e12)
    return asked


def test_dpo_has_a_row_for_every_size_and_number_of_epochs_and_one_for_the_slope(sides):
    rows = {row.name: row for row in command.CASES["dpo"](Options(pairs=1, quick=True))}
    assert list(rows) == [f"{size}{more}" for size in preferences.SIZES for more in ("", ", 3 epochs", ", default")] + [
        "slope in P"]
    assert all(row.gate == PASSED and row.ratio > 1 for row in rows.values())
    assert rows["P256 C96"].details["memory_share"] == 0.4 and rows["P256 C96"].floor > 2
    assert rows["slope in P"].ratio == pytest.approx(3) and rows["slope in P"].unit == "ms a token"
    asked = [each for each in sides if each["which"] == "trl"]
    assert {each["tuned"] for each in asked} == {True, False}
    assert {each["precision"] for each in asked if each.get("gate")} == {"fp32"}


@pytest.mark.parametrize("case", ["reward", "kto", "orpo"])
def test_the_others_have_a_row_for_every_size(sides, case):
    rows = list(command.CASES[case](Options(pairs=1, quick=True)))
    more = ("", ", 3 epochs", ", default") if case == "kto" else ("", ", default")
    assert [row.name for row in rows] == [f"{case}, {size}{end}" for size in preferences.SIZES for end in more]
    assert {row.unit for row in rows} == {"ratings/s" if case == "kto" else "pairs/s"}
    assert {each["task"] for each in sides} == {case}


def test_the_peers_best_settings_are_found_for_every_number_of_epochs():
    def side(which: str, **given: object) -> dict:
        return {"rate 1": 2 - given["precompute"] + given["grouped"], "rate 3": 1 + given["precompute"]}

    assert preferences.tuned(side, {"task": "dpo"}, quick=False) == {
        1: {"grouped": True, "precompute": False}, 3: {"grouped": False, "precompute": True}}


def test_a_failed_gate_is_said_and_leaves_no_ratio(sides, monkeypatch):
    monkeypatch.setattr(preferences, "gate", lambda side, spec: "failed: losses differ")
    rows = list(command.CASES["reward"](Options(pairs=1, quick=True)))
    assert all(row.gate == "failed: losses differ" and row.ratio is None and row.ours for row in rows)


def test_without_trl_nothing_is_compared(monkeypatch):
    monkeypatch.setattr(preferences, "fresh", lambda *given, **named: {"not_run": "No module named 'trl'"})
    monkeypatch.setattr(dpo, "fresh", lambda *given, **named: {"not_run": "No module named 'trl'", "cold": 1.0,
                                                               "rate 1": 1.0})
    rows = list(dpo.run(Options(pairs=1, quick=True)))
    assert [row.name for row in rows] == [*preferences.SIZES, "slope in P"]
    assert all(row.gate == "not run: No module named 'trl'" and row.ratio is None for row in rows)
