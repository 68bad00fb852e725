"""Recipes as people run them: ours are sound, work is done once, and a kill at any moment changes nothing."""

import json
import os
import random
import time
from pathlib import Path

import pytest
from miniature import QUICKSTART, ROOT, bloomery, end, write_corpus

from bloomery.core.artifacts import file_hash
from bloomery.pipeline import plan
from bloomery.recipe import read_recipe

RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
DATA = Path(os.environ.get("BLOOMERY_DATA", ROOT.parent / "shared" / "data")).absolute()
STAGES = ["curate", "tokenizer", "shards", "base", "questions", "sft", "reward", "dpo", "grpo", "evaluate",
          "expressions", "report"]


def start(room, *overrides):
    """The quickstart made small, over the documents in `room`, in a process of its own."""
    given = [part for text in ("curate.source=corpus.jsonl", *QUICKSTART, *overrides) for part in ("--set", text)]
    return bloomery("run", ROOT / "recipes" / "quickstart.toml", *given, "--json", cwd=room)


def finish(room, *overrides):
    process = start(room, *overrides)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out), err


def state(room):
    """Every file of a run with its content's hash and its age."""
    return {path.relative_to(room): (file_hash(path), path.stat().st_mtime_ns)
            for path in room.rglob("*") if path.is_file() and path.name != ".lock"}


def models(room):
    return {path.parent.name: file_hash(path) for path in room.glob("runs/quickstart/*/model.safetensors")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed: its folder, its summary and the hashes of its models."""
    room = tmp_path_factory.mktemp("whole")
    write_corpus(room / "corpus.jsonl")
    summary, _ = finish(room)
    return room, summary, models(room)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_our_recipes_are_sound(path, monkeypatch, tmp_path):
    if "$BLOOMERY_DATA" in path.read_text(encoding="utf-8"):
        if not DATA.is_dir():
            pytest.skip(f"no public texts in {DATA}: set BLOOMERY_DATA")
        monkeypatch.setenv("BLOOMERY_DATA", str(DATA))
    monkeypatch.chdir(ROOT)
    steps = plan(read_recipe(path), tmp_path)
    assert steps and len({step.hash for step in steps}) == len(steps)
    assert any(step.task.verb == "report" for step in steps)


@pytest.mark.parametrize(("name", "shared"), [("ppo", ("tokenizer", "shards", "base", "pairs", "sft")),
                                              ("gsm8k", ("tokenizer", "shards", "base"))])
def test_what_another_recipe_has_made_is_found_where_it_is_copied(name, shared, monkeypatch, tmp_path):
    if not DATA.is_dir():
        pytest.skip(f"no public texts in {DATA}: set BLOOMERY_DATA")
    monkeypatch.setenv("BLOOMERY_DATA", str(DATA))
    monkeypatch.chdir(ROOT)
    own, other = ({step.task.name: step.folder.name for step in plan(read_recipe(ROOT / f"recipes/{recipe}.toml"),
                                                                     tmp_path)} for recipe in (name, "preferences"))
    assert [own[stage] for stage in shared] == [other[stage] for stage in shared]


def test_a_life_in_small(whole):
    room, summary, made = whole
    assert list(summary["stages"]) == STAGES
    for name in ("base", "sft", "dpo"):
        assert 0 < summary["metrics"][f"{name}.val_bpb"] < 8
    assert len(made) == 5 >= len(set(made.values())) >= 4               # the policy may go back to where it began
    assert {"dpo.exact_match", "expressions.before.exact_match", "expressions.after.exact_match"} <= \
        summary["metrics"].keys()
    assert "<html" in (room / "runs/quickstart/report.html").read_text(encoding="utf-8")[:1000].lower()


def test_a_rerun_does_nothing(whole):
    room, summary, _ = whole
    before = state(room)
    again, err = finish(room)
    assert "12 already done, 0 to run" in err and again == summary
    assert state(room) == before


def test_a_change_reruns_what_depends_on_it(whole):
    room, summary, _ = whole
    before = state(room)
    changed, err = finish(room, "dpo.beta=0.3")
    assert "7 already done, 5 to run" in err
    moved = [name for name in STAGES if changed["stages"][name]["hash"] != summary["stages"][name]["hash"]]
    assert moved == ["dpo", "grpo", "evaluate", "expressions", "report"]
    after = state(room)
    redone = {path.name for path in before if after[path] != before[path]}
    assert redone == {"summary.json", "report.html"}                    # of the run; no stage's folder is touched
    back, err = finish(room)
    assert "12 already done, 0 to run" in err and back["stages"] == summary["stages"]


def killed(room, rng, kills, seconds):
    """Start the recipe and kill -9 it at a moment drawn from the time that its next stages take, again and again."""
    for _ in range(kills):
        done = {path.parent.name.partition("-")[0] for path in room.glob("runs/quickstart/*/DONE")}
        following = [name for name in STAGES if name not in done][:1 + len(STAGES) // kills] or STAGES[-1:]
        (stage,) = rng.choices(following, [seconds[name] for name in following])
        process = start(room)
        try:
            next((line for line in process.stderr if f"] {stage}: " in line), None)
            time.sleep(rng.uniform(0, seconds[stage]))
        finally:
            end(process)


@pytest.mark.parametrize(("kills", "seed"), [(2, 1), pytest.param(8, 2, marks=pytest.mark.slow)])
def test_killed_and_run_again_gives_the_same_models(whole, tmp_path, kills, seed):
    _, summary, made = whole
    write_corpus(tmp_path / "corpus.jsonl")
    killed(tmp_path, random.Random(seed), kills, {name: s["seconds"] for name, s in summary["stages"].items()})
    again, err = finish(tmp_path)
    assert models(tmp_path) == made
    assert {name: stage["hash"] for name, stage in again["stages"].items()} == \
        {name: stage["hash"] for name, stage in summary["stages"].items()}
    attempts = [json.loads(path.read_text())["attempts"] for path in tmp_path.glob("runs/quickstart/*/stage.json")]
    assert max(attempts) > 1, err                                       # a kill did hit a stage at work
