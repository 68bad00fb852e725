"""Recipes: every mistake found at once, work done once, and only what changed done again."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from textwrap import dedent

import pytest

from bloomery import pipeline
from bloomery.core.artifacts import is_done, open_artifact
from bloomery.core.errors import BloomeryError, ConfigError, Defect, InputError, Interrupted, Preempted
from bloomery.pipeline import plan, run, run_verb
from bloomery.recipe import in_order, read_recipe
from bloomery.stages import STAGES, Stage, load

WORDS = '''
"""Stages small enough to see through: `words` writes a file, `join` reads others', `judge` measures them."""
import errno, json, os, signal, sys, time
from pathlib import Path
from bloomery.core.config import Input, Settings
from pydantic import Field

class Deep(Settings):
    loudness: int = Field(1, ge=0)

class Config(Settings):
    text: str = "a"
    data: list[Input] = []
    fail: str = ""
    mode: str = "plain"
    deep: Deep = Deep()

def run(config, out):
    with open(os.environ.get("WORDS_LOG", os.devnull), "a") as log:
        log.write(config.text + chr(10))
    if config.fail == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if config.fail == "memory":
        raise MemoryError
    if config.fail == "defect":
        raise ZeroDivisionError("one over nothing")
    if config.fail == "ctrl-c":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    if config.fail == "term":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    if config.fail == "slow":
        (out / "half.txt").write_text("half")
        time.sleep(60)
    read = [Path(p) / "word.txt" if Path(p).is_dir() else Path(p) for p in config.data]
    text = config.text * config.deep.loudness + "".join(p.read_text() for p in read)
    (out / "word.txt").write_text(text)
    return {"length": len(text), "mode": config.mode}

def forecast(config, planned):
    return {"tokens": 10 * config.deep.loudness, "seconds": 2.0}
'''
JUDGE = '''
import json
from pathlib import Path
from bloomery.core.config import Input, Settings

class Config(Settings):
    models: dict[str, Input]

def run(config, out):
    (out / "answers.json").write_text(json.dumps([{"prompt": "1+1?", "expected": "2",
                                                   "answers": {name: "two" for name in config.models}}]))
    (out / "report.html").write_text("<p>page")
    return {f"{name}.score": len((Path(path) / "word.txt").read_text()) for name, path in config.models.items()}
'''
FAKE = {"words": Stage("fake_words", "Write a word.", "bloomery words text=a out=x"),
        "shout": Stage("fake_words", "Write it loud.", "bloomery shout text=a out=x",
                       {"mode": "loud", "deep": {"loudness": 3}}),
        "judge": Stage("fake_judge", "Measure words.", "bloomery judge out=x")}
RECIPE = '''
[docs]
run = "words"
text = "d"

[base]
run = "words"
text = "b"
data = ["@docs"]

[base.deep]
loudness = 2

[sft]
run = "shout"
text = "s"
data = ["@base"]

[scores]
run = "judge"
models = { base = "@base", sft = "@sft" }
'''


@pytest.fixture
def kitchen(tmp_path, monkeypatch):
    """A folder with fake stages and a recipe, which is the current one."""
    (tmp_path / "fake_words.py").write_text(WORDS)
    (tmp_path / "fake_judge.py").write_text(JUDGE)
    (tmp_path / "meal.toml").write_text(RECIPE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORDS_LOG", str(tmp_path / "log"))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)
    for name in ("fake_words", "fake_judge"):
        sys.modules.pop(name, None)


def cook(**options):
    steps, summary = run(Path("meal.toml"), stages=FAKE, **options)
    return {step.task.name: step for step in steps}, summary


def worked():
    """The words whose stages have run since the last call."""
    log = Path("log")
    text = log.read_text() if log.exists() else ""
    log.write_text("")
    return text.split()


def problems(text, overrides=()):
    Path("bad.toml").write_text(dedent(text))
    with pytest.raises(ConfigError) as caught:
        read_recipe(Path("bad.toml"), tuple(overrides), FAKE)
    assert caught.value.exit_code == 2
    return [line.strip() for line in caught.value.what.split("\n")[1:]]


def test_a_recipe_runs_in_order_and_says_what_it_measured(kitchen):
    steps, summary = cook()
    assert list(steps) == ["docs", "base", "sft", "scores"] and worked() == ["d", "b", "s"]
    assert (steps["sft"].folder / "word.txt").read_text() == "sssbbd"
    assert steps["base"].folder.parent == Path("runs/meal") and steps["base"].folder.name.startswith("base-")
    assert summary == json.loads(Path("runs/meal/summary.json").read_text())
    assert summary["stages"]["base"]["metrics"] == {"length": 3, "mode": "plain", "score": 3}
    assert summary["metrics"]["sft.score"] == 6 and summary["metrics"]["sft.mode"] == "loud"
    assert summary["seconds"] == pytest.approx(sum(stage["seconds"] for stage in summary["stages"].values()), abs=1e-6)
    assert summary["peak_memory_gb"] > 0 and summary["wall_seconds"] >= 0
    assert Path("runs/meal/report.html").read_text() == "<p>page"
    record = open_artifact(steps["sft"].folder).record
    assert record["parents"] == {"base": steps["base"].hash} and record["config"]["data"] == ["@base"]


def test_the_resolved_configuration_is_written_and_is_a_recipe_again(kitchen):
    steps, _ = cook()
    text = (steps["sft"].folder / "config.resolved.toml").read_text()
    assert f"# @base is base-{steps['base'].hash}" in text
    assert tomllib.loads(text)["sft"] == {"run": "shout", "text": "s", "data": ["@base"], "fail": "", "mode": "loud",
                                          "deep": {"loudness": 3}}


def test_a_rerun_does_nothing(kitchen):
    cook()
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*") if path.name != ".lock"}
    worked()
    start = time.monotonic()
    cook()
    assert time.monotonic() - start < 1 and worked() == []
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*") if path.name != ".lock"} == before


@pytest.mark.parametrize(("override", "redone"), [
    ("docs.text=x", ["x", "b", "s"]), ("base.deep.loudness=1", ["b", "s"]), ("sft.text=z", ["z"]),
    ("scores.models.base=@docs", []),
])
def test_only_what_depends_on_a_change_is_done_again(kitchen, override, redone):
    cook()
    worked()
    steps, _ = cook(overrides=(override,))
    assert worked() == redone and is_done(steps["scores"].folder)


def test_the_content_of_an_input_counts_not_its_age(kitchen):
    Path("note.txt").write_text("one")
    options = {"overrides": ("docs.data=note.txt",), "only": "docs"}
    first, _ = cook(**options)
    os.utime("note.txt", (1, 1))
    assert cook(**options)[0]["docs"].hash == first["docs"].hash
    Path("note.txt").write_text("two")
    assert cook(**options)[0]["docs"].hash != first["docs"].hash


def test_the_hash_is_the_same_in_every_process(kitchen):
    code = dedent('''
        import sys
        from pathlib import Path
        from bloomery.pipeline import plan, read_recipe
        from bloomery.stages import Stage
        words, judge = Stage("fake_words", "", ""), Stage("fake_judge", "", "")
        shout = Stage("fake_words", "", "", {"mode": "loud", "deep": {"loudness": 3}})
        recipe = read_recipe(Path("meal.toml"), (), {"words": words, "shout": shout, "judge": judge})
        print([step.hash for step in plan(recipe, Path("runs"))])''')
    paths = os.pathsep.join(sys.path)
    printed = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                              env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}).stdout
               for seed in ("1", "2")}
    here = [step.hash for step in plan(read_recipe(Path("meal.toml"), (), FAKE), Path("runs"))]
    assert printed == {f"{here}\n"}


def test_only_one_stage_and_what_it_needs(kitchen):
    steps, summary = cook(only="base")
    assert list(steps) == ["docs", "base"] and worked() == ["d", "b"] and set(summary["stages"]) == {"docs", "base"}
    with pytest.raises(ConfigError, match="did you mean base"):
        cook(only="bas")


def test_every_problem_of_every_stage_at_once(kitchen):
    found = problems('''
        title = "x"
        [docs]
        run = "wrods"
        [base]
        run = "words"
        txet = "b"
        loudness = 2
        data = ["@dosc", "missing.txt"]
        [base.deep]
        loudness = "loud"
        ''')
    assert found == [
        "bad.toml:2: title: not a stage; a recipe holds `name` and one table a stage",
        'bad.toml:4: docs.run: unknown verb "wrods"; did you mean words?',
        "bad.toml:7: base.txet: unknown key; did you mean text?",
        "bad.toml:8: base.loudness: unknown key here (belongs under base.deep)",
        "bad.toml:9: base.data[0]: there is no stage dosc; did you mean @docs?",
        "bad.toml:9: base.data[1]: there is no file or folder missing.txt",
        'bad.toml:11: base.deep.loudness: must be a whole number, is "loud"',
    ]


@pytest.mark.parametrize(("text", "expected"), [
    ("[words]\ndata = ['nowhere.txt']", "bad.toml:2: words.data[0]: there is no file or folder nowhere.txt"),
    ("[words]\ndata = ['mael.toml']", "did you mean meal.toml?"),
    ("[words]\ndata = ['python:stdlb']", "did you mean python:stdlib?"),
    ("[a]\nrun='words'\n[words]\ndata = ['a']", "did you mean the stage @a?"),
    ("[words]\ndata = ['@words']", "words -> words: these stages wait for each other"),
    ("[a]\nrun='words'\ndata=['@b']\n[b]\nrun='words'\ndata=['@c']\n[c]\nrun='words'\ndata=['@a']",
     "these stages wait for each other"),
    ("[base]\ntext = 'a'", 'no verb of this name, and no run = "..." that gives one; one of words, shout, judge'),
    ("[words]\nrun = 3", "unknown verb 3"), ("", "the recipe has no stage"),
    ('name = "a/b"\n[words]', "name: must be letters"), ('["../up"]\nrun = "words"', "name is made of letters"),
    ("[judge]", "judge.models: missing"),
])
def test_one_problem(kitchen, text, expected):
    found = problems(text)
    assert len(found) == 1 and expected in found[0]


def test_overrides_have_their_own_place(kitchen):
    found = problems(RECIPE, ["base.deep.loudness=x", "base.dep.loudness=1", "bas.text=1", "base=1", "sft.colour=red"])
    assert sorted(found) == sorted([
        '--set base.deep.loudness=x: base.deep.loudness: must be a whole number, is "x"',
        "--set base.dep.loudness=1: base.dep: unknown key; did you mean deep?",
        "--set bas.text=1: there is no stage bas; did you mean base?",
        "--set base=1: name an option of base: base.key=value",
        "--set sft.colour=red: sft.colour: unknown key; this section knows text, data, fail, mode, deep",
    ])


def test_order_follows_the_file_where_it_can():
    assert in_order({"c": ["a"], "b": [], "a": []}) == (["b", "a", "c"], [])
    assert in_order({"a": ["b"], "b": ["a"]})[1][0] in ("a", "b")


def test_the_folder_of_another_recipe_is_refused(kitchen):
    cook()
    Path("other").mkdir()
    Path("other/meal.toml").write_text(RECIPE)
    with pytest.raises(InputError, match="belongs to another recipe") as caught:
        run(Path("other/meal.toml"), stages=FAKE)
    assert "meal.toml" in caught.value.why
    Path("runs/mine").mkdir()
    Path("runs/mine/diary.txt").write_text("x")
    Path("mine.toml").write_text(RECIPE)
    with pytest.raises(InputError, match="not ours"):
        run(Path("mine.toml"), stages=FAKE)


def test_a_moved_recipe_keeps_its_folder(kitchen):
    cook()
    worked()
    Path("later").mkdir()
    Path("meal.toml").rename("later/meal.toml")
    run(Path("later/meal.toml"), stages=FAKE)
    assert worked() == []


def test_a_second_run_is_refused_while_the_first_works_and_a_killed_one_is_gone_on_with(kitchen):
    code = dedent('''
        from pathlib import Path
        from bloomery import pipeline
        from bloomery.stages import Stage
        pipeline.run(Path("slow.toml"), stages={"words": Stage("fake_words", "", "")})''')
    Path("slow.toml").write_text("[one]\nrun='words'\ntext='1'\n"
                                 "[two]\nrun='words'\ntext='2'\nfail='slow'\ndata=['@one']\n")
    first = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE,
                             env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        deadline = time.monotonic() + 20
        while not list(Path("runs").glob("slow/two-*/half.txt")):
            assert first.poll() is None and time.monotonic() < deadline, first.stderr.read()
            time.sleep(0.02)
        with pytest.raises(BloomeryError, match="another run is working") as caught:
            run(Path("slow.toml"), stages=FAKE)
        assert f"process {first.pid}" in caught.value.why
    finally:
        first.kill()
        first.wait()
        first.stderr.close()
    assert worked() == ["1", "2"]
    (half,) = Path("runs").glob("slow/two-*/half.txt")
    assert not is_done(half.parent)

    def quick(config, out):
        (out / "word.txt").write_text("2")
        return {}

    sys.modules.pop("fake_words", None)
    patched = load("words", FAKE)[1].__globals__
    patched["run"] = quick
    _, summary = run(Path("slow.toml"), stages=FAKE)
    assert worked() == [] and set(summary["stages"]) == {"one", "two"}          # `one` was not done again
    assert open_artifact(half.parent).record["attempts"] == 2


@pytest.mark.parametrize(("how", "kind", "code", "says"), [
    ("disk", BloomeryError, 1, "the disk is full"), ("memory", BloomeryError, 1, "not enough memory"),
    ("defect", Defect, 1, "ZeroDivisionError: one over nothing"), ("ctrl-c", Interrupted, 130, "stopped"),
    ("term", Preempted, 75, "stopped"),
])
def test_failures_in_words(kitchen, how, kind, code, says):
    with pytest.raises(kind) as caught:
        cook(overrides=(f"base.fail={how}",))
    assert caught.value.exit_code == code and says in str(caught.value)
    (folder,) = Path("runs/meal").glob("base-*")
    assert how == "term" or str(folder) in str(caught.value)
    assert not is_done(folder) and list(Path("runs/meal").glob("docs-*/DONE"))      # what was finished is kept
    if how == "disk":
        assert "MiB are free" in caught.value.why
    if how == "defect":
        assert "one over nothing" in (folder / ".traceback.txt").read_text()


def test_a_file_too_large_is_a_full_disk(kitchen):
    """With RLIMIT_FSIZE, as an unprivileged user meets a full disk: the real error, from the real system call."""
    code = dedent('''
        import resource, signal, sys
        from pathlib import Path
        from bloomery import pipeline
        from bloomery.core.errors import BloomeryError
        from bloomery.stages import Stage
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            pipeline.run_verb("words", ["text=" + "a" * 60_000, "out=big"], {"words": Stage("fake_words", "", "")})
        except BloomeryError as error:
            sys.exit(str(error)[:200])''')
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 1 and "the disk is full" in done.stderr and "where: big" in done.stderr


def test_a_verb_by_itself(kitchen):
    Path("in.txt").write_text("!")
    made = run_verb("shout", ["text=a", "data=in.txt", "out=loud"], FAKE)
    assert Path("loud/word.txt").read_text() == "aaa!" and made.metrics["mode"] == "loud"
    worked()
    run_verb("shout", ["text=a", "data=in.txt", "out=loud"], FAKE)
    assert worked() == []
    with pytest.raises(InputError, match="belongs to something else"):
        run_verb("shout", ["text=b", "data=in.txt", "out=loud"], FAKE)
    assert FAKE["shout"].preset == {"mode": "loud", "deep": {"loudness": 3}}
    run_verb("shout", ["deep.loudness=1", "out=soft"], FAKE)
    assert FAKE["shout"].preset == {"mode": "loud", "deep": {"loudness": 3}}


def test_a_verb_says_everything_that_is_wrong(kitchen):
    with pytest.raises(ConfigError) as caught:
        run_verb("words", ["txet=a", "data=@docs,nowhere", "deep.loudness=x"], FAKE)
    text = str(caught.value)
    for part in ("txet=a: txet: unknown key; did you mean text?", "deep.loudness=x: deep.loudness: must be a whole",
                 "out: missing", "@docs: only a recipe has stages", "data[1]: there is no file or folder nowhere"):
        assert part in text


def test_a_finished_output_is_read_by_its_hash_and_an_unfinished_one_refused(kitchen):
    run_verb("words", ["text=a", "out=good"], FAKE)
    first = pipeline.source_hash("good")
    assert first == open_artifact(Path("good")).hash
    with pytest.raises(BloomeryError):
        run_verb("words", ["fail=memory", "out=half"], FAKE)
    with pytest.raises(ConfigError, match="half is unfinished"):
        run_verb("words", ["data=half", "out=next"], FAKE)


@pytest.mark.parametrize("verb", STAGES)
def test_every_verb_of_ours_can_be_loaded(verb):
    model, run_stage, forecast = load(verb)
    assert set(STAGES[verb].preset) <= set(model.model_fields) and callable(run_stage)
    assert forecast is None or callable(forecast)


def test_a_path_may_begin_with_a_variable_of_the_environment(kitchen, monkeypatch):
    text = '[words]\ntext = "w"\ndata = ["$PANTRY/salt.txt"]'
    found = problems(text)
    assert len(found) == 1 and "PANTRY is not set" in found[0]
    Path("cellar").mkdir()
    Path("cellar/salt.txt").write_text("na")
    monkeypatch.setenv("PANTRY", "cellar")
    Path("meal.toml").write_text(text)
    steps, _ = cook()
    assert (steps["words"].folder / "word.txt").read_text() == "wna"


CHANGING = '''
from pathlib import Path
from typing import Annotated
from bloomery.core.config import Fixed, Free, Input, Settings
from pydantic import Field

class Deep(Settings):
    loudness: int = 1
    colour: Annotated[str, Free()] = "red"

class Config(Settings):
    text: str = "a"
    shape: Annotated[int, Fixed()] = 1
    often: Annotated[int, Free()] = Field(5, gt=0)
    data: Input | None = None
    deep: Deep = Deep()
    accept_change: Annotated[bool, Free()] = False

def run(config, out):
    (out / "begun.txt").write_text(config.text)
    if config.text == "stop":
        raise OSError(28, "full")
    return {"text": config.text}
'''


@pytest.fixture
def changing(kitchen):
    (kitchen / "fake_changing.py").write_text(CHANGING)
    yield {"changing": Stage("fake_changing", "Change.", "bloomery changing out=x")}
    sys.modules.pop("fake_changing", None)


def test_what_cannot_matter_is_not_in_the_hash(changing):
    first = run_verb("changing", ["text=b", "out=x"], changing)
    again = run_verb("changing", ["text=b", "out=x", "often=9", "deep.colour=blue"], changing)
    assert first.hash == again.hash and first.record["config"]["often"] == 5
    with pytest.raises(InputError, match="belongs to something else") as caught:
        run_verb("changing", ["text=c", "out=x", "deep.loudness=3"], changing)
    assert 'text: "b" -> "c"' in caught.value.why and "deep.loudness: 1 -> 3" in caught.value.why


def test_an_unfinished_folder_goes_on_after_a_change_only_when_asked(changing):
    Path("data.txt").write_text("1")
    with pytest.raises(BloomeryError, match="disk"):
        run_verb("changing", ["text=stop", "data=data.txt", "out=x"], changing)
    with pytest.raises(InputError) as caught:
        run_verb("changing", ["text=go", "data=data.txt", "out=x"], changing)
    assert 'text: "stop" -> "go"' in caught.value.why and "accept_change" in caught.value.hint
    with pytest.raises(InputError, match="belongs to something else") as caught:
        run_verb("changing", ["text=go", "data=data.txt", "shape=2", "out=x", "accept_change=true"], changing)
    assert "shape: 1 -> 2" in caught.value.why and "would not fit" in caught.value.why
    Path("data.txt").write_text("2")
    with pytest.raises(InputError) as caught:
        run_verb("changing", ["text=stop", "data=data.txt", "out=x"], changing)
    assert caught.value.why == "data: its content has changed"
    made = run_verb("changing", ["text=go", "data=data.txt", "out=x", "accept_change=true"], changing)
    assert made.metrics == {"text": "go"} and made.record["attempts"] == 2
    with pytest.raises(InputError, match="belongs to something else"):      # finished: nothing is to be gone on with
        run_verb("changing", ["text=other", "data=data.txt", "out=x", "accept_change=true"], changing)
