"""`bloomery generate`: rows in, the same rows with completions out, the same bytes however often it was stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from miniature import ROOT, end, prose, write_rows

from bloomery import cli, completions
from bloomery.completions import row_seed
from bloomery.core.artifacts import lock
from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.decoding import GenerateOptions
from bloomery.generate.best_of import kl_bound
from bloomery.generate.scoring import RewardModel
from bloomery.model.config import ModelConfig
from bloomery.model.scalar import ScalarModel, save_scalar
from bloomery.model.store import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.row_files import claimed
from bloomery.speaker import Speaker
from bloomery.text.chat import Renderer
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import train_tokenizer

CONTEXT = 160
QUESTIONS = [{"prompt": f"What is {n} + {n * n % 7}?", "id": n} for n in range(40)]
DRAWN = ("--temperature", 1, "--max-tokens", 12, "--slots", 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A folder of random weights, large enough that one token follows another for a reason."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer([prose(number) for number in range(20)], vocabulary=300)
    made = Transformer(ModelConfig(vocabulary=300, context=CONTEXT, depth=2, width=32, heads=4, kv_heads=2,
                                   head_width=8, hidden=48), seed=1)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(4 if weight.dim() > 1 else 1)
    save_model(made, folder, bos=tokenizer.eos, eos=[tokenizer.turn_end])
    tokenizer.save(folder, context=CONTEXT, chat_template=TEMPLATES["chatml"].jinja())
    return folder


@pytest.fixture
def generate(model, tmp_path, monkeypatch, capfd):
    """`generate(rows or file, *options, code=0)`: (what stands in out.jsonl, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MKL_CBWR", "AVX2")                  # what the command sets is for no other test

    def call(rows, *options, code=0, out="out.jsonl"):
        path = rows if isinstance(rows, Path) else write_rows(Path("in.jsonl"), rows)
        got = cli.main([str(part) for part in ("generate", model, path, out, *options)])
        printed, err = capfd.readouterr()
        assert got == code, err
        assert code == 0 or printed == ""
        return read(out) if code == 0 else [], err
    return call


def read(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def texts(rows):
    return [[one["text"] for one in row["completions"]] for row in rows]


def test_rows_keep_their_columns_and_their_order(generate):
    rows, err = generate(QUESTIONS, *DRAWN, "-n", 2)
    assert [{key: row[key] for key in ("prompt", "id")} for row in rows] == QUESTIONS
    assert all(list(row) == ["prompt", "id", "completions"] and len(row["completions"]) == 2 for row in rows)
    assert all(one["finish"] in ("stop", "length") and one["logp"] < 0 for row in rows for one in row["completions"])
    assert len({text for pair in texts(rows) for text in pair}) > 40
    assert sorted(path.name for path in Path().iterdir()) == [".out.jsonl.json", "in.jsonl", "out.jsonl"]


def test_what_stands_there_is_what_the_model_says(generate, model):
    """Greedy answers, in the form they have in a chat; a row's answer is the same alone and among others."""
    rows, _ = generate(QUESTIONS[:6], "--max-tokens", 9, "--system", "be kind")
    speaker = Speaker(model)
    for row in rows:
        turns = (Message("system", "be kind"), Message("user", row["prompt"]))
        answer = "".join(speaker.reply(turns, GenerateOptions(max_tokens=9)))
        assert texts([row]) == [[answer]]
    drawn, _ = generate(QUESTIONS[:6], *DRAWN, out="all.jsonl")
    alone, _ = generate(QUESTIONS[:1], *DRAWN, out="one.jsonl")
    assert alone == drawn[:1]


def test_every_kind_of_row(generate, model):
    renderer = Renderer(Speaker(model).tokenizer)
    turns = [{"role": "user", "content": "What?"}]
    asked = [{"prompt": "What?"}, {"prompt": turns}, {"messages": turns},
             {"messages": [*turns, {"role": "assistant", "content": "That."}], "task": "t"},
             {"prompt": "What?", "chosen": "This.", "rejected": "That."},
             {"chosen": [*turns, {"role": "assistant", "content": "a"}], "rejected": "b"},
             {"ids": renderer.prompt((Message("user", "What?"),))}]
    rows, _ = generate(asked, "--max-tokens", 8)
    assert texts(rows) == texts(rows[:1]) * 7 and rows[3]["task"] == "t"
    assert renderer.tokenizer.decode(rows[6]["completions"][0]["ids"]) == texts(rows)[0][0]
    assert "ids" not in rows[0]["completions"][0]
    ids = [renderer.tokenizer.eos, *renderer.tokenizer.encode("the old")]
    rows, _ = generate([{"prompt": "the old"}, {"text": "the old"}, {"ids": ids}],
                       "--plain", "--ids", "--max-tokens", 8, out="plain.jsonl")
    assert rows[0]["completions"] == rows[1]["completions"] == rows[2]["completions"]


def test_a_model_without_a_tokenizer_takes_ids(generate, model, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((model / name).read_bytes())
    found = completions.complete_file(bare, write_rows(Path("in.jsonl"), [{"ids": [4]}]), Path("o.jsonl"),
                                       GenerateOptions(max_tokens=2))
    assert found["generated_tokens"] == 2 and len(read("o.jsonl")[0]["completions"][0]["ids"]) == 2
    with pytest.raises(InputError, match="rows cannot be used") as caught:
        asked = write_rows(Path("p.jsonl"), [{"prompt": "x"}])
        completions.complete_file(bare, asked, Path("q.jsonl"), GenerateOptions())
    assert "no tokenizer" in caught.value.why


def test_bad_rows_are_one_error_before_any_work(generate):
    Path("bad.jsonl").write_text("\n".join([
        '{"prompt": "fine"}', '{"prompt": 3}', "{broken", '{"text": "no question"}', '{"prompt": "  "}',
        '{"ids": [1, 999]}', json.dumps({"prompt": "long " * CONTEXT}), '{"prompt": "a", "completions": []}']))
    _, err = generate(Path("bad.jsonl"), code=1)
    assert "error: 7 of 8 rows cannot be used" in err and "nothing was written" in err and "and 2 more" in err
    for place in ("bad.jsonl:2: prompt: not a list of messages", "bad.jsonl:3: invalid JSON",
                  "bad.jsonl:4: no column ids, messages or prompt", "bad.jsonl:5: an empty message"):
        assert place in err
    assert [path.name for path in Path().iterdir()] == ["bad.jsonl"]
    _, err = generate([{"ids": []}], code=1)
    assert "it has 0 tokens, the model reads 1 to 159" in err
    assert "no such file" in generate(Path("missing.jsonl"), code=1)[1]
    assert "a folder that exists" in generate(QUESTIONS, code=1, out="nowhere/out.jsonl")[1]


@pytest.mark.parametrize("options, why", [
    (("-n", 4), "4 completions at temperature 0 would all be the same"),
    (("--best-of", 2, "-n", 3, "--temperature", 1), "best_of must be at least n"),
    (("--best-of", 9, "--slots", 8, "--temperature", 1), "9 completions of a prompt need as many slots"),
    (("--top-p", 0), "option top_p: must be greater than 0.0, is 0"),
    (("--stop", ""), "a stop string must not be empty")])
def test_options_that_make_no_sense(generate, options, why):
    assert why in generate(QUESTIONS, *options, code=2)[1] and not Path("out.jsonl").exists()


def test_best_of_by_log_probability(generate):
    """The best n of those drawn, as they would have been drawn without ranking."""
    every, _ = generate(QUESTIONS[:5], *DRAWN, "-n", 4, "--ids", out="every.jsonl")
    best, err = generate(QUESTIONS[:5], *DRAWN, "-n", 2, "--best-of", 4, "--ids", out="best.jsonl")
    for all_of_them, kept in zip(every, best, strict=True):
        def mean(one):
            return one["logp"] / (len(one["ids"]) + (one["finish"] == "stop"))
        ranked = sorted(all_of_them["completions"], key=mean, reverse=True)[:2]
        assert [{**one, "score": pytest.approx(mean(one), abs=1e-5)} for one in ranked] == kept["completions"]
    assert f"best of 4: {kl_bound(4):.3f} nats" in err


def test_a_reward_ranks(generate, monkeypatch):
    """Whatever scores: here length, and of two the mean."""
    class Length:
        def __init__(self, folder, *, device):
            self.sign = -3.0 if "short" in folder.name else 1.0

        def __call__(self, prompts, found):
            assert prompts == [(Message("user", QUESTIONS[0]["prompt"]),)]
            return [[self.sign * len(text) for text in texts] for texts in found]

    monkeypatch.setattr(completions, "RewardModel", Length)
    for folder in ("long", "short"):
        Path(folder).mkdir()
    (kept,), _ = generate(QUESTIONS[:1], *DRAWN, "-n", 4, "--reward", "long")
    lengths = [len(one["text"]) for one in kept["completions"]]
    assert lengths == sorted(lengths, reverse=True) == [one["score"] for one in kept["completions"]]
    (both,), _ = generate(QUESTIONS[:1], *DRAWN, "-n", 4, "--reward", "long", "--reward", "short", out="both.jsonl")
    assert [one["score"] for one in both["completions"]] == [-length for length in sorted(lengths)]
    assert "a reward model reads a dialogue" in generate([{"ids": [1]}], "--reward", "long", out="x.jsonl", code=1)[1]


def test_a_reward_model_from_its_folder(generate, model):
    """The scores in the file are those the reward model gives these texts."""
    judge = Path("judge")
    save_scalar(ScalarModel(load_model(model)), judge)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (judge / name).write_bytes((model / name).read_bytes())
    rows, _ = generate(QUESTIONS[:3], *DRAWN, "-n", 2, "--best-of", 4, "--reward", judge)
    for row in rows:
        found = [one["text"] for one in row["completions"]]
        scores = RewardModel(judge)([(Message("user", row["prompt"]),)], [found])[0]
        assert [one["score"] for one in row["completions"]] == pytest.approx(scores, abs=1e-5)
        assert scores == sorted(scores, reverse=True)


def test_seeds_are_a_function_of_seed_and_row():
    seeds = {row_seed(seed, row) for seed in range(30) for row in range(30)}
    assert len(seeds) == 900 and all(0 <= seed < 2**63 for seed in seeds)
    assert row_seed(1, 23) == row_seed(1, 23) != row_seed(12, 3)


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory) -> Path:
    """A folder in which twenty rows were completed in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    options = GenerateOptions(temperature=1.0, max_tokens=12, slots=4, n=2)
    completions.complete_file(model, write_rows(folder / "in.jsonl", QUESTIONS[:20]), folder / "out.jsonl", options)
    return folder


@pytest.mark.parametrize("left", [lambda whole: whole[:1], lambda whole: whole[:-1], lambda whole: whole,
                                  lambda whole: whole[:500] + b"\0" * 300,
                                  lambda whole: whole[:len(whole) // 2],
                                  lambda whole: whole[:whole.index(b"\n") + 1] + b'{"id": 1}\n'])
def test_whatever_a_stop_leaves_the_file_is_the_same(generate, undisturbed, left):
    """A letter, all but the last one, all, the zeros of a power failure, half, a line of something else."""
    whole = (undisturbed / "out.jsonl").read_bytes()
    Path(".out.jsonl.json").write_bytes((undisturbed / ".out.jsonl.json").read_bytes())
    Path(".out.jsonl.part").write_bytes(left(whole))
    kept = os.path.commonprefix([left(whole), whole]).count(b"\n")
    _, err = generate(QUESTIONS[:20], *DRAWN, "-n", 2)
    assert Path("out.jsonl").read_bytes() == whole
    assert (f"goes on after {kept} of 20 rows" in err) == (kept > 0)


def test_killed_and_run_again(model, tmp_path):
    """kill -9 on the way, and what comes out is what a run that nobody disturbs has written."""
    asked = [{"prompt": f"What is {n} + 1?"} for n in range(120)]
    write_rows(tmp_path / "in.jsonl", asked)
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
    part, out = tmp_path / ".out.jsonl.part", tmp_path / "out.jsonl"

    def start(name):
        command = (sys.executable, "-m", "bloomery.cli", "generate", model, "in.jsonl", name, "-n", 2, *DRAWN)
        return subprocess.Popen([*map(str, command)], cwd=tmp_path, env=environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def lines():
        return part.read_bytes().count(b"\n") if part.exists() else 0

    process = start(out.name)
    while process.poll() is None and lines() < 20:
        time.sleep(0.001)
    end(process)
    assert not out.exists() and lines() >= 20
    printed, said = (process := start(out.name)).communicate()
    assert (process.returncode, printed) == (0, "120 rows in out.jsonl\n"), said
    start("undisturbed.jsonl").communicate()
    assert out.read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes() and len(read(out)) == 120
    assert "goes on after" in said and not part.exists()


def test_asked_to_stop(generate, undisturbed, monkeypatch):
    """SIGTERM ends it after a step, says how far it came, and loses no row that was written."""
    real, answers = completions.ranked, []

    def interrupted(*arguments):
        answers.append(1)
        if len(answers) == 7:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(completions, "ranked", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    _, err = generate(QUESTIONS[:20], *DRAWN, "-n", 2, code=75)
    kept = Path(".out.jsonl.part").read_bytes()
    lines = kept.count(b"\n")
    assert f"SIGTERM received\ntry:   {lines} of 20 rows are kept" in err and 7 <= lines < 20
    assert (undisturbed / "out.jsonl").read_bytes().startswith(kept) and signal.getsignal(signal.SIGTERM) is before
    generate(QUESTIONS[:20], *DRAWN, "-n", 2)
    assert Path("out.jsonl").read_bytes() == (undisturbed / "out.jsonl").read_bytes()


def test_run_again_when_done_or_with_other_options(generate):
    rows, _ = generate(QUESTIONS[:4], *DRAWN)
    again, err = generate(QUESTIONS[:4], *DRAWN)
    assert again == rows and "already done" in err
    _, err = generate(QUESTIONS[:4], *DRAWN, "--seed", 7, code=2)
    assert "made with other options" in err and "seed: 0 -> 7" in err and "remove out.jsonl" in err
    _, err = generate(QUESTIONS[:5], *DRAWN, code=2)
    assert "prompts: " in err
    Path(".out.jsonl.part").write_bytes(Path("out.jsonl").read_bytes()[:99])
    Path("out.jsonl").unlink()
    _, err = generate(QUESTIONS[:4], *DRAWN, "--top-k", 7, code=2)
    assert "top_k: 0 -> 7" in err and "remove .out.jsonl.part" in err
    assert generate(QUESTIONS[:4], *DRAWN)[0] == rows
    Path("mine.jsonl").write_text("of great worth")
    assert "it was not written by this command" in generate(QUESTIONS, code=2, out="mine.jsonl")[1]
    assert Path("mine.jsonl").read_text() == "of great worth"


def test_two_at_once(generate, tmp_path):
    with claimed(Path("out.jsonl")):
        assert "another run is writing this file" in generate(QUESTIONS, code=1)[1]
    with lock(tmp_path):
        assert len(generate(QUESTIONS[:1], *DRAWN)[0]) == 1 and not Path(".out.jsonl.part").exists()


def test_the_result_as_json(generate, capfd, model):
    write_rows(Path("in.jsonl"), QUESTIONS[:3])
    assert cli.main(["generate", str(model), "in.jsonl", "o.jsonl", "--max-tokens", "5", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["rows"] == 3 and found["done_before"] == 0 and 3 <= found["generated_tokens"] <= 15
    assert sum(found["finish"].values()) == 3
