"""A corpus and a life of a model small enough for tests: a few hundred short documents, one block of width 64."""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp

import pytest

from bloomery import cli

ROOT = Path(__file__).parents[1]
NOUNS = ("river", "boat", "sea", "harbor", "stone", "field", "garden", "winter", "light", "road", "bridge", "forest")
VERBS = ("sees", "holds", "follows", "carries", "remembers", "crosses", "leaves", "finds", "keeps", "watches")
ADJECTIVES = ("old", "green", "quiet", "narrow", "bright", "heavy", "distant", "warm", "broken", "early")

QUICKSTART = (                          # the stages of recipes/quickstart.toml, each made to take about a second
    "curate.gopher.without=stop_words", "tokenizer.vocabulary=300", "shards.validation=0.1",
    "base.steps=6", "base.rows=2", "base.micro_rows=2", "base.validation_tokens=500", "base.precision=fp32",
    "base.model.depth=1", "base.model.width=64", "base.model.context=256", "base.save_every=2",
    "questions.expressions=60", "questions.max_objects=120",
    "sft.steps=4", "sft.examples=4", "sft.validation_examples=8", "sft.precision=fp32", "sft.save_every=2",
    "reward.steps=4", "reward.pairs=4", "reward.validation_pairs=8", "reward.precision=fp32", "reward.save_every=2",
    "dpo.steps=4", "dpo.pairs=4", "dpo.validation_pairs=8", "dpo.precision=fp32", "dpo.save_every=2",
    "grpo.steps=2", "grpo.prompts=4", "grpo.samples=2", "grpo.validate_every=1", "grpo.look.prompts=4",
    "grpo.sampling.max_tokens=8", "grpo.precision=fp32", "grpo.save_every=1", "grpo.optimizer.warmup=0",
    "expressions.generated=6", "expressions.max_tokens=8", "expressions.precision=fp32",
    "evaluate.examples=12", "evaluate.generated=6", "evaluate.max_tokens=8", "evaluate.precision=fp32",
)

LIFE = '''
[curate]
source = "corpus.jsonl"
gopher = { without = ["stop_words"] }

[tokenizer]
data = "@curate"
vocabulary = 300

[shards]
data = "@curate"
tokenizer = "@tokenizer"
validation = 0.1

[base]
run = "pretrain"
data = "@shards"
tokenizer = "@tokenizer"
steps = 2
rows = 2
precision = "fp32"
model = { depth = 1, width = 64, context = 128 }

[sft]
model = "@base"
data = "chat.jsonl"
steps = 2
examples = 6
precision = "fp32"

[dpo]
model = "@sft"
data = "pairs.jsonl"
steps = 1
pairs = 2
precision = "fp32"
'''


def sentence(rng: Random) -> str:
    thing = [f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}" for _ in range(3)]
    return f"{thing[0]} {rng.choice(VERBS)} {thing[1]} and {thing[2]} of number {rng.randint(0, 999)}.".capitalize()


def prose(number: int, sentences: int = 16) -> str:
    """One document of two hundred words or so that every curation rule keeps."""
    rng = Random(number)
    return " ".join(sentence(rng) for _ in range(sentences))


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_corpus(path: Path, documents: int = 200) -> Path:
    return write_rows(path, [{"text": prose(number)} for number in range(documents)])


def bloomery(*arguments: object, cwd: Path, **options) -> subprocess.Popen:
    """The command line in a process of its own, one thread, where signals and limits do no harm to the tests."""
    return subprocess.Popen([sys.executable, "-m", "bloomery.cli", *map(str, arguments)], cwd=cwd, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, **options)


def end(process: subprocess.Popen, number: int = signal.SIGKILL) -> None:
    process.send_signal(number)
    process.communicate()


@cache
def small_run() -> Path:
    """The folder of a recipe that went from documents to a preferring model, made once for all who look at it.

    Some documents are dropped or cannot be read.  Paths in its configurations lead on from the folder two above.
    """
    room = Path(mkdtemp(prefix="bloomery-"))
    atexit.register(shutil.rmtree, room)
    write_corpus(room / "corpus.jsonl", 80)
    with open(room / "corpus.jsonl", "a", encoding="utf-8") as file:
        for text in ("too short", "[bold]brief[/bold]", "do not edit this"):
            file.write(json.dumps({"text": text}) + "\n")
        file.write("{broken\n")
    asked = [(f"What is {n} + 1?", n) for n in range(9)]
    write_rows(room / "chat.jsonl", [{"prompt": prompt, "completion": f"It is {n + 1}."} for prompt, n in asked])
    write_rows(room / "pairs.jsonl", [{"prompt": prompt, "chosen": f"It is {n + 1} now.", "rejected": f"It is {n} now.",
                                       "id": f"pair {n}"} for prompt, n in asked])
    (room / "life.toml").write_text(LIFE)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(room)
        assert cli.main(["run", "life.toml"]) == 0
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)
    return room / "runs" / "life"
