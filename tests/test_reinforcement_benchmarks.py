"""Comparisons of reinforcement learning: the work, what each side cannot leave out, gates, rows."""

import pytest

from benchmarks import __main__ as command
from benchmarks import acting, grpo, sft
from benchmarks.harness import PASSED, Options
from bloomery.model.presets import sized

TINY = sized(1, vocabulary=90, context=128, width=32, heads=2, kv_heads=1, hidden=64)
BODY = TINY.parameters() - TINY.tables() - TINY.vocabulary * TINY.width
WIDE = TINY.depth * TINY.heads * TINY.head_width
HEAD = TINY.vocabulary * TINY.width
SPEC = {"task": "grpo", "prompts": [6, 9], "samples": 3, "new": 8, "steps": 2, "epochs": 1, "precision": "fp32",
        "tuned": True, "workers": 0, "rows": 6, "cache": None}


# --- one side -----------------------------------------------------------------------------------------------------

def test_prompts_are_other_ones_in_every_step_and_the_same_on_both_sides():
    first = acting.prompts(SPEC, 90)
    assert first == acting.prompts(SPEC, 90) and [list(map(len, step)) for step in first] == [[6, 9]] * 2
    assert first[0][0] != first[1][0][:6] and all(0 < i < 90 for step in first for ids in step for i in ids)


def test_dictated_answers_have_many_lengths_and_worths():
    spec = SPEC | {"samples": 40}
    groups = acting.dictated(spec, 90, 1)
    lengths = {len(ids) for group in groups for ids in group}
    assert [len(group) for group in groups] == [40, 40] and lengths == {5, 6, 7}
    assert groups != acting.dictated(spec, 90, 0) and groups == acting.dictated(spec, 90, 1)
    assert len({acting.worth(ids) for group in groups for ids in group}) > 30


def test_a_text_is_its_ids_and_its_end_is_none_of_what_the_model_can_say():
    read = acting.vocabulary_of(90)
    assert read.encode("7 89 1").ids == [7, 89, 1] and read.decode([7, 89, 1]) == "7 89 1"
    assert read.token_to_id(acting.PAD) == 0 and read.token_to_id(acting.END) == 90


def test_the_first_step_is_not_on_the_clock_and_drawing_is_told_apart():
    said = acting.answer(SPEC, steps=[9.0, 3.0, 5.0], rollouts=[8.0, 1.0, 2.0], figures=[], drawn=[[1]] * 6, logps=[],
                         asked=[[1], [2]])
    assert (said["seconds"], said["rollout"], said["update"], said["rate"]) == (4.0, 1.5, 2.5, 1.5)
    assert said["done"] == [[{"ids": [1]}] * 3] * 2
    alone = acting.answer(SPEC, steps=[9.0], rollouts=[8.0], figures=[], drawn=[[1]] * 6, logps=[], asked=[[1], [2]])
    assert alone["seconds"] == 9.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):                                                             # noqa: ANN001, ANN201
    return sft.export(TINY, tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("task", ["grpo", "rloo"])
def test_our_side_draws_as_many_tokens_as_asked_and_learns_from_them_as_the_stage_does(task, folder):
    said = acting.ours(SPEC | {"task": task, "folder": str(folder)})
    assert [len(one["ids"]) for group in said["done"] for one in group] == [8] * 6 and len(said["logps"]) == 48
    assert len(said["figures"]["loss"]) == 2 and all(norm > 0 for norm in said["figures"]["grad_norm"])
    twice = acting.ours(SPEC | {"task": task, "folder": str(folder), "gate": True, "epochs": 2})
    first, second = twice["figures"]["loss"][:2]
    assert len(twice["figures"]["loss"]) == 4 and abs(first) < 1e-6 < abs(second)
    assert [one["ids"] for one in twice["done"][0]] == acting.dictated(SPEC, 90, 1)[0]


# --- what cannot be left out --------------------------------------------------------------------------------------

def flops(passes: float, tokens: int, squares: int, scored: int) -> float:
    return 2 * passes * (BODY * tokens + WIDE * squares + HEAD * scored)


def test_we_read_a_prompt_once_and_the_peer_once_for_each_answer():
    spec = SPEC | {"prompts": [6]}
    ours, peer = (grpo.floor(TINY, [grpo.reads(spec, padded=padded)]) for padded in (False, True))
    assert ours == pytest.approx(flops(4, 6 + 3 * 8, 6**2 + 3 * (14**2 - 6**2), 3 * 8))
    assert peer == pytest.approx(3 * (flops(1, 14, 14**2, 8) + flops(3, 14, 14**2, 14)))
    rloo, default = (grpo.floor(TINY, [grpo.reads(spec | more, padded=True)])
                     for more in ({"task": "rloo"}, {"tuned": False}))
    assert rloo == default == pytest.approx(3 * (flops(1, 14, 14**2, 8) + flops(4, 14, 14**2, 14)))


def test_the_floor_of_the_three_sizes_is_that_of_the_sharing():
    config = sized(8, vocabulary=16_384, context=1024, width=512, hidden=1376)
    ratios = [grpo.floor(config, [grpo.reads(spec, padded=True)]) / grpo.floor(config, [grpo.reads(spec, padded=False)])
              for spec in (grpo.work(prompt, quick=False) | {"task": "grpo", "tuned": True} for prompt in grpo.PROMPTS)]
    assert ratios == sorted(ratios) and 1.1 < ratios[0] < 1.3 and 2.3 < ratios[-1] < 3


# --- gates --------------------------------------------------------------------------------------------------------

def test_losses_near_zero_are_held_to_their_usual_size():
    peer = {"figures": {"loss": [0.0, 0.05, 1e-9, 0.05], "grad_norm": [1.0, 2.0, 1.0, 2.0]}}
    near = {"figures": {"loss": [2e-6, 0.05, 0.0, 0.05], "grad_norm": [1.0, 2.001, 1.0, 2.0]}}
    assert grpo.same_updates(near, peer) == PASSED
    assert "loss of step 0" in grpo.same_updates({"figures": near["figures"] | {"loss": [1e-5, 0.05, 0.0, 0.05]}}, peer)
    worse = {"figures": near["figures"] | {"grad_norm": [1.0, 2.01, 1.0, 2.0]}}
    assert "grad_norm of step 1" in grpo.same_updates(worse, peer)


def test_norms_in_bf16_are_held_to_the_peers_with_what_so_few_of_them_can_say():
    exact = [1.0, 2.0] * 8
    norms = {error: [x * (1 + error * (-1) ** i) for i, x in enumerate(exact)] for error in (0.001, 0.0018, 0.0019)}
    assert grpo.near_enough(norms[0.0018], norms[0.001], exact) == PASSED
    assert grpo.near_enough(norms[0.0019], norms[0.001], exact).startswith("failed: gradient norms in bf16 are 1.9e-03")


def drawn(ours: float, exact: float, peer: float) -> tuple[str, dict]:
    """The gate of draws where our log-probabilities in fp32 and in bf16, and the peer's answers, are so far away."""
    spread = [-4.0 + 0.1 * (i % 3) for i in range(24)]

    def side(which: str, **given: object) -> dict:
        if which == "judged":
            return {"logps": [p + peer for p in spread] if "theirs" in given["file"] else spread}
        away = exact if given["precision"] == "fp32" else ours
        return {"logps": [p + away for p in spread], "prompts": [], "done": [], "which": which}

    def judged(call, said, folder, *, precision="fp32"):                                  # noqa: ANN001, ANN202
        return call("judged", file="theirs" if said["which"] == "trl" else "ours")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(grpo, "judged", judged)
        return grpo.same_draws(side, {"new": 4, "precision": "bf16"}, None)


def test_draws_are_those_of_the_model_exactly_in_fp32_and_nearly_in_bf16():
    verdict, details = drawn(ours=0.02, exact=5e-5, peer=0.01)
    assert verdict == PASSED and details["KL of what we draw"] == pytest.approx(2e-4, rel=0.05)
    assert drawn(ours=0.02, exact=2e-4, peer=0.0)[0].startswith("failed: log-probabilities differ")
    assert "nats a token away" in drawn(ours=0.1, exact=0.0, peer=0.0)[0]
    assert "likelier than the peer's" in drawn(ours=0.0, exact=0.0, peer=-0.5)[0]


# --- rows ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def sides(monkeypatch):                                                                   # noqa: ANN001, ANN201
    """Both sides without processes of their own; what was asked is remembered."""
    asked: list[dict] = []

    def fresh(options: Options, module: str, which: str, given: str, *, peer: bool) -> dict:
        asked.append(command.json.loads(given) | {"which": which, "module": module})
        assert module == ("generation" if which == "judged" else "acting") and peer is (which != "ours")
        slow = (6.0 if peer else 1.0) + asked[-1]["prompts"][0] / 1000
        return {"rate": 8 / slow, "seconds": slow, "rollout": slow / 4, "update": 3 * slow / 4, "cold": 1.0,
                "figures": {"loss": [0.1] * 24, "grad_norm": [1.0] * 24}}

    monkeypatch.setattr(grpo, "fresh", fresh)
    monkeypatch.setattr(grpo, "same_draws", lambda side, spec, folder: (PASSED, {"KL of what we draw": 0.0}))
    monkeypatch.setattr(grpo, "peak", lambda dtype: 1e12)
    return asked


@pytest.mark.parametrize(("case", "names"), [("grpo", ["P32", "P128", "P384"]), ("rloo", ["rloo, P128"])])
def test_a_size_has_rows_for_the_step_for_drawing_for_learning_and_for_trl_as_it_comes(sides, case, names):
    rows = {row.name: row for row in command.CASES[case](Options(pairs=1))}
    assert list(rows) == [f"{name}{end}" for name in names for end in ("", ", rollout", ", update", ", default")]
    assert all(row.gate == PASSED and row.ratio > 4 for row in rows.values())
    first = rows[names[0]]
    assert first.unit == "completions/s" and first.floor > 1 and first.details["KL of what we draw"] == 0.0
    assert rows[f"{names[0]}, update"].ours == pytest.approx(3 * rows[f"{names[0]}, rollout"].ours)
    gated = [each for each in sides if each.get("gate")]
    assert {each["epochs"] for each in gated} == {2} and {each["precision"] for each in gated} == {"fp32", "bf16"}
    assert {each["task"] for each in sides} == {case} and {each["tuned"] for each in sides} == {True, False}


def test_a_smoke_test_has_one_gate_and_no_row_of_trl_as_it_comes(sides):
    rows = [row.name for row in command.CASES["grpo"](Options(pairs=1, quick=True))]
    assert rows == [f"P{size}{end}" for size in grpo.PROMPTS for end in ("", ", rollout", ", update")]
    gated = [each for each in sides if each.get("gate")]
    assert len(gated) == 5 and all(each["tuned"] for each in sides)


def test_the_peers_best_settings_are_found():
    def side(which: str, **given: object) -> dict:
        return {"rate": given["rows"] + 10 * (given["cache"] == "static")}

    spec = {"rows": 64, "samples": 8}
    assert grpo.tuned(side, spec, quick=False) == {"rows": 64, "cache": "static"}
    assert grpo.tuned(side, spec, quick=True) == {"rows": 64, "cache": None}


def test_a_failed_gate_leaves_no_ratio_and_without_trl_nothing_is_compared(sides, monkeypatch):
    monkeypatch.setattr(grpo, "gate", lambda side, spec, folder: ("failed: losses differ", {}))
    rows = list(command.CASES["rloo"](Options(pairs=1, quick=True)))
    assert all(row.gate == "failed: losses differ" and row.ratio is None for row in rows)
    monkeypatch.undo()
    monkeypatch.setattr(grpo, "fresh", lambda *given, **named: {"not_run": "No module named 'trl'"})
    rows = list(command.CASES["grpo"](Options(pairs=1, quick=True)))
    assert [row.name for row in rows] == ["P32", "P128", "P384"]
    assert all(row.gate == "not run: No module named 'trl'" and row.ratio is None for row in rows)
