"""Finished stages of an invented recipe: small, and with all that makes a report hard."""

import json
import math
import random
from pathlib import Path

import torch

from bloomery.align.rankings import Ranked
from bloomery.align.report_card import pairs_of, report_card
from bloomery.core.artifacts import produce

HOSTILE = ('<script>window.stolen = 1</script></pre></script><img src=x onerror="window.stolen=1">'
           "&amp;{{ 7*7 }} \x00\u2028")
REASONS = {"language": ["not_english"],
           "heuristics": ["too_short", "symbol_ratio", "duplicate_lines", "few_stop_words"],
           "exact": ["exact_duplicate"], "minhash": ["near_duplicate"], "toxicity": []}


def lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class Run:
    """Makes finished stages below `root` and remembers their folders and hashes."""

    def __init__(self, root: Path):
        self.root, self.hashes, self.folders = root, {}, []

    def stage(self, name: str, verb: str = "", *, reads: tuple[str, ...] = (), files=lambda out: None, config=None,
              **metrics) -> None:
        key = f"{len(self.hashes):02d}{name}"[:10]
        self.hashes[name] = key
        folder = self.root / f"{name}-{key}"
        produce(folder, stage=name, verb=verb or name, key=key, config=config or {},
                parents={parent: self.hashes[parent] for parent in reads},
                build=lambda out: (files(out), metrics)[1])
        self.folders.append(str(folder))


def curation_files(out: Path) -> None:
    rng = random.Random(1)
    left, left_bytes, steps, dropped = 11_980, 61_400_000, [], {}
    for step, reasons in REASONS.items():
        taken = {}
        for i, reason in enumerate(reasons):
            count = [1310, 420, 95, 61][i] if step != "minhash" else 2200
            taken[reason] = {"documents": count, "bytes": count * 4100}
            left, left_bytes = left - count, left_bytes - count * 4100
            dropped[f"{step}.{reason}"] = [
                {"id": f"{step}{i}-{n:04d}", "source": f"manual/{n}.txt", "spans": [[0, 7], [12, 15]],
                 "text": f"Dropped for {reason}: {n}. " + " ".join(rng.choices(["iron", "ore", "slag"], k=80))}
                for n in range(50)]
        if step == "toxicity":
            left_bytes -= 800_000
        steps.append({"step": step, "reasons": taken, "documents_left": left, "bytes_left": left_bytes})
    steps[3]["found"] = {"clusters": 2, "sizes": {"2": 1, "2200": 1}, "largest": [
        {"documents": 2200, "begin": 7, "members": [
            {"id": "a", "source": "x", "text": "iron and ore"},
            {"id": "b", "source": HOSTILE, "text": "iron or ore"}]}]}
    dropped["<i>hostile</i>"] = [{"id": "hostile", "source": "<b>web</b>", "text": HOSTILE, "spans": [[0, 9]]}]
    edited = [{"id": "e", "source": "x", "text": "call 555 now", "spans": [[5, 8]], "becomes": ["|||PHONE|||"]}]
    borderline = [{"id": "b", "source": "x", "text": "just long enough", "spans": [], "value": 51.0}]
    record = {"read": 12_000, "bytes_read": 61_500_000, "kept": left, "bytes_kept": left_bytes, "quarantined": 20,
              "steps": steps, "rules": {"heuristics.too_short": [50, "inf"]},
              "alarms": [{"step": "language", "source": "web.jsonl", "documents": 900, "share": 0.9}],
              "sources": {name: {"documents_read": 6000, "documents_kept": kept, "bytes_read": 30_750_000,
                                 "bytes_kept": kept * 4000} for name, kept in (("web.jsonl", 100), ("books", 5000))},
              "mix": {"language": {"en": [9000, 7000], "<b>de</b>": [3000, 0]}, "length": {"64": [10, 0]},
                      "domain": {"example.org": [None, 12]}},
              "passed_over": {"dns record": 3}, "encodings": {"utf-8": 12_000}}
    (out / "curation.json").write_text(json.dumps(record))
    (out / "samples.json").write_text(json.dumps({"dropped": dropped, "edited": {"pii": edited}, "borderline": {
        "heuristics.too_short": borderline}}))
    (out / "histograms.json").write_text(json.dumps({
        "heuristics.too_short": {"low": 1.0, "high": 4.0, "log": False, "below": 0, "above": 0, "counts": [5, 7, 9],
                                 "stops": [1.0, 2.0, 3.0, 50.0], "pool": left + 30, "fewer": [0, 10, 20, 30],
                                 "more": [left, 300, 20, 0], "then": ["minhash"]},
        "language.score": {"low": 0.1, "high": 100.0, "log": True, "below": 0, "above": 2, "counts": [1, 0, 4]}}))
    (out / "throughput.json").write_text(json.dumps({
        "seconds": 12.5, "megabytes_a_second": 4.9, "worker_seconds": {"reading": 3.0, "minhash": 9.0},
        "engine": "threads", "peak_memory_gb": 0.7}))
    lines(out / "quarantine.jsonl",
          [{"where": f"web.jsonl:{n}", "why": "not valid JSON", "excerpt": HOSTILE} for n in range(20)])


def training_rows(steps: int, start: float, end: float, *, validate: bool = True, resumed: int = 0) -> list[dict]:
    rng, rows = random.Random(steps), []
    for step in range(1, steps + 1):
        loss = end + (start - end) * math.exp(-5 * step / steps) + rng.gauss(0, 0.06)
        row = {"step": step, "time": 1.7e9 + 2.1 * step + (40_000 if resumed and step > resumed else 0), "loss": loss,
               "grad_norm": 1 + rng.random() + (9 if step == steps // 3 else 0),
               "tokens_per_second": 31_000 + rng.gauss(0, 900),
               "learning_rate": 3e-3 * min(1, step / 40) * (1 - step / steps), "num_tokens": step * 8192}
        if validate and step % max(1, steps // 12) == 0:
            row |= {"val_loss": loss + 0.08, "val_bpb": (loss + 0.08) / 2.2}
        rows.append(row)
        if step == resumed:
            rows.append({"step": step, "event": "resumed"})
    return rows


def preference_rows(steps: int) -> list[dict]:
    rng, rows = random.Random(7), []
    for row in training_rows(steps, 0.69, 0.38, validate=False):
        t = row["step"] / steps
        chosen, rejected = -38 - 9 * t + rng.gauss(0, 1), -41 - 34 * t + rng.gauss(0, 1)
        rows.append({**row, "rewards/margins": 2.4 * t + rng.gauss(0, 0.1),
                     "rewards/accuracies": min(1, 0.5 + 0.4 * t + rng.gauss(0, 0.05)),
                     "rewards/chosen": -0.9 * t, "rewards/rejected": -3.3 * t,
                     "logps/chosen": chosen, "logps/rejected": rejected, "logits/chosen": 0.2 * t})
    rows[60]["loss"] = float("nan")
    return rows


def answer_rows() -> list[dict]:
    return [{"prompt": f"What does `os.path.{name}` do?", "expected": f"It {does}.",
             "answers": {"base": f"os.path.{name}(path) os.path os.path.{name}", "sft": f"It {does}.",
                         "dpo": f"It {does}, and returns a string." if name != "join" else HOSTILE}}
            for name, does in [("basename", "returns the last part of a path"), ("join", "joins parts of a path"),
                               ("exists", "says whether a path refers to something"), ("split", "splits a path in two"),
                               ("isdir", "says whether a path is a folder"), ("abspath", "makes a path absolute"),
                               ("getsize", "returns the size of a file"), ("samefile", "compares two paths")]]


def classified(out: Path) -> None:
    """What a classify stage leaves of 300 reviews, of which every third is wrong: the surest mistakes first."""
    names, rng = ["bad", "good", "neither"], random.Random(3)
    table, rows = [[0] * 3 for _ in names], []
    for number in range(300):
        truth = rng.randrange(3)
        said = (truth + number % 2 + 1) % 3 if number % 3 == 0 else truth
        sure = round(0.5 + 0.5 * rng.random(), 6)
        chances = {name: sure if place == said else round((1 - sure) / 2, 6) for place, name in enumerate(names)}
        table[truth][said] += 1
        rows.append({"review": HOSTILE if number == 0 else f"Number {number}, a film as {names[truth]} as any. " * 3,
                     "2": str(truth), "label": names[truth], "prediction": names[said], "probability": sure,
                     "probabilities": chances})
    rows.sort(key=lambda row: row["probability"] if row["label"] != row["prediction"] else 0.0, reverse=True)
    lines(out / "predictions.jsonl", rows)
    (out / "card.json").write_text(json.dumps({
        "task": "single", "accuracy": 2 / 3, "ece": 0.1, "classes": names, "confusion": table,
        "per_class": {name: {"precision": 0.7, "recall": 0.6, "f1": 0.65, "support": 100} for name in names},
        "reliability": [{"low": 0.4, "high": 0.6, "count": 100, "confidence": 0.55, "right": 0.5},
                        {"low": 0.8, "high": 1.0, "count": 200, "confidence": 0.9, "right": 0.75}]}))


def read_answers(out: Path) -> None:
    """What a qa stage leaves: an answer beside the right one, one to a question without, and a right one."""
    asked = [("Where is ore smelted?", "Ore is smelted in a bloomery, which is a furnace.", ["in a bloomery"],
              "a furnace", 0.0), ("Who?", "Nobody knows. " * 60, [], "Nobody", 0.0),
             ("What?", "Iron is made.", ["Iron"], "Iron", 1.0)]
    lines(out / "predictions.jsonl", [
        {"id": str(n), "question": question, "context": context, "answers": right, "prediction": said, "best": said,
         "score": 4.0 - n, "null_score": 0.5, "start": context.find(said), "f1": f1}
        for n, (question, context, right, said, f1) in enumerate(asked)])
    (out / "card.json").write_text(json.dumps({"task": "qa", "exact_match": 33.3, "f1": 33.3, "beside": {
        "random_span": {"exact_match": 0.0, "f1": 4.0}}}))


def made_card(*names: str) -> dict:
    """Marks of models whose scores are the answer's place and noise."""
    groups = [Ranked([1], [[2] * (2 + i % 5), [2] * (3 + i % 3)], (1, 2), margin=float(i % 3), kind="ab"[i % 2],
                     question=str(i)) for i in range(300)]
    noise = torch.randn(len(names), 600, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    place = torch.tensor([1.0, 0.0]).repeat(300)
    return report_card({name: place + own for name, own in zip(names, noise, strict=True)}, pairs_of(groups))
