"""The command line: exit codes, what goes to stdout and what to stderr, help that has an example everywhere."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from bloomery import cli, console, forecast, inspection
from bloomery.console import main_numbers, print_answers, terminal
from bloomery.core import config
from bloomery.core.errors import InputError
from bloomery.doctor import memory_gb
from bloomery.pipeline import plan, read_recipe
from bloomery.stages import STAGES, Stage
from bloomery.train.precision import matmul_rate

ROOT = Path(__file__).parents[1]
FAKE = '''
import os, time
from pathlib import Path
from bloomery.core.config import Input, Settings
from pydantic import Field

class Config(Settings):
    """Says a word."""
    word: str = Field("a", description="what is said")
    data: Input | None = None
    wait: float = 0

def run(config, out):
    (out / "word.txt").write_text(config.word)
    if config.wait:
        (out / "waiting").write_text("")
        time.sleep(config.wait)
    if config.word == "broken":
        raise KeyError("nothing here")
    return {"length": len(config.word), "speed": 12345678.0}

def forecast(config, planned):
    return {"parameters": 12_000_000, "flops": 1e9, "memory_gb": 1e6 if config.word == "huge" else 0.5}
'''
RECIPE = '[first]\nrun = "say"\nword = "one"\n\n[second]\nrun = "say"\ndata = "@first"\n'
SAY = Stage("fake_say", "Say a word.", "bloomery say word=a out=x")
START = '''
import sys
sys.path.insert(0, sys.argv.pop(1))
from bloomery import stages
stages.STAGES["say"] = stages.Stage("fake_say", "Say a word.", "bloomery say word=a out=x")
from bloomery.cli import main
sys.exit(main())
'''


@pytest.fixture
def room(tmp_path, monkeypatch):
    """An empty folder with a verb `say`, as `command(...)` sees it in this process: (exit code, stdout, stderr)."""
    (tmp_path / "fake_say.py").write_text(FAKE)
    (tmp_path / "r.toml").write_text(RECIPE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(STAGES, "say", SAY)
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    cli.add_verb("say", SAY)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)
    sys.modules.pop("fake_say", None)


@pytest.fixture
def command(room, capfd):
    def call(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()
    return call


def process(room, *arguments):
    return subprocess.Popen([sys.executable, "-c", START, str(room), *arguments], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, cwd=room, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_a_recipe_from_the_command_line(command):
    code, out, err = command("run", "r.toml")
    assert code == 0 and err.startswith("r: 2 stages, 0 already done, 2 to run\n[1/2] first: say  runs/r/first-")
    words = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert [word for word in words if word[0].isalpha()] == ["stage", "first", "second", "all"]
    assert "length 3  speed 12.3M" in out
    code, out, err = command("run", "r.toml", "--json")
    assert code == 0 and "2 already done, 0 to run" in err
    assert json.loads(out)["stages"]["first"]["metrics"]["length"] == 3


def test_the_outcome_puts_measurements_where_they_belong(capsys, tmp_path):
    metrics = {"dropped/short": 3, "steps": 5, "val_loss": 2.5, "text": "x", "list": [1]}
    assert main_numbers(metrics, []) == "val_loss 2.5  steps 5  text x"
    assert main_numbers({"base.val_bpb": 1.5, "other.count": 2, "x_base": 3}, ["base", "sft"]) == "other.count 2"
    assert main_numbers({"base.val_bpb": 1.5}, ["base", "sft"]) == "measured base: see there"
    answers = [{"prompt": [{"role": "user", "content": f"question {i}"}], "expected": None,
                "answers": {"base": "[b]bold", "sft": "y" * 500}} for i in range(9)]
    print_answers(terminal(), answers)
    out = capsys.readouterr().out
    assert "question 0" in out and "[b]bold" in out and "3 more in answers.json" in out
    assert "question 6" not in out and out.count("y") < 6 * 200


def test_overrides_and_another_folder(command):
    code, out, _ = command("run", "r.toml", "--set", "first.word=longer", "--out", "elsewhere", "--json")
    assert code == 0 and json.loads(out)["metrics"]["first.length"] == 6 and Path("elsewhere/r/summary.json").exists()


def test_the_plan_without_running(command):
    code, out, _ = command("run", "r.toml", "--dry-run")
    assert code == 0 and out.count("to run") == 2 and "12M" in out and not Path("runs").exists()
    command("run", "r.toml", "--only", "first")
    code, out, _ = command("run", "r.toml", "--dry-run", "--json")
    first, second = json.loads(out)["stages"]
    assert (first["state"], second["state"]) == ("done", "to run") and "flops" not in first
    assert 0 < second["seconds"] < 60                       # 1 GFLOP
    code, out, _ = command("run", "r.toml", "--dry-run", "--set", "first.word=huge")
    assert code == 0 and "warning: 1000000.0 GB of memory are needed" in out


def test_a_plan_from_nothing_knows_the_models(command, monkeypatch):
    """What the recipe says is enough for parameters and tokens of stages whose inputs nobody has made yet."""
    monkeypatch.setattr(forecast, "matmul_rate", lambda dtype, device: 1e12)
    Path("c.jsonl").write_text("")                          # hashing the standard library takes a second
    given = ("curate.source=c.jsonl", "base.precision=fp32", "sft.precision=fp32", "dpo.precision=fp32",
             "base.model.width=256", "tokenizer.vocabulary=4096")
    quickstart = ("run", ROOT / "recipes" / "quickstart.toml", "--dry-run",
                  *(part for text in given for part in ("--set", text)))
    code, out, _ = command(*quickstart, "--json")
    rows = {row["stage"]: row for row in json.loads(out)["stages"]}
    base = {step.task.name: step for step in plan(read_recipe(quickstart[1]), Path("x"))}["base"].config
    assert code == 0 and rows["base"]["tokens"] == base.steps * base.rows * base.model.context
    assert rows["base"]["parameters"] == rows["sft"]["parameters"] == rows["dpo"]["parameters"] > 1e6
    for name in ("base", "sft", "dpo"):
        assert rows[name]["memory_gb"] > 0.1
        assert rows[name]["seconds"] == pytest.approx(rows[name]["flops"] / (1e12 * forecast.UTILIZATION))
    code, out, _ = command(*quickstart, "--json", "--set", "tokenizer.vocabulary=8192")
    larger = {row["stage"]: row for row in json.loads(out)["stages"]}["sft"]
    assert larger["parameters"] - rows["sft"]["parameters"] == (8192 - 4096) * 256
    code, out, _ = command(*quickstart)
    assert code == 0 and "sft: 64 tokens a sample assumed" in out and "not counting curate" in out


def test_forecasts_bear_inputs_that_are_not_made_yet(room, monkeypatch):
    steps = plan(read_recipe(Path("r.toml"), (), STAGES), Path("runs"))

    def unknown(settings, planned):
        raise InputError("no shards yet")

    monkeypatch.setattr(sys.modules["fake_say"], "forecast", unknown)
    steps = plan(read_recipe(Path("r.toml"), (), STAGES), Path("runs"))
    found = forecast.forecast(steps)
    assert found["without_forecast"] == ["first", "second"] and found["stages"][0]["note"]


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["run", "nowhere.toml"], 2, "there is no such recipe"), (["run", "r.toml", "--set", "first.wrod=x"], 2, "word?"),
    (["run", "r.toml", "--only", "frist"], 2, "did you mean first?"), (["run"], 2, "RECIPE"),
    (["ruin"], 2, "run"), (["say", "wodr=a", "out=x"], 2, "did you mean word?"), (["say", "word"], 2, "key=value"),
    (["say", "word=a"], 2, "out: missing"), (["verify", "nowhere"], 1, "not a finished output"),
    (["show", "nowhere"], 1, "there is nothing to show"), (["say", "word=broken", "out=x"], 1, "a defect of bloomery"),
    (["check", "nowhere.toml"], 2, "there is no such recipe"),
])
def test_errors_have_a_code_one_screen_and_no_traceback(command, arguments, code, says):
    got, out, err = command(*arguments)
    assert got == code and says in err and out == ""
    assert "Traceback" not in err and len(err.splitlines()) < 20


def test_debug_shows_the_traceback(command):
    code, _, err = command("say", "word=broken", "out=x", "--debug")
    assert code == 1 and "Traceback" in err and 'raise KeyError("nothing here")' in err
    assert "nothing here" in Path("x/.traceback.txt").read_text()


def test_all_errors_of_a_recipe_at_once(command):
    Path("bad.toml").write_text('[first]\nrun = "sya"\n[second]\nrun = "say"\nwrod = 1\ndata = "@frist"\n')
    code, _, err = command("run", "bad.toml")
    assert code == 2 and "3 problems in bad.toml" in err
    for line in ('bad.toml:2: first.run: unknown verb "sya"; did you mean say?',
                 "bad.toml:5: second.wrod: unknown key; did you mean word?",
                 "bad.toml:6: second.data: there is no stage frist; did you mean @first?"):
        assert line in err


def test_a_damaged_output_fails_its_check(command):
    command("run", "r.toml")
    (folder,) = Path("runs/r").glob("first-*")
    assert command("verify", folder)[:2] == (0, "3 files as recorded\n")
    (folder / "word.txt").write_text("eno")
    code, _, err = command("verify", folder)
    assert code == 3 and "word.txt" in err


def test_a_verb_takes_every_spelling(room):
    assert cli.assignments(["a=1", "--b=2", "--c-d", "3", "--e.f", "g=h"]) == ["a=1", "b=2", "c_d=3", "e.f=g=h"]
    assert cli.assignments(["--lonely"]) == ["lonely"]


@pytest.mark.parametrize("verb", STAGES)
def test_every_verb_explains_itself(command, verb):
    code, out, _ = command(verb, "--help")
    assert code == 0 and f"bloomery {verb} " in out and STAGES[verb].example in out
    model = cli.load(verb)[0]
    for keys, part in config.sections(model):
        assert not keys or f"[{'.'.join(keys)}]  {part.__doc__.splitlines()[0]}" in out
    shown = {line.split()[0] for line in out.splitlines() if line.strip()}
    assert {option.name.rpartition(".")[2] for option in config.options(model)} <= shown


@pytest.mark.parametrize("verb", STAGES)
def test_every_option_says_what_it_is(verb):
    model = cli.load(verb)[0]
    assert [option.name for option in config.options(model) if not option.description] == []
    for keys, part in config.sections(model):
        assert part.__doc__ and part.__doc__ != config.Settings.__doc__, keys


@pytest.mark.parametrize(("columns", "types"), [(80, False), (120, True)])
def test_help_fits_its_terminal(columns, types, monkeypatch, capsys):
    monkeypatch.setattr(console, "terminal", lambda: Console(width=columns))
    console.print_verb_help("curate", STAGES["curate"], cli.load("curate")[0])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns and any("float, float" in line for line in lines) == types
    assert any(line.split()[:1] == ["duplicate_paragraph_characters"] for line in lines)       # whole, not folded


@pytest.mark.parametrize("verb", STAGES)
def test_examples_use_options_that_exist(verb):
    model = cli.load(verb)[0]
    given = [text.partition("=")[0].split(".")[0] for text in STAGES[verb].example.split()[2:]]
    assert set(given) - {"out"} <= set(model.model_fields)
    assert {name for name, field in model.model_fields.items() if field.is_required()} <= set(given)


@pytest.mark.parametrize("name", ["run", "check", "chat", "show", "verify", "doctor"])
def test_every_command_has_an_example(command, name):
    code, out, _ = command(name, "--help")
    assert code == 0 and f"example: bloomery {name}" in out


def test_help_needs_no_torch(room):
    code = "import sys; from bloomery.cli import main; assert main(['--help']) == 0; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and "From raw text" in done.stdout and "pretrain" in done.stdout, done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_stops_and_the_same_command_goes_on(room, number, code):
    command = ("run", "r.toml", "--set", "second.wait=20")
    running, deadline = process(room, *command), time.monotonic() + 30
    try:
        while not list(room.glob("runs/r/second-*/waiting")):
            assert running.poll() is None and time.monotonic() < deadline, running.communicate()[1]
            time.sleep(0.02)
        running.send_signal(number)
        _, err = running.communicate(timeout=15)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == code and "run the same command again" in err and "Traceback" not in err
    assert list(room.glob("runs/r/first-*/DONE")) and not list(room.glob("runs/r/second-*/DONE"))


def test_check_reads_the_data_to_its_end(command):
    Path("in.jsonl").write_text('{"text": "a"}\n{"text": "b"\n{"text": "c"}\n')
    code, out, _ = command("check", "r.toml", "--set", "first.data=in.jsonl", "--json")
    (found,) = json.loads(out)["inputs"]
    assert code == 0 and (found["option"], found["rows"], found["unusable"]) == ("first.data", 2, 1)
    assert found["examples"][0]["where"] == "in.jsonl:2"
    Path("in.jsonl").write_text("{{{\n")
    code, _, err = command("check", "r.toml", "--set", "first.data=in.jsonl")
    assert code == 1 and "in.jsonl:1" in err
    assert inspection.examine("python:stdlib") == {"kind": "built in"}


def test_doctor(command):
    code, out, _ = command("doctor", "--json")
    found = json.loads(out)
    assert code == 0 and found["torch"]["found"] and found["[vllm]"]["try"] in ("", "pip install 'bloomery[vllm]'")


def test_the_probe_measures_this_machine():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    assert 1e8 < matmul_rate(torch.float32, size=256) < 1e16
    assert torch.get_num_threads() == threads
    total, available = memory_gb()
    assert 0 < available <= total
