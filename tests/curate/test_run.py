"""The curation stage: every document is kept, dropped or quarantined, and the account adds up."""

import json

import pytest
from pyarrow import parquet
from pydantic import ValidationError

from bloomery.core.errors import InputError
from bloomery.core.files import write_jsonl
from bloomery.curate import run as curation
from bloomery.curate.run import STEPS, Config, StepName, run

PROSE = "the river runs to the sea and it is wide with boats that have sails "


@pytest.fixture
def corpus(tmp_path):
    texts = [PROSE * 8 + f"number {n}" for n in range(40)]
    texts += ["too short"] * 3 + [PROSE * 8 + "number  7", "do not edit " + PROSE]
    write_jsonl(tmp_path / "corpus.jsonl", [{"text": text} for text in texts] + [{"text": ""}, {"no": "text"}])
    with open(tmp_path / "corpus.jsonl", "ab") as file:
        file.write(b"{broken\n")
    return tmp_path / "corpus.jsonl"


def output(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_row_is_kept_dropped_or_quarantined(corpus, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    metrics = run(Config(source=str(corpus)), out)
    assert metrics == {"documents_read": 45, "documents_kept": 40, "quarantined": 3, "dropped/exact_duplicate": 3,
                       "dropped/generated_marker": 1, "dropped/word_count": 1, "bytes_read": metrics["bytes_read"],
                       "bytes_kept": metrics["bytes_kept"]}
    kept, dropped = (parquet.read_table(out / f"{name}.parquet").to_pylist() for name in ("documents", "dropped"))
    assert [row["source"] for row in kept] == [f"corpus.jsonl:{line}" for line in range(1, 41)]
    assert [(row["source"].rpartition(":")[2], row["step"], row["reason"]) for row in dropped] == [
        ("42", "exact", "exact_duplicate"), ("43", "exact", "exact_duplicate"), ("44", "exact", "exact_duplicate"),
        ("45", "generated", "generated_marker"), ("41", "gopher", "word_count")]
    assert sum(len(row["text"].encode()) for row in kept) == metrics["bytes_kept"]
    account = json.loads((out / "curation.json").read_text())
    lost = [entry["documents"] for step in account["steps"] for entry in step["reasons"].values()]
    assert account["read"] == account["kept"] + sum(lost) == 45
    assert account["bytes_read"] == account["bytes_kept"] + sum(
        entry["bytes"] for step in account["steps"] for entry in step["reasons"].values())
    assert account["steps"][-1]["documents_left"] == account["kept"]
    assert account["steps"][-1]["bytes_left"] == account["bytes_kept"]
    assert len((out / "quarantine.jsonl").read_text().splitlines()) == 3


def test_output_does_not_depend_on_a_killed_attempt_and_decisions_not_on_batches(corpus, tmp_path, monkeypatch):
    first, again, small = (tmp_path / name for name in ("first", "again", "small"))
    for folder in (first, again, small):
        folder.mkdir()
    (again / "documents.parquet").write_bytes(b"half of it")
    run(Config(source=str(corpus)), first)
    run(Config(source=str(corpus)), again)
    assert output(first) == output(again)
    monkeypatch.setattr(curation, "BATCH_DOCUMENTS", 3)
    run(Config(source=str(corpus)), small)
    assert parquet.read_table(first / "documents.parquet") == parquet.read_table(small / "documents.parquet")
    assert output(first)["curation.json"] == output(small)["curation.json"]


def test_its_output_can_be_read_again(corpus, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    run(Config(source=str(corpus)), tmp_path / "one")
    metrics = run(Config(source=[str(tmp_path / "one")]), tmp_path / "two")
    assert metrics["documents_read"] == metrics["documents_kept"] == 40


def test_an_empty_corpus_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(InputError):
        run(Config(source=str(tmp_path / "a.jsonl")), tmp_path)


def test_dropping_everything_names_the_rule_to_relax(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "too short"}, {"text": "this too"}, {"text": "this too"}])
    with pytest.raises(InputError, match="dropped every document") as error:
        run(Config(source=str(tmp_path / "a.jsonl")), tmp_path)
    assert "word_count 2" in error.value.why
    assert "word_count" in error.value.hint


def test_steps_are_known_and_named_once():
    assert set(STEPS) == set(StepName.__args__)
    with pytest.raises(ValidationError, match="named twice"):
        Config(source="x", steps=["exact", "exact"])
    with pytest.raises(ValidationError, match="exact"):
        Config(source="x", steps=["minhsah"])
