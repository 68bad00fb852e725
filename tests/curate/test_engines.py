"""The promises of a curation: the same bytes whatever does the work, however often killed, whatever the batches."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
from pyarrow import parquet

from bloomery.core.records import Document
from bloomery.curate import jobs, output, reading, run, sift
from bloomery.curate.edits import Edits
from bloomery.curate.run import STEPS, Config
from bloomery.curate.step import Findings, batch_of, decide_alone

WORDS = ("the", "river", "runs", "to", "sea", "and", "it", "is", "wide", "with", "boats", "that", "have", "sails", "of",
         "every", "colour", "under", "a", "low", "sun")


@pytest.fixture
def corpus(tmp_path):
    """Files of every kind, with duplicates across them, bad rows and personal data."""
    draw, folder = random.Random(7), tmp_path / "corpus"
    folder.mkdir()
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(20, 200))) + f"\nwrite to a{n}@b.org\n" for n in range(240)]
    for name in range(6):
        rows = [json.dumps({"text": draw.choice(texts)}) for _ in range(40)]
        rows[name] = "{broken"
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    for name in range(20):
        (folder / f"{name}.txt").write_text(draw.choice(texts))
    return folder


STAGES = ["exact", "gopher", "pii", "repetition"]


def curated(corpus, out, **given):
    out.mkdir(exist_ok=True)
    run.run(Config(source=str(corpus), **{"steps": STAGES, "gopher": {"without": ["stop_words"]}} | given), out)
    return contents(out)


def contents(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file() and
            path.name not in ("throughput.json", "stage.json", "DONE", "config.resolved.toml") and path.name[0] != "."}


@pytest.fixture
def small_jobs(monkeypatch):
    monkeypatch.setattr(jobs, "JOB_BYTES", 20_000)


def test_output_does_not_depend_on_workers_batches_or_row_groups_of_work(corpus, tmp_path, small_jobs, monkeypatch):
    first = curated(corpus, tmp_path / "serial", engine="serial")
    assert set(first) == {"documents.parquet", "dropped.parquet", "statistics.parquet", "curation.json", "samples.json",
                          "histograms.json", "quarantine.jsonl"}
    assert curated(corpus, tmp_path / "threads", workers=3) == first
    monkeypatch.setattr(reading, "BATCH_DOCUMENTS", 7)
    assert curated(corpus, tmp_path / "small", workers=2) == first
    monkeypatch.setattr(jobs, "JOB_BYTES", 1 << 25)
    one = curated(corpus, tmp_path / "one", engine="serial")
    assert {name for name in first if first[name] != one[name]} == set()


def test_a_part_that_is_done_is_not_made_again(corpus, tmp_path, small_jobs, monkeypatch):
    whole, made = curated(corpus, tmp_path / "whole", engine="serial"), []
    out = tmp_path / "out"
    real = sift.make

    def dies(work, steps, folder):
        made.append((work.passing.index, work.job.number))
        real(work, steps, folder)
        if len(made) in (3, 6):
            raise KeyboardInterrupt

    monkeypatch.setattr(sift, "make", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            curated(corpus, out, engine="serial")
    assert curated(corpus, out, engine="serial") == whole
    assert len(made) == len(set(made)) + 2                                  # what was cut off, and no more
    assert not (out / ".parts").exists()


def test_parts_of_another_configuration_or_input_are_not_used(corpus, tmp_path, small_jobs, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(output, "write_documents", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            curated(corpus, out)
    assert len(list((out / ".parts" / "1").iterdir())) > 3
    changed = curated(corpus, out, steps=["exact"])
    assert changed == curated(corpus, tmp_path / "fresh", steps=["exact"])


PROGRAM = """
import json, sys
from pathlib import Path
from bloomery.curate import jobs
from bloomery.curate.run import Config, run
jobs.JOB_BYTES = 20_000
given = json.loads(sys.argv[1])
print("ready", flush=True)
Path(sys.argv[2]).mkdir(exist_ok=True)
run(Config(**given), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_instant_and_run_again_it_is_the_same(corpus, tmp_path, small_jobs, kills):
    given = {"source": str(corpus), "steps": STAGES, "gopher": {"without": ["stop_words"]}, "workers": 2}
    draw, out = random.Random(kills), tmp_path / "out"
    expected = curated(corpus, tmp_path / "whole", engine="serial")
    for kill in range(kills + 1):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, json.dumps(given), str(out)], stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL)
        process.stdout.readline()
        if kill < kills:
            time.sleep(draw.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == 0 and contents(out) == expected


EVERYWHERE = """
import json, sys
from pathlib import Path
from bloomery.curate import jobs
from bloomery.curate.run import Config, run
jobs.JOB_BYTES = int(sys.argv[3])
run(Config(**json.loads(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("ray") or not find_spec("pydivsufsort"), reason="needs ray and pydivsufsort")
def test_ray_threads_and_serial_write_the_same_bytes_with_every_kind_of_step(corpus, tmp_path):
    """Local and global steps in five passes; tasks of Ray are told their jobs, so the driver alone cuts them small."""
    draw = random.Random(1)
    near, passage, other = (" ".join("".join(draw.choices("abcdefgh", k=6)) for _ in range(90)) for _ in range(3))
    (corpus / "more.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in (
        near, f"{near} again", passage, f"{other} {passage[:400]}")))
    steps = ["exact", "gopher", "paragraphs", "minhash", "pii", "substring", "repetition"]
    given = {"source": str(corpus), "steps": steps, "gopher": {"without": ["stop_words"]}, "workers": 2}
    found = {}
    for engine, size in {"serial": 1 << 25, "threads": 20_000, "ray": 20_000}.items():
        (tmp_path / engine).mkdir()
        subprocess.run([sys.executable, "-c", EVERYWHERE, json.dumps(given | {"engine": engine}),
                        str(tmp_path / engine), str(size)], check=True, timeout=280,
                       env=os.environ | {"RAY_ADDRESS": ""})
        found[engine] = contents(tmp_path / engine)
    assert found["ray"] == found["threads"] == found["serial"]
    told = {step["step"]: step for step in json.loads(found["ray"]["curation.json"])["steps"]}
    assert told["exact"]["reasons"] and told["minhash"]["reasons"]["near_duplicate"]["documents"] == 1
    assert all(told[name]["edited"]["documents"] for name in ("paragraphs", "pii", "substring"))


class Shortest:
    """A global step made for these tests: drops the shortest text, cuts the first letter of the longest."""

    def gather(self, batch):
        return {"size": np.array([len(text) for text in batch.column("text").to_pylist()])}

    def decide(self, gathered):
        size = gathered["size"]
        assert gathered.texts(np.array([size.argmax()]))[0].startswith("z")
        reasons = ["shortest" if row == size.argmin() else None for row in range(gathered.documents)]
        return Findings(reasons, {"rank": np.argsort(np.argsort(size))},
                        Edits.cuts([size.argmax()], [0], [1]), account={"longest": int(size.max())})


def test_a_global_step_sees_all_documents_and_its_edits_are_applied(tmp_path, monkeypatch):
    monkeypatch.setitem(STEPS, "shortest", lambda config: Shortest())
    monkeypatch.setattr(jobs, "JOB_BYTES", 1)
    for name, texts in {"a": ["zzz longest of all", "b"], "c": ["middle", "more"]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "out").mkdir()
    metrics = run.run(Config(source=str(tmp_path), steps=["shortest"]), tmp_path / "out")
    rows = parquet.read_table(tmp_path / "out" / "documents.parquet").to_pylist()
    assert [row["text"] for row in rows] == ["zz longest of all", "middle", "more"]
    assert metrics["dropped/shortest"] == 1 and metrics["bytes_read"] == metrics["bytes_kept"] + 1 + 1
    account = json.loads((tmp_path / "out" / "curation.json").read_text())
    assert account["steps"][0]["found"] == {"longest": 18}
    assert account["steps"][0]["edited"] == {"documents": 1, "spans": 1, "bytes": 1, "net_bytes": 1}
    statistics = parquet.read_table(tmp_path / "out" / "statistics.parquet").to_pylist()
    assert [row["shortest.rank"] for row in statistics] == [3, 0, 2, 1]
    alone = decide_alone(Shortest(), [batch_of([Document("1", "zz"), Document("2", "a")])])
    assert alone.reasons == [None, "shortest"]


MEASURED = """
import sys
from pathlib import Path
from bloomery.core.artifacts import peak_memory_gb
from bloomery.curate.run import Config, run
for name in ("one", "a"):                               # what is compiled for the first is no document's memory
    before, out = peak_memory_gb(), Path(sys.argv[1], f"out-{name}")
    out.mkdir()
    run(Config(source=f"{sys.argv[1]}/{name}.jsonl", steps=["exact", "gopher"], memory="300MB", workers=2), out)
print(peak_memory_gb() - before)
"""


@pytest.mark.slow
def test_memory_stays_below_a_budget_smaller_than_the_input(tmp_path):
    texts = [" ".join(random.Random(n).choices(WORDS, k=2000)) for n in range(200)]
    with open(tmp_path / "a.jsonl", "w") as file:
        for n in range(40_000):
            file.write(json.dumps({"text": f"{n} {texts[n % 200]}"}) + "\n")
    size = (tmp_path / "a.jsonl").stat().st_size
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": texts[0]}))
    done = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path)], capture_output=True, text=True, timeout=280,
                          check=True)
    assert size > 350e6 and float(done.stdout) < 0.3
