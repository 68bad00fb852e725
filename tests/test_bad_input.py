"""Bad input, from the command line to the exit code: every error on one screen, and no finished work is ever lost."""

import gzip
import json
import os
import resource
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from miniature import bloomery, end, prose, write_corpus, write_rows

from bloomery import cli
from bloomery.core import artifacts
from bloomery.core.artifacts import is_done, lock, open_artifact, tree_hash

SMALL = ("precision=fp32", "optimizer.lr=1e-3")
SHAPE = ("model.depth=1", "model.width=64", "model.context=128", "rows=2", "micro_rows=2", "validation_tokens=300")
CHAT = [{"prompt": f"What is {n} + 1?", "completion": f"It is {n + 1}."} for n in range(20)]
PAIRS = [{"prompt": f"What is {n} + 1?", "chosen": f"It is {n + 1}.", "rejected": f"It is {n}."} for n in range(20)]


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    """Documents, vocabulary, shards and a base model, made once; no test may change them."""
    folder = tmp_path_factory.mktemp("kitchen")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)                                # so small a model gains nothing from more
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    write_corpus(folder / "corpus.jsonl", 120)
    for arguments in (["curate", f"source={folder}/corpus.jsonl", "gopher.without=stop_words"],
                      ["tokenizer", f"data={folder}/curate", "vocabulary=300"],
                      ["shards", f"data={folder}/curate", f"tokenizer={folder}/tokenizer", "validation=0.1"],
                      ["pretrain", f"data={folder}/shards", f"tokenizer={folder}/tokenizer", "steps=2",
                       *SHAPE, *SMALL]):
        assert cli.main([*arguments, f"out={folder}/{arguments[0]}"]) == 0
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture
def run(kitchen, tmp_path, monkeypatch, capfd):
    """`run(code, *arguments)` is stderr; the current folder is an empty one, and what was finished stays as it was."""
    monkeypatch.chdir(tmp_path)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    whole = tree_hash(kitchen)

    def call(code, *arguments):
        capfd.readouterr()
        got = cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert got == code, err
        assert code == 0 or out == ""
        return err

    yield call
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)
    assert tree_hash(kitchen) == whole


def fits_one_screen(err, *words, parts=("error:", "where:", "why:", "try:")):
    """What, where, why and what to try, on one screen, without a traceback, and with these words in it."""
    lines = err.splitlines()
    assert len(lines) <= 24 and "Traceback" not in err and max(map(len, lines)) < 300
    assert [part for part in parts if not any(line.startswith(part) for line in lines)] == [], err
    assert [word for word in words if word not in err] == [], err


CONFIG = ("error:", "try:")             # each line of a configuration error has its own place


# --- what is asked for --------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("option", "says"), [
    ("model.dept=2", "model.dept: unknown key; did you mean depth?"), ("width=64", "belongs under model"),
    ("steps=many", 'steps: must be a whole number, is "many"'), ("steps=0", "steps: must be greater than 0, is 0"),
    ("precision=bf17", "did you mean bf16?"), ("model.tied=1", "model.tied: must be true or false, is 1"),
])
def test_options_that_cannot_be(kitchen, run, option, says):
    err = run(2, "pretrain", f"data={kitchen}/shards", f"tokenizer={kitchen}/tokenizer", "steps=2", option, "out=base")
    fits_one_screen(err, option, says, parts=CONFIG)
    assert not Path("base").exists()


def test_several_errors_at_once_with_their_lines(run):
    Path("r.toml").write_text('[curate]\nsource = "nowhere.jsonl"\nstep = ["exact"]\n\n[tokenizer]\ndata = "@curat"\n'
                              'vocabulary = "many"\n\n[base]\nrun = "pretran"\n')
    fits_one_screen(run(2, "run", "r.toml"), "5 problems in r.toml", "r.toml:2: curate.source: there is no file",
                    "r.toml:3: curate.step: unknown key; did you mean steps?", "r.toml:6: tokenizer.data: there is no",
                    'r.toml:7: tokenizer.vocabulary: must be a whole number, is "many"',
                    'r.toml:10: base.run: unknown verb "pretran"; did you mean pretrain?', parts=CONFIG)
    assert not Path("runs").exists()


def test_a_missing_file(run):
    Path("corpus.jsonl").write_text("")
    fits_one_screen(run(2, "curate", "source=corpsu.jsonl", "out=docs"), "did you mean corpus.jsonl?", parts=CONFIG)
    assert not Path("docs").exists()


def test_shapes_that_do_not_fit_together(kitchen, run):
    given = [f"data={kitchen}/shards", f"tokenizer={kitchen}/tokenizer", "steps=2", *SHAPE, *SMALL, "out=base"]
    fits_one_screen(run(2, "pretrain", *given, "model.heads=3", "model.kv_heads=2"), "multiple of kv_heads",
                    parts=("error:", "why:"))
    err = run(1, "pretrain", *given[:-1], "model.context=4096", "rows=1", "out=long")
    fits_one_screen(err, "the context is longer than any document", "set model.context to at most")
    fits_one_screen(run(1, "pretrain", *given[:-1], "rows=9999", "out=wide"), "the corpus is smaller than one step")
    assert not is_done(Path("base")) and not is_done(Path("long"))


def test_a_vocabulary_larger_than_the_data_supports(kitchen, run):
    err = run(1, "tokenizer", f"data={kitchen}/curate", "vocabulary=60000", "out=vocabulary")
    fits_one_screen(err, "the vocabulary is larger than the data supports", "set vocabulary = ")
    supported = err.partition("set vocabulary = ")[2].split(",")[0]
    run(0, "tokenizer", f"data={kitchen}/curate", f"vocabulary={supported}", "out=mended")
    assert is_done(Path("mended")) and not is_done(Path("vocabulary"))


# --- documents ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("content", ["", "\n\n", '{"title": "no text"}\n'])
def test_a_corpus_without_documents(run, content):
    Path("c.jsonl").write_text(content)
    fits_one_screen(run(1, "curate", "source=c.jsonl", "out=docs"), "c.jsonl", "each row needs a column `text`")
    assert not is_done(Path("docs"))


def test_a_corpus_of_which_nothing_is_left(run, capfd):
    write_corpus(Path("c.jsonl"), 30)
    err = run(1, "curate", "source=c.jsonl", "gopher.word_count=[5000, 9000]", "out=docs")
    fits_one_screen(err, "curation dropped every document", "word_count 30", "leave out the rule gopher.word_count")
    assert cli.main(["show", "docs", "-n", "2"]) == 0 and "word_count" in capfd.readouterr().out    # as the error says
    write_rows(Path("same.jsonl"), [{"text": prose(1)}] * 5)
    run(0, "curate", "source=same.jsonl", "gopher.without=stop_words", "out=one")
    assert open_artifact(Path("one")).metrics["dropped/exact_duplicate"] == 4


def test_invalid_bytes_cost_their_row(run):
    rows = [json.dumps({"text": prose(number)}).encode() for number in range(20)]
    rows[7] = rows[7][:20] + b"\xff" + rows[7][20:]
    Path("c.jsonl").write_bytes(b"\n".join(rows))
    run(0, "curate", "source=c.jsonl", "gopher.without=stop_words", "out=docs")
    metrics, account = open_artifact(Path("docs")).metrics, json.loads(Path("docs/curation.json").read_text())
    assert metrics["quarantined"] == account["quarantined"] == 1 and metrics["documents_kept"] == 19
    assert account["quarantine_reasons"] == {"invalid UTF-8": 1}
    (entry,) = map(json.loads, Path("docs/quarantine.jsonl").read_text().splitlines())
    assert entry["where"] == "c.jsonl:8" and "0xff" in entry["why"]


def test_a_truncated_gzip_keeps_what_can_be_read(run):
    rows = "".join(json.dumps({"text": prose(number)}) + "\n" for number in range(60)).encode()
    whole = gzip.compress(rows, mtime=0)
    Path("c.jsonl.gz").write_bytes(whole[:len(whole) * 2 // 3])
    run(0, "curate", "source=c.jsonl.gz", "gopher.without=stop_words", "out=docs")
    metrics = open_artifact(Path("docs")).metrics
    assert 30 < metrics["documents_read"] < 50 and metrics["quarantined"] in (1, 2)
    assert "truncated gzip member" in Path("docs/quarantine.jsonl").read_text()


# --- conversations and pairs --------------------------------------------------------------------------------------

def test_equal_answers_are_set_aside_and_counted(kitchen, run):
    equal = [{**row, "rejected": row["chosen"]} for row in PAIRS]
    write_rows(Path("some.jsonl"), PAIRS + equal[:3])
    write_rows(Path("all.jsonl"), equal)
    given = [f"model={kitchen}/pretrain", "steps=1", "pairs=4", *SMALL]
    run(0, "dpo", *given, "data=some.jsonl", "out=dpo")
    metrics = open_artifact(Path("dpo")).metrics
    assert (metrics["pairs"], metrics["quarantined"]) == (20, 3)
    assert Path("dpo/quarantine.jsonl").read_text().count("equal answers") == 3
    fits_one_screen(run(1, "dpo", *given, "data=all.jsonl", "out=none"), "all.jsonl:1", "equal answers")


@pytest.mark.parametrize(("rows", "says"), [
    ([{"messages": [{"role": "user", "content": "hello"}]}], "no assistant turn"),
    ([{"prompt": "hello", "completion": "long " * 500}], "longer than the context of 128 tokens"),
    ([{"messages": [{"role": "robot", "content": "hello"}]}], "unknown role: 'robot'"),
])
def test_conversations_that_train_nothing(kitchen, run, rows, says):
    write_rows(Path("chat.jsonl"), rows * 10)
    err = run(1, "sft", f"model={kitchen}/pretrain", "data=chat.jsonl", "steps=2", *SMALL, "out=sft")
    fits_one_screen(err, "chat.jsonl", says)
    assert not is_done(Path("sft"))


# --- files that are not what they should be -----------------------------------------------------------------------

def test_a_corrupted_model(kitchen, run):
    write_rows(Path("chat.jsonl"), CHAT)
    shutil.copytree(kitchen / "pretrain", "base")
    weights = Path("base/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    given = ["data=chat.jsonl", "steps=2", *SMALL]
    fits_one_screen(run(1, "sft", "model=base", *given, "out=sft"), "base/model.safetensors", "cannot be read")
    fits_one_screen(run(3, "verify", "base"), "base/model.safetensors", "SHA-256")
    weights.unlink()
    fits_one_screen(run(1, "sft", "model=base", *given, "out=sft"), "no safetensors weights")
    shutil.copy(kitchen / "corpus.jsonl", "base/model.safetensors")
    fits_one_screen(run(1, "chat", "base", "--ask", "hello"), "base/model.safetensors", "cannot be read")
    assert not is_done(Path("sft"))


@pytest.mark.parametrize("vocabulary", [280, 300])
def test_a_tokenizer_that_does_not_belong_to_the_shards(kitchen, run, vocabulary):
    write_rows(Path("c.jsonl"), [{"text": prose(number).upper()} for number in range(60)])
    run(0, "curate", "source=c.jsonl", "gopher.without=stop_words", "out=docs")
    run(0, "tokenizer", "data=docs", f"vocabulary={vocabulary}", "out=other")
    err = run(1, "pretrain", f"data={kitchen}/shards", "tokenizer=other", "steps=2", *SHAPE, *SMALL, "out=base")
    fits_one_screen(err, "tokenizer and shards do not belong together", "other")
    assert not is_done(Path("base"))


@pytest.mark.parametrize(("verb", "option", "says"), [
    ("tokenizer", "data", "documents.parquet"), ("pretrain", "data", "shards.json"), ("sft", "model", "tokenizer.json"),
    ("shards", "tokenizer", "tokenizer.json"), ("shards", "data", "documents.parquet"),
])
def test_a_folder_of_another_kind(kitchen, run, verb, option, says):
    Path("strange").mkdir()
    Path("strange/notes.txt").write_text("x")
    write_rows(Path("chat.jsonl"), CHAT)
    needed = {"tokenizer": {}, "shards": {"data": kitchen / "curate", "tokenizer": kitchen / "tokenizer"},
              "pretrain": {"tokenizer": kitchen / "tokenizer", "steps": 1},
              "sft": {"data": "chat.jsonl", "steps": 1}}[verb]
    given = [f"{key}={value}" for key, value in {**needed, option: "strange"}.items()]
    err = run(1, verb, *given, "out=out")
    fits_one_screen(err, "strange", says)
    assert "a defect of bloomery" not in err and "the system refused" not in err


# --- output folders -----------------------------------------------------------------------------------------------

def test_folders_of_others_are_refused(kitchen, run):
    write_corpus(Path("c.jsonl"), 20)
    given = ["source=c.jsonl", "gopher.without=stop_words"]
    run(0, "curate", *given, "out=docs")
    whole = tree_hash(Path("docs"))
    for arguments in (["curate", *given, "steps=exact", "out=docs"],
                      ["tokenizer", "data=docs", "vocabulary=280", "out=docs"]):
        fits_one_screen(run(1, *arguments), "the output folder belongs to something else", "docs")
    assert tree_hash(Path("docs")) == whole
    Path("mine").mkdir()
    Path("mine/diary.txt").write_text("dear")
    fits_one_screen(run(1, "curate", *given, "out=mine"), "files we did not make")
    recipe = '[curate]\nsource = "c.jsonl"\ngopher.without = ["stop_words"]\n'
    for place in ("one", "two"):
        Path(place).mkdir()
        Path(place, "life.toml").write_text(recipe)
    run(0, "run", "one/life.toml")
    fits_one_screen(run(1, "run", "two/life.toml"), "belongs to another recipe", "one/life.toml", "--out")


def test_a_second_run_is_refused_with_the_pid_of_the_first(run):
    write_corpus(Path("c.jsonl"), 20)
    Path("docs").mkdir()
    given = ["curate", "source=c.jsonl", "gopher.without=stop_words", "out=docs"]
    with lock(Path("docs")):
        fits_one_screen(run(1, *given), "another run is working in this folder", f"process {os.getpid()} on ")
        assert not is_done(Path("docs"))
    run(0, *given)
    assert is_done(Path("docs"))


def wait_for(found, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not found():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.01)


def test_a_request_to_stop_training_is_obeyed_and_a_killed_run_leaves_no_lock(kitchen, run):
    given = ["pretrain", f"data={kitchen}/shards", f"tokenizer={kitchen}/tokenizer", "steps=150", "save_every=10",
             "validate_every=150", *SHAPE, *SMALL, "out=base"]
    training = bloomery(*given, cwd=Path.cwd())
    try:
        wait_for(lambda: list(Path("base/checkpoints").glob("step-*")), training)
        training.terminate()
        _, err = training.communicate(timeout=30)
    finally:
        end(training)
    assert training.returncode == 75
    fits_one_screen(err, "stopped and saved", "SIGTERM received", "run the same command again to go on")
    saved = max(int(path.name[5:]) for path in Path("base/checkpoints").glob("step-*"))
    training = bloomery(*given, cwd=Path.cwd())                                 # and kill -9 what goes on from there
    try:
        wait_for(lambda: list(Path("base/checkpoints").glob(f"step-{-(-(saved + 1) // 10) * 10:08d}")), training)
    finally:
        end(training)
    assert training.returncode == -signal.SIGKILL and "process" in Path("base/.lock").read_text()
    run(0, *given)
    rows = [json.loads(line) for line in Path("base/metrics.jsonl").read_text().splitlines()]
    assert open_artifact(Path("base")).record["attempts"] == 3 and sum("event" in row for row in rows) == 2
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 151))


def test_ctrl_c_while_documents_are_curated(run):
    curating = bloomery("curate", "source=python:stdlib", "out=docs", cwd=Path.cwd())
    try:
        wait_for(lambda: Path("docs/.begun").exists(), curating)
        curating.send_signal(signal.SIGINT)
        _, err = curating.communicate(timeout=30)
    finally:
        end(curating)
    assert curating.returncode == 130 and not is_done(Path("docs"))
    fits_one_screen(err, "stopped", "run the same command again", parts=("error:", "where:", "try:"))


# --- full disks ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("verb", "limit"), [("curate", 4_000), ("pretrain", 20_000)])
def test_a_full_disk(kitchen, run, verb, limit):
    """A limit on file size meets an unprivileged process like a full disk does: the system call fails half-way."""
    write_corpus(Path("c.jsonl"), 60)
    given = {"curate": ["source=c.jsonl", "gopher.without=stop_words"],
             "pretrain": [f"data={kitchen}/shards", f"tokenizer={kitchen}/tokenizer", "steps=2", *SHAPE, *SMALL]}[verb]
    writing = bloomery(verb, *given, "out=out", cwd=Path.cwd(),
                       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, err = writing.communicate(timeout=60)
    assert writing.returncode == 1
    fits_one_screen(err, "the disk is full", "MiB are free")
    assert not is_done(Path("out"))
    run(0, verb, *given, "out=out")


def test_a_disk_known_to_be_full_is_no_beginning(run, monkeypatch):
    write_corpus(Path("c.jsonl"), 20)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 2**20, 2**20))
    err = run(1, "curate", "source=c.jsonl", "gopher.without=stop_words", "out=docs")
    fits_one_screen(err, "not enough disk space", "256 MiB are needed, 1 MiB are free")
    assert not Path("docs/documents.parquet").exists()
