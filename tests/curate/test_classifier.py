"""A classifier learns from labelled texts, says what it can be trusted with, and filters by threshold or by draw."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from bloomery.classic.linear import auc
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import write_jsonl
from bloomery.core.records import Document
from bloomery.curate.classifier import Classify, Features, Judge, Quality, pareto
from bloomery.curate.quality import Config, label_in, reliability, run
from bloomery.curate.shape import NAMES, cuts, places, shape, statistics
from bloomery.curate.step import batch_of
from bloomery.stages import STAGES

WORDS = ["river", "boat", "sea", "stone", "field", "garden", "winter", "road", "bridge", "lamp"]


def pages(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Good pages are sentences, bad ones are lists of the same words."""
    generator, texts, labels = np.random.default_rng(seed), [], []
    for _ in range(count):
        good, said = generator.integers(2), generator.choice(WORDS, 40).tolist()
        lines = [" ".join(said[i:i + 10]).capitalize() + "." for i in range(0, 40, 10)] if good else said
        texts.append("\n".join(lines))
        labels.append(str(good))
    return texts, labels


@pytest.fixture(scope="module")
def judge():
    return Judge.train(*pages(300), Features(bits=12))


def test_it_learns_and_its_files_say_the_same(judge, tmp_path):
    texts, labels = pages(100, seed=1)
    chances = judge.probabilities(texts)
    assert judge.classes == ["0", "1"] and auc(chances[:, 1], np.array(labels) == "1") == 1
    judge.save(tmp_path)
    assert Judge.load(tmp_path).probabilities(texts) == pytest.approx(chances, abs=1e-5)
    assert Judge.train(*pages(300), Features(bits=12)).probabilities(texts) == pytest.approx(chances, abs=0)


def test_shape_tells_what_letters_cannot():
    """The same letters in longer or shorter lines: n-grams of one letter see no difference."""
    texts = [("ab " * 20 + "\n") * 4 if i % 2 else ("ab " * 4 + "\n") * 20 for i in range(100)]
    labels = [str(i % 2) for i in range(100)]
    for parts, least, most in ((8, 1, 1), (0, 0.4, 0.6)):
        judge = Judge.train(texts, labels, Features(bits=10, characters=1, shape=parts))
        assert least <= auc(judge.probabilities(texts)[:, 1], np.array(labels) == "1") <= most


def test_shape_by_hand():
    found = shape("I like it, you?\nAB 12 …\nAB 12 …")
    assert found["line_words"] == pytest.approx(10 / 3) and found["short_lines"] == 1
    assert found["ellipsis_lines"] == pytest.approx(2 / 3) and found["ended_lines"] == pytest.approx(1 / 3)
    assert found["repeated_lines"] == pytest.approx(1 / 3) and found["question"] == pytest.approx(1 / 10)
    assert found["speaker"] == pytest.approx(1 / 10) and found["lettered_words"] == pytest.approx(6 / 10)
    assert not any(shape("").values()) and len(NAMES) == 26


def test_statistics_fall_into_parts_of_equal_size():
    found = np.stack([np.arange(100.0), np.zeros(100)], axis=1)
    edges = cuts(found, 4)
    numbers = places(found, edges)
    assert np.bincount(numbers[:, 0]).tolist() == [25, 25, 25, 25] and len(set(numbers[:, 1])) == 1
    assert set(numbers[:, 0]).isdisjoint(numbers[:, 1]) and statistics([]).shape == (0, 26)


def test_a_filter_keeps_what_is_sure_enough(judge, tmp_path):
    judge.save(tmp_path)
    texts, labels = pages(60, seed=2)
    batch = batch_of([Document(f"id{i}", text) for i, text in enumerate(texts)])
    step = Classify(Quality(model=str(tmp_path), threshold=0.6))
    found = step.examine(batch)
    scores = found.columns["quality"]
    kept = [reason is None for reason in found.reasons]
    assert kept == (scores >= 0.6).tolist() == [label == "1" for label in labels]
    assert step.ranges["quality"][0] == 0.6
    other = Classify(Quality(model=str(tmp_path), label="0")).examine(batch)
    assert other.columns["quality"] == pytest.approx(1 - scores)


def test_a_draw_keeps_a_few_of_the_worst_and_is_each_documents_own(judge, tmp_path):
    """P(pareto(a) > 1 - s) = (2 - s)^-a."""
    drawn = np.array([pareto(str(i), 9) for i in range(20_000)])
    for score in (0.0, 0.5, 0.9, 1.0):
        assert (drawn > 1 - score).mean() == pytest.approx((2 - score) ** -9, abs=0.02)
    judge.save(tmp_path)
    step = Classify(Quality(model=str(tmp_path), keep="pareto", alpha=1.0))
    texts = pages(60, seed=2)[0]
    documents = [Document(f"id{i}", text) for i, text in enumerate(texts)]
    whole = step.examine(batch_of(documents)).reasons
    assert whole == step.examine(batch_of(documents[:7])).reasons + step.examine(batch_of(documents[7:])).reasons
    assert None in whole and "quality" in whole and not hasattr(step, "ranges")


def test_the_stage_trains_and_accounts(tmp_path):
    texts, labels = pages(400)
    labels[:8] = ["1" if label == "0" else "0" for label in labels[:8]]
    rows = [{"text": text, "label": int(label)} for text, label in zip(texts, labels)] + [{"text": ""}, {"text": "a"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    metrics = run(Config(data=str(tmp_path / "rows.jsonl"), test=0.5, features=Features(bits=12)), tmp_path)
    report = json.loads((tmp_path / "classifier.json").read_text())
    assert metrics["quarantined"] == 2 and metrics["texts"] + metrics["tested"] == 400
    assert metrics["auc"] == report["auc"] > 0.9 and report["labels"] == ["0", "1"]
    assert sum(part["texts"] for part in report["reliability"]) == metrics["tested"]
    kept = [row["kept"] for row in report["thresholds"]]
    assert kept == sorted(kept, reverse=True) and len(kept) == 19
    wrong = [json.loads(line) for line in (tmp_path / "mistakes.jsonl").read_text().splitlines()]
    assert 0 < len(wrong) <= 8 and all(row["label"] != row["guess"] for row in wrong)
    again = tmp_path / "again"
    again.mkdir()
    write_jsonl(tmp_path / "test.jsonl", rows[:100])
    assert run(Config(data=str(tmp_path / "rows.jsonl"), test=str(tmp_path / "test.jsonl")), again)["tested"] == 100


def test_good_and_bad_files_need_no_labels(tmp_path):
    texts, labels = pages(100)
    for name, label in (("good", "1"), ("bad", "0")):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": t} for t, own in zip(texts, labels) if own == label])
    run(Config(good=str(tmp_path / "good.jsonl"), bad=[str(tmp_path / "bad.jsonl")]), tmp_path)
    assert Judge.load(tmp_path).classes == ["bad", "good"]
    with pytest.raises(ConfigError, match="which label is wanted"):
        judge = Judge.train(["a", "b", "c"] * 9, ["x", "y", "z"] * 9, Features(bits=8, shape=0, calibrate=0))
        judge.save(tmp_path)
        Classify(Quality(model=str(tmp_path)))


def test_labels_of_tables():
    assert [label_in({"label": value}, "label") for value in (1, 1.0, True, "1", "good", None, "")] == \
        ["1", "1", "1", "1", "good", None, None]
    columns = STAGES["toxicity"].preset["label"]
    assert label_in({"toxic": "0", "threat": "1"}, tuple(columns)) == "1"
    assert label_in({"toxic": 0, "threat": 0.4}, tuple(columns)) == "0"
    assert label_in({"toxic": "?"}, tuple(columns)) is None and label_in({}, tuple(columns)) is None


def test_reliability_by_hand():
    found = reliability(np.array([0.05, 0.08, 0.95, 1.0]), np.array([False, True, True, True]))
    assert [(part["texts"], part["positive"]) for part in found] == [(2, 0.5), (2, 1.0)]
    assert found[0]["chance"] == pytest.approx(0.065)


def test_what_cannot_be_learned_from_is_an_error(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"text": f"t{i}", "label": "x"} for i in range(20)])
    with pytest.raises(InputError, match="fewer than two labels"):
        run(Config(data=str(tmp_path / "rows.jsonl")), tmp_path)
    with pytest.raises(ConfigError, match="nothing to learn from"):
        run(Config(good=str(tmp_path / "rows.jsonl")), tmp_path)
    with pytest.raises(ConfigError, match="no classifier is given"):
        Classify(Quality())


@pytest.mark.skipif("BLOOMERY_DATA" not in os.environ, reason="needs the DCLM labels in BLOOMERY_DATA")
def test_it_ranks_web_pages_as_people_do(tmp_path):
    data = Path(os.environ["BLOOMERY_DATA"]) / "web_quality_labels_dclm" / "majority_data.jsonl.gz"
    metrics = run(Config(data=str(data), test=0.5), tmp_path)
    assert metrics["tested"] > 200 and metrics["auc"] > 0.87
