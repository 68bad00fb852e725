"""The steps against duplicates as a user runs them: together, the same by any engine and in any memory."""

import json

import numpy as np
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from bloomery.core.errors import InputError
from bloomery.core.files import write_jsonl
from bloomery.curate.run import Config, run

pytest.importorskip("numba")
pytest.importorskip("pydivsufsort")
STEPS = ("exact", "exact_url", "paragraphs", "sentences", "minhash", "substring", "perplexity", "decontamination")
QUESTION = "which of the two rivers that run to the northern sea is the longer one of them"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sixty documents of random words, a near and an exact copy of some, a shared passage and a leaked question."""
    folder = tmp_path_factory.mktemp("corpus")
    words = np.random.default_rng(0).choice([a + b + c for a in "bcdfg" for b in "aeiou" for c in "lmnrst"], (61, 120))
    texts = [" ".join(row) + "." for row in words[:60]]
    passage = " ".join(words[0][:60])
    rows = texts + [texts[1], texts[2].upper() + " indeed", f"{' '.join(words[60][:60])} {passage}",
                    f"{texts[5][:400]} {QUESTION}, they ask"]
    write_jsonl(folder / "corpus.jsonl", [{"text": text, "url": f"u://{place}"} for place, text in enumerate(rows)])
    write_jsonl(folder / "good.jsonl", [{"text": text} for text in texts[:40]])
    write_jsonl(folder / "test.jsonl", [{"question": QUESTION}])
    return folder


def curated(corpus, out, **options):
    out.mkdir()
    given = {"steps": STEPS, "perplexity": {"reference": str(corpus / "good.jsonl"), "vocabulary": 300,
                                            "keep": ["head", "middle", "tail"]},
             "decontamination": {"evaluation": str(corpus / "test.jsonl")}, "substring": {"n": 150}}
    metrics = run(Config(source=str(corpus / "corpus.jsonl"), **(given | options)), out)
    names = "documents.parquet", "dropped.parquet", "curation.json"
    return metrics, {name: (out / name).read_bytes() for name in names}


def test_each_step_does_its_part(corpus, tmp_path):
    metrics, files = curated(corpus, tmp_path / "out")
    assert metrics["documents_kept"] == 61
    assert {name: metrics[f"dropped/{name}"] for name in ("exact_duplicate", "near_duplicate", "contaminated")} == {
        "exact_duplicate": 1, "near_duplicate": 1, "contaminated": 1}
    found = {step["step"]: step.get("found", {}) for step in json.loads(files["curation.json"])["steps"]}
    assert (found["exact"]["sizes"], found["minhash"]["sizes"]) == ({"2": 1}, {"2": 1})
    assert found["substring"]["passages"] > 0
    assert sum(found["perplexity"]["documents"].values()) == 62
    table = parquet.read_table(tmp_path / "out" / "documents.parquet")
    assert set(table.column("bucket").to_pylist()) == {"head", "middle", "tail"}


@pytest.mark.parametrize("other", [{"engine": "threads", "workers": 3}, {"engine": "serial", "memory": "33MB"},
                                   {"engine": "serial", "substring": {"n": 150, "method": "windows"}}])
def test_engine_memory_and_method_change_nothing(corpus, tmp_path, other):
    _, one = curated(corpus, tmp_path / "one", engine="serial")
    _, two = curated(corpus, tmp_path / "two", **other)
    assert one == two


def test_what_is_missing_is_asked_for(corpus, tmp_path):
    with pytest.raises(InputError, match="perplexity to what"):
        curated(corpus, tmp_path / "a", steps=["perplexity"], perplexity={})
    with pytest.raises(InputError, match="decontaminate of what"):
        curated(corpus, tmp_path / "b", steps=["decontamination"], decontamination={})
    with pytest.raises(ValidationError, match="bands and rows are 0 together"):
        curated(corpus, tmp_path / "c", minhash={"bands": 0})
