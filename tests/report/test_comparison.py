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
