"""Runs that differ in their text alone stand on one chart; others do not."""

import json

import pytest

from bloomery.report.comparison import comparisons


@pytest.fixture
def recipe(tmp_path):
    """Two pretrainings on two texts, the curated one better; a factory of changes to the second."""
    def made(*, documents=300, lr=0.1, verb="pretrain"):
        stages = []
        for name, held_out, options, end in (("raw", 300, 0.1, 2.5), ("clean", documents, lr, 2.3)):
            shards, run = tmp_path / f"{name}_shards", tmp_path / name
            for folder in (shards, run):
                folder.mkdir(exist_ok=True)
            (shards / "shards.json").write_text(json.dumps({"splits": {"validation": {"documents": held_out,
                                                                                      "bytes": 7}}}))
            (run / "metrics.jsonl").write_text("".join(json.dumps({
                "step": step, "num_tokens": 8 * step, "val_bpb": end + 1 / step}) + "\n" for step in (1, 10, 100)))
            stages += [{"id": f"{name}_shards", "reads": [], "folder": shards, "verb": "shards", "config": {}},
                       {"id": name, "label": name, "reads": [f"{name}_shards"], "folder": run,
                        "verb": verb if name == "clean" else "pretrain", "config": {"data": name, "lr": options}}]
        return stages
    return made


def test_what_differs_in_its_text_alone_is_drawn_together_the_best_first(recipe):
    (entry,) = comparisons(recipe())
    assert entry["stage"] == "clean against raw"
    (chart,) = entry["charts"]
    assert [(line["name"], line["look"], line["y"]) for line in chart["series"]] == [
        ("clean", "first", [3.3, 2.4, 2.31]), ("raw", "second", [3.5, 2.6, 2.51])]
    assert chart["series"][0]["x"]["tokens"] == [8, 80, 800]
    assert "clean needs 2.310 bits" in entry["words"][0]["words"] and "raw 2.510" in entry["words"][0]["words"]


@pytest.mark.parametrize("change", [{"documents": 299}, {"lr": 0.2}, {"verb": "extend"}])
def test_other_options_or_another_held_out_text_are_no_comparison(recipe, change):
    assert comparisons(recipe(**change)) == []


@pytest.fixture
def second_tasks(tmp_path):
    """Runs of a second task after a first one, by their weight of EWC."""
    def made(*runs, **options):
        stages = []
        for name, weight, left, learned in runs:
            (tmp_path / name).mkdir()
            (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps({
                "step": step, "val_accuracy": learned * step / 100, "before_accuracy": 0.9 + (left - 0.9) * step / 100})
                + "\n" for step in (0, 50, 100)))
            stages.append({"id": name, "label": name, "reads": [], "folder": tmp_path / name, "verb": "classify",
                           "config": {"data": "new", "before.data": "old", "before.ewc": weight} | options})
        return stages
    return made


def test_what_ewc_keeps_is_drawn_beside_what_is_forgotten_without(second_tasks):
    stages = second_tasks(("free", 0.0, 0.5, 0.95), ("bound", 1e5, 0.88, 0.7), ("held", 1e3, 0.8, 0.9))
    (entry,) = comparisons(stages)
    assert entry["stage"] == "bound against held against free"
    before, new = entry["charts"]
    assert [(line["name"], line["look"], line["y"]) for line in before["series"]] == [
        ("bound", "first", [0.9, 0.89, 0.88]), ("held", "second", [0.9, 0.85, 0.8]), ("free", "third", [0.9, 0.7, 0.5])]
    assert [line["y"][-1] for line in new["series"]] == [0.7, 0.9, 0.95]
    assert "bound still gets 88.0 % of the task before right, held 80.0 % and free 50.0 %" in entry["words"][0]["words"]


def test_another_first_task_or_none_is_no_comparison(second_tasks):
    one, other = second_tasks(("free", 0.0, 0.5, 0.9), ("held", 1e3, 0.8, 0.9))
    other["config"]["before.data"] = "another"
    assert comparisons([one, other]) == []
    one["config"].pop("before.data"), other["config"].pop("before.data")
    assert comparisons([one, other]) == []
