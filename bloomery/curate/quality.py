"""The quality stage: a classifier from texts that people labelled, and what it can be trusted with.

Texts held out by hash tell how well it ranks (area under the ROC curve), whether a probability of 0.8 is right in 80 of
100 cases (reliability, expected calibration error), and what each threshold would keep and how much of that is good.
`toxicity` and `languages` are the same stage with other defaults: what counts as a label, and which n-grams tell.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from bloomery.classic.linear import auc, calibration_error
from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Input, Settings
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine, rows, write_jsonl
from bloomery.core.metrics import progress, say
from bloomery.core.records import unit_hash
from bloomery.curate.classifier import Features, Judge

REPORT, MISTAKES = "classifier.json", "mistakes.jsonl"
BINS, THRESHOLDS = 10, 20
SHOWN = 50                                                  # of the texts it was surest of and wrong
EXCERPT = 1000

Labelled = tuple[str, str]                                  # text, label


class Config(Settings):
    """Train a classifier of texts."""

    data: Input | list[Input] = Field([], description="files of labelled rows")
    good: Input | list[Input] = Field([], description="files whose every text is good, instead of labels")
    bad: Input | list[Input] = Field([], description="files whose every text is not")
    text: str = Field("text", description="column with the text")
    label: str | tuple[str, ...] = Field("label", description="column with the label, or several of which one above "
                                                              "0.5 makes the label 1, as Jigsaw's have")
    test: float | Input = Field(0.2, description="share of the texts held out by hash, or labelled rows apart")
    features: Features = Features()
    seed: int = Field(0, description="names the order of the texts")


def run(config: Config, out: Path) -> dict:
    """Train, test, and write the classifier with `classifier.json` and `mistakes.jsonl`."""
    quarantine = Quarantine()
    found = list(progress(labelled(config, quarantine), name="reading labelled texts"))
    train, test = halves(found, config, quarantine)
    quarantine.write(out)
    for name, part in (("train on", train), ("test on", test)):
        if len({label for _, label in part}) < 2:
            raise InputError(f"fewer than two labels to {name}", where=str(config.data or config.good),
                             why=f"{len(part)} texts: {counted(part)}; {len(quarantine)} rows could not be used",
                             hint="give texts of both kinds, or name the columns with text= and label=")
    say(f"  classifier: {len(train)} texts to learn from ({counted(train)}), {len(test)} to test on")
    judge = Judge.train(*zip(*train, strict=True), config.features, seed=config.seed)
    texts, labels = zip(*test, strict=True)
    chances = judge.probabilities(texts)
    report = {"texts": len(train), "tested": len(test), **judged(judge.classes, chances, labels)}
    judge.save(out)
    write_jsonl(out / MISTAKES, mistakes(judge.classes, chances, test))
    write_atomic(out / REPORT, json.dumps(report, indent=1))
    for line in in_words(report):
        say(f"  classifier: {line}")
    return {name: value for name, value in report.items() if isinstance(value, (int, float))} | {
        "quarantined": len(quarantine)}


# --- labelled texts -----------------------------------------------------------------------------------------------

def labelled(config: Config, quarantine: Quarantine) -> Iterator[Labelled]:
    """Every text with its label; what has none is set aside."""
    if bool(config.data) == bool(config.good and config.bad):
        raise ConfigError("nothing to learn from", where="data", hint="give data with labels, or good and bad texts")
    for path in listed(config.data):
        yield from read(path, config, quarantine)
    for label, files in (("good", config.good), ("bad", config.bad)):
        for path in listed(files):
            yield from ((row[config.text], label) for row, where in rows(path, quarantine)
                        if has_text(row, where, config.text, quarantine))


def read(path: str, config: Config, quarantine: Quarantine) -> Iterator[Labelled]:
    for row, where in rows(path, quarantine):
        if has_text(row, where, config.text, quarantine):
            label = label_in(row, config.label)
            if label is None:
                quarantine.add(where, f"no label: the row has {', '.join(row)}")
            else:
                yield row[config.text], label


def listed(files: str | list[str]) -> list[str]:
    return [files] if isinstance(files, str) else files


def has_text(row: dict, where: str, column: str, quarantine: Quarantine) -> bool:
    if isinstance(row.get(column), str) and row[column].strip():
        return True
    quarantine.add(where, f"no text in column {column}: the row has {', '.join(row)}")
    return False


def label_in(row: dict, columns: str | tuple[str, ...]) -> str | None:
    """A column's value as text, whole numbers without a point; of several columns, whether one is above 0.5."""
    if isinstance(columns, str):
        value = row.get(columns)
        if isinstance(value, (bool, float)) and value == int(value):
            value = int(value)
        return None if value is None or str(value) == "" else str(value)
    values = [number(row[name]) for name in columns if name in row]
    return str(int(max(values) > 0.5)) if values and None not in values else None


def number(value: object) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def halves(found: list[Labelled], config: Config, quarantine: Quarantine) -> tuple[list[Labelled], list[Labelled]]:
    """What is learned from and what is held out; equal texts fall on one side."""
    if isinstance(config.test, str):
        apart = list(read(config.test, config, quarantine))
        known = {text for text, _ in apart}
        return [one for one in found if one[0] not in known], apart
    held = [unit_hash(text, "classifier") < config.test for text, _ in found]
    return [one for one, out in zip(found, held, strict=True) if not out], \
        [one for one, out in zip(found, held, strict=True) if out]


def counted(part: list[Labelled]) -> str:
    return ", ".join(f"{label} {count}" for label, count in Counter(label for _, label in part).most_common(8))


# --- the account --------------------------------------------------------------------------------------------------

def judged(classes: list[str], chances: np.ndarray, labels: tuple[str, ...]) -> dict:
    """What held-out texts say of it: of two classes how it ranks them, of any how often it is right, by label."""
    number = {name: place for place, name in enumerate(classes)}
    known = np.array([label in number for label in labels])
    truths = np.array([number.get(label, 0) for label in labels])
    right = (chances.argmax(axis=1) == truths) & known
    report = {"labels": classes, "accuracy": float(right.mean()),
              "calibration_error": calibration_error(chances[known], truths[known], bins=BINS),
              "by_label": {name: {"texts": int((truths[known] == place).sum()),
                                  "found": float(right[known & (truths == place)].mean())}
                           for name, place in number.items() if (truths[known] == place).any()}}
    if len(classes) == 2:
        scores, positive = chances[:, 1], truths == 1
        report |= {"auc": auc(scores, positive), "brier": float(np.mean((scores - positive) ** 2)),
                   "reliability": reliability(scores, positive),
                   "thresholds": [at(scores, positive, threshold)
                                  for threshold in (np.arange(1, THRESHOLDS) / THRESHOLDS).tolist()]}
    return report


def reliability(scores: np.ndarray, positive: np.ndarray) -> list[dict]:
    """Texts by what they were given: the mean chance of each tenth and the share that is positive."""
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    return [{"low": b / BINS, "texts": int((place == b).sum()), "chance": float(scores[place == b].mean()),
             "positive": float(positive[place == b].mean())} for b in range(BINS) if (place == b).any()]


def at(scores: np.ndarray, positive: np.ndarray, threshold: float) -> dict:
    """What a threshold keeps of all texts, how much of that is positive, and how much of the positive it keeps."""
    kept = scores >= threshold
    return {"threshold": round(threshold, 3), "kept": float(kept.mean()),
            "precision": float(positive[kept].mean()) if kept.any() else None,
            "recall": float(kept[positive].mean())}


def mistakes(classes: list[str], chances: np.ndarray, test: list[Labelled]) -> list[dict]:
    """The texts it was surest of and wrong, surest first."""
    guess, sure = chances.argmax(axis=1), chances.max(axis=1)
    wrong = [i for i in np.argsort(-sure, kind="stable").tolist() if classes[guess[i]] != test[i][1]]
    return [{"label": test[i][1], "guess": classes[guess[i]], "chance": round(float(sure[i]), 4),
             "text": test[i][0][:EXCERPT]} for i in wrong[:SHOWN]]


def in_words(report: dict) -> Iterator[str]:
    classes = report["labels"]
    if "auc" in report:
        yield f"ranks {classes[1]} above {classes[0]} in {report['auc']:.1%} of pairs (AUC)"
    yield f"right in {report['accuracy']:.1%}; its chances are off by {report['calibration_error']:.1%} on average"
    worst = sorted(report["by_label"].items(), key=lambda pair: pair[1]["found"])[:3]
    yield "least often found: " + ", ".join(f"{name} {one['found']:.0%} of {one['texts']}" for name, one in worst)
