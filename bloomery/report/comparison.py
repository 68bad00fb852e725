"""Training runs that differ in nothing but one thing, on one chart: what a corpus is worth, and what EWC saves.

    text    only `data` differs, measured on the same held-out text: bits per byte of it at the same number of tokens
    ewc     only `before.ewc` differs: how much each run forgot of the task before, and what it learned of the new one

Runs are compared when they are of one verb and have the same options besides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from bloomery.core.metrics import read_metrics
from bloomery.report.charts import HELD_OUT, LOOKS, curve, read_log
from bloomery.report.samples import read_json


@dataclass(frozen=True)
class Comparison:
    """What may differ, what runs must have in common to be compared ("" where they cannot be), and what is drawn.

    Charts are of a metric, a title and a unit; the first ranks the runs, `best` first, and `words` speak of its ends.
    """

    option: str
    common: Callable[[dict, list[dict]], str]
    charts: tuple[tuple[str, str, str], ...]
    best: Callable[[float], float]
    words: Callable[[list[str], list[float]], str]


def comparisons(stages: list[dict]) -> list[dict]:
    """As `training` has one stage, an entry for each two or three that can be compared."""
    return [entry for kind in COMPARISONS for group in alike(stages, kind)
            if 1 < len(group) <= len(LOOKS) and (entry := together(group, kind))]


def alike(stages: list[dict], kind: Comparison) -> list[list[dict]]:
    """Stages that differ in that option alone."""
    keys = {}
    for stage in stages:
        if common := kind.common(stage, stages):
            options = {name: value for name, value in stage["config"].items() if name != kind.option}
            keys[stage["id"]] = f"{stage['verb']} {common} {sorted(options.items(), key=str)}"
    rivals = sorted((stage for stage in stages if stage["id"] in keys), key=lambda stage: keys[stage["id"]])
    return [list(group) for _, group in groupby(rivals, key=lambda stage: keys[stage["id"]])]


def together(group: list[dict], kind: Comparison) -> dict | None:
    """Charts of all runs, or None where one has no such curve."""
    logs = [read_log(read_metrics(Path(stage["folder"]) / "metrics.jsonl")) for stage in group]
    ends = [next((pairs[-1][1] for pairs in [log.values(kind.charts[0][0])] if pairs), None) for log in logs]
    if None in ends:
        return None
    order = sorted(range(len(group)), key=lambda place: kind.best(ends[place]))
    names = [group[place]["label"] for place in order]
    words = kind.words(names, [ends[place] for place in order])
    charts = []
    for metric, title, unit in kind.charts:
        curves = [(look, group[place]["label"], pairs) for look, place in zip(LOOKS, order)
                  if (pairs := logs[place].values(metric))]
        charts.append({"title": title, "unit": unit, "marks": {}, "more": False, "gaps": 0,
                       "count": sum(len(pairs) for *_, pairs in curves),
                       "series": [line for look, name, pairs in curves
                                  for line in curve(pairs, name, look, smooth=False)]})
    charts = [chart for chart in charts if chart["series"]]
    return {"stage": " against ".join(names), "verb": group[0]["verb"], "charts": charts, "resumes": [],
            "words": [{"words": words, "warns": False}]}


def held_out_text(stage: dict, stages: list[dict]) -> str:
    """What tells the held-out text of a stage that trains on shards: its documents and bytes."""
    for parent in stages:
        shards = parent["id"] in stage["reads"] and read_json(Path(parent["folder"]) / "shards.json")
        if shards:
            split = shards["splits"]["validation"]
            return f"{split['documents']} documents, {split['bytes']} bytes"
    return ""


def bits_needed(names: list[str], ends: list[float]) -> str:
    others = " and ".join(f"{name} {end:.3f}" for name, end in zip(names[1:], ends[1:]))
    return (f"Only the text differs: after as many tokens {names[0]} needs {ends[0]:.3f} bits for a byte of the same "
            f"held-out text, {others}.")


def task_before(stage: dict, stages: list[dict]) -> str:
    """What tells the task that a model was trained on before: its rows."""
    return str(stage["config"].get("before.data") or "")


def kept(names: list[str], ends: list[float]) -> str:
    others = " and ".join(f"{name} {100 * end:.1f} %" for name, end in zip(names[1:], ends[1:]))
    return (f"Only the weight of EWC differs: at the end {names[0]} still gets {100 * ends[0]:.1f} % of the task "
            f"before right, {others}.")


COMPARISONS = (
    Comparison("data", held_out_text, (("val_bpb", HELD_OUT, "bits per byte"),), float, bits_needed),
    Comparison("before.ewc", task_before, (("before_accuracy", "The task before", "share told right"),
                                           ("val_accuracy", "The new task", "share told right")),
               lambda end: -end, kept))
