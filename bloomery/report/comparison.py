"""Training runs that differ in nothing but the text they learn from, on one chart: what a corpus is worth.

They are of one verb, have the same options besides `data`, and were measured on the same held-out text; bits per byte
of it at the same number of tokens say which text taught more.
"""

from itertools import groupby
from pathlib import Path

from bloomery.core.metrics import read_metrics
from bloomery.report.charts import HELD_OUT, LOOKS, curve, read_log
from bloomery.report.samples import read_json

METRIC = "val_bpb"


def comparisons(stages: list[dict]) -> list[dict]:
    """As `training` has one stage, an entry for each two or three that can be compared."""
    held_out = {stage["id"]: text for stage in stages if (text := held_out_text(stage, stages))}
    rivals = sorted((stage for stage in stages if stage["id"] in held_out), key=lambda s: key(s, held_out))
    found = [list(group) for _, group in groupby(rivals, key=lambda s: key(s, held_out))]
    return [entry for group in found if 1 < len(group) <= len(LOOKS) and (entry := together(group))]


def held_out_text(stage: dict, stages: list[dict]) -> str:
    """What tells the held-out text of a stage that trains on shards: its documents and bytes."""
    for parent in stages:
        shards = parent["id"] in stage["reads"] and read_json(Path(parent["folder"]) / "shards.json")
        if shards:
            split = shards["splits"]["validation"]
            return f"{split['documents']} documents, {split['bytes']} bytes"
    return ""


def key(stage: dict, held_out: dict[str, str]) -> str:
    options = {name: value for name, value in stage["config"].items() if name != "data"}
    return f"{stage['verb']} {held_out[stage['id']]} {sorted(options.items(), key=str)}"


def together(group: list[dict]) -> dict | None:
    """One chart of all, or None where one has no such curve."""
    pairs = [read_log(read_metrics(Path(stage["folder"]) / "metrics.jsonl")).values(METRIC) for stage in group]
    if not all(found and found[-1][1] for found in pairs):
        return None
    order = sorted(range(len(group)), key=lambda place: pairs[place][-1][1])
    names, ends = [group[place]["label"] for place in order], [pairs[place][-1][1] for place in order]
    series = [line for look, place in zip(LOOKS, order)
              for line in curve(pairs[place], group[place]["label"], look, smooth=False)]
    words = (f"Only the text differs: after as many tokens {names[0]} needs {ends[0]:.3f} bits for a byte of the same "
             f"held-out text, {' and '.join(f'{name} {end:.3f}' for name, end in zip(names[1:], ends[1:]))}.")
    chart = {"title": HELD_OUT, "unit": "bits per byte", "marks": {}, "more": False, "series": series,
             "count": sum(map(len, pairs)), "gaps": 0}
    return {"stage": " against ".join(names), "verb": group[0]["verb"], "charts": [chart], "resumes": [],
            "words": [{"words": words, "warns": False}]}
