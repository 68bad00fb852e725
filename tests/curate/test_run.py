"""The curation stage: every document is kept, dropped or quarantined, and the account adds up."""

import json

import pytest
from pyarrow import parquet
from pydantic import ValidationError

from bloomery.core.errors import InputError
from bloomery.core.files import write_jsonl
from bloomery.curate.run import STEPS, Config, run, size_of
from bloomery.curate.step import ByDocument

PROSE = "the river runs to the sea and it is wide with boats that have sails "


@pytest.fixture
def corpus(tmp_path):
    texts = [PROSE * 8 + f"number {n}" for n in range(40)]
    texts += ["too short"] * 3 + [PROSE * 8 + "number  7", "do not edit " + PROSE]
    write_jsonl(tmp_path / "corpus.jsonl", [{"text": text} for text in texts] + [{"text": ""}, {"no": "text"}])
    with open(tmp_path / "corpus.jsonl", "ab") as file:
        file.write(b"{broken\n")
    return tmp_path / "corpus.jsonl"


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
        ("41", "gopher", "word_count"), ("42", "exact", "exact_duplicate"), ("43", "exact", "exact_duplicate"),
        ("44", "exact", "exact_duplicate"), ("45", "generated", "generated_marker")]
    assert sum(len(row["text"].encode()) for row in kept) == metrics["bytes_kept"]
    account = json.loads((out / "curation.json").read_text())
    lost = [entry["documents"] for step in account["steps"] for entry in step["reasons"].values()]
    assert account["read"] == account["kept"] + sum(lost) == 45
    assert account["bytes_read"] == account["bytes_kept"] + sum(
        entry["bytes"] for step in account["steps"] for entry in step["reasons"].values())
    assert account["steps"][-1]["documents_left"] == account["kept"]
    assert account["steps"][-1]["bytes_left"] == account["bytes_kept"]
    assert len((out / "quarantine.jsonl").read_text().splitlines()) == 3


def test_what_is_written_of_every_document(corpus, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    run(Config(source=str(corpus)), out)
    statistics = parquet.read_table(out / "statistics.parquet")
    assert statistics.num_rows == 45
    short = statistics.to_pylist()[40]
    assert short["dropped"] == "gopher.word_count" and short["gopher.word_count"] == 2 and short["exact.reason"] == ""
    assert statistics.to_pylist()[41]["gopher.word_count"] is None          # a duplicate: no later step has seen it
    account, samples, histograms = (json.loads((out / f"{name}.json").read_text())
                                    for name in ("curation", "samples", "histograms"))
    assert account["sources"] == {"corpus.jsonl": {"documents_read": 45, "documents_kept": 40,
                                                   "bytes_read": account["bytes_read"],
                                                   "bytes_kept": account["bytes_kept"]}}
    assert account["rules"]["gopher.word_count"] == [50, 100000]
    assert sum(histograms["gopher.word_count"]["counts"]) == 42      # all that lived to be looked at
    (shown,) = samples["dropped"]["gopher.word_count"]
    assert shown["text"] == "too short" and shown["source"] == "corpus.jsonl:41"
    assert len(samples["borderline"]["gopher.word_count"]) == 40


def test_too_much_that_cannot_be_used_is_an_error(corpus, tmp_path):
    with pytest.raises(InputError, match="too many rows are unusable") as error:
        run(Config(source=str(corpus), max_bad=0.06), tmp_path)
    assert "3 of 48 rows" in error.value.why and len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 3
    run(Config(source=str(corpus), max_bad=0.07), tmp_path)
    assert (tmp_path / "documents.parquet").exists()


def test_a_plain_function_is_a_step(corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(STEPS, "even", lambda config: ByDocument(
        lambda document: None if document.text[-1] in "02468" else "odd"))
    metrics = run(Config(source=str(corpus), steps=["even"]), tmp_path)
    assert metrics["documents_kept"] == 20 and metrics["dropped/odd"] == 25


def test_sizes_of_memory_as_people_write_them():
    assert size_of("4GB") == 4_000_000_000 and size_of("500 mb") == size_of("0.5G") == 500_000_000
    with pytest.raises(ValidationError, match="not a size"):
        Config(source="x", memory="plenty")


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
    assert set(Config.model_fields) >= set(STEPS)
    with pytest.raises(ValidationError, match="named twice"):
        Config(source="x", steps=["exact", "exact"])
    with pytest.raises(ValidationError, match="did you mean minhash"):
        Config(source="x", steps=["minhsah"])
