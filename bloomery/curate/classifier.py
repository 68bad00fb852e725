"""What people think of a text, learned from what they said of others: quality, toxicity, the language it is in.

    P(label | text) = softmax(W x),    x = n-grams of words and characters, beside them the document's shape

Both halves have length 1, so that a page of ten thousand n-grams does not drown its 26 statistics.  On web pages that
people called good or bad, n-grams of words alone rank a pair rightly in 83 of 100 cases, of characters in 86, and with
the shape in 89 (means over the six halvings by which this was chosen).

A filter keeps what the classifier is sure of (`threshold`), or draws: GPT-3 kept a document where a Pareto number
exceeded 1 - score, so that a few of the worst stay (Brown et al. 2020, appendix A).  The number is drawn from the
document's id, so that neither order nor workers matter.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from bloomery.classic.linear import MIX, Linear, Rows
from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Input, Settings
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.records import unit_hash
from bloomery.curate.shape import NAMES, cuts, places, statistics
from bloomery.curate.step import Findings

SHAPE = "shape.json"
BEYOND = np.uint64(1 << 34)                                 # above the numbers of words and characters
LOOKED = 100_000                                            # characters of a text; beyond, no verdict changes


class Features(Settings):
    """What of a text a classifier sees."""

    words: int = Field(0, ge=0, description="words of the longest n-gram; 0 for none")
    characters: int = Field(3, ge=0, description="characters of the longest n-gram; 0 for none")
    shape: int = Field(8, ge=0, description="parts each statistic of a document's shape is cut into; 0 for none")
    bits: int = Field(18, ge=1, le=30, description="n-grams share 2^bits weights a label")
    epochs: int = Field(8, gt=0, description="passes over the texts")
    rate: float = Field(0.1, gt=0, description="of AdaGrad")
    penalty: float = Field(1e-6, ge=0, description="weight of the squared weights")
    calibrate: float = Field(0.1, ge=0, lt=1, description="share of the texts that calibrate and teach nothing else")


@dataclass
class Judge:
    """A linear classifier, and where it cuts the statistics of a document's shape if it looks at that."""

    linear: Linear
    edges: list[list[float]] = field(default_factory=list)

    @classmethod
    def train(cls, texts: Sequence[str], labels: Sequence[str], features: Features, *, seed: int = 0) -> "Judge":
        """Learn from labelled texts; a function of the texts in their order, the labels and the seed."""
        classes = sorted(set(labels))
        number = {name: place for place, name in enumerate(classes)}
        edges = cuts(statistics([text[:LOOKED] for text in texts]), features.shape) if features.shape else []
        one = cls(Linear(classes, np.zeros((1 << features.bits, len(classes))), np.zeros(len(classes)), features.words,
                         characters=features.characters, damped=True), edges)
        one.linear.learn(one.rows(texts), np.array([number[label] for label in labels]), epochs=features.epochs,
                         rate=features.rate, penalty=features.penalty, held_out=features.calibrate, seed=seed)
        return one

    @property
    def classes(self) -> list[str]:
        return self.linear.classes

    def rows(self, texts: Sequence[str]) -> Rows:
        """N-grams, and behind those of each text the parts its statistics fall into."""
        looked = [text[:LOOKED] for text in texts]
        found = self.linear.rows(looked)
        if not self.edges or not looked:
            return found
        own = self.linear.bucket((places(statistics(looked), self.edges).astype(np.uint64) + BEYOND) * MIX)     # (B, S)
        start = found.start + np.arange(len(found.start)) * own.shape[1]
        behind = (start[1:, None] - own.shape[1] + np.arange(own.shape[1])).ravel()
        grams = np.ones(start[-1], bool)
        grams[behind] = False
        buckets, values = np.empty(start[-1], np.int64), np.full(start[-1], own.shape[1]**-0.5)
        buckets[grams], buckets[behind], values[grams] = found.buckets, own.ravel(), found.values
        return Rows(start, buckets, values)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """P(label | text), (B, Y), labels in the order of `classes`."""
        return self.linear.chances(self.rows(texts))

    def save(self, folder: Path) -> None:
        write_atomic(Path(folder) / SHAPE, json.dumps({"statistics": NAMES, "edges": self.edges}))
        self.linear.save(folder)

    @classmethod
    def load(cls, folder: Path) -> "Judge":
        """Read one that was saved; `InputError` where there is none, or it knows other statistics."""
        path = Path(folder) / SHAPE
        about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"edges": []}
        if about["edges"] and tuple(about["statistics"]) != NAMES:
            raise InputError("the classifier looks at other statistics than this version knows", where=str(path),
                             hint="train it again")
        return cls(Linear.load(Path(folder)), about["edges"])


class Quality(Settings):
    """Which documents a classifier lets pass."""

    model: Input | None = Field(None, description="a classifier made by `bloomery quality`")
    label: str = Field("", description="the label that is wanted; default: of two the last, as 1 is of 0 and 1")
    keep: Literal["threshold", "pareto"] = Field("threshold", description="what scores at least the threshold, or what "
                                                                          "a Pareto number drawn for it lets pass")
    threshold: float = Field(0.5, ge=0, le=1, description="probability of the wanted label from which on")
    alpha: float = Field(9.0, gt=0, description="of the Pareto distribution: the larger, the fewer bad ones stay")


class Classify:
    """The step that writes the probability of a label as column `name` and drops what has too little of it."""

    dear = True

    def __init__(self, options: Quality, *, name: str = "quality"):
        self.options, self.name = options, name
        self.judge = load_judge(options.model, name)
        self.wanted = label_of(self.judge, options.label, name)
        if options.keep == "threshold":
            self.ranges = {name: (options.threshold, inf)}

    def examine(self, batch: pa.RecordBatch) -> Findings:
        scores = self.judge.probabilities(batch.column("text").to_pylist())[:, self.wanted]
        if self.options.keep == "threshold":
            kept = scores >= self.options.threshold
        else:
            kept = np.array([pareto(id_, self.options.alpha) for id_ in batch.column("id").to_pylist()]) > 1 - scores
        return Findings([None if passes else self.name for passes in kept.tolist()], {self.name: scores})


def pareto(id_: str, alpha: float) -> float:
    """A document's own number from numpy's `pareto(alpha)`, P(X > x) = (1 + x)^-alpha."""
    return (1 - unit_hash(id_, "quality")) ** (-1 / alpha) - 1


def load_judge(model: str | None, verb: str) -> Judge:
    if not model:
        raise ConfigError(f"no classifier is given for {verb}", where=f"{verb}.model",
                          hint=f"train one with: bloomery {verb} data=LABELLED.jsonl out=FOLDER")
    return Judge.load(Path(model))


def label_of(judge: Judge, label: str, name: str) -> int:
    """The place of the wanted label; of two labels the last in order is the good one ("1", "good", "yes")."""
    wanted = label or judge.classes[-1]
    if wanted not in judge.classes or not label and len(judge.classes) > 2:
        raise ConfigError(f"the classifier knows no label {wanted!r}" if label else "which label is wanted?",
                          where=f"{name}.label", hint=f"name one of {', '.join(judge.classes)}")
    return judge.classes.index(wanted)
