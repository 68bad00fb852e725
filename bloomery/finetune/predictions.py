"""What a model of a task says of rows: scores, and the same in the task's own words.

A folder's `task.json` says how its rows are encoded and what its scores mean, beside the `config.json` that other tools
read.
"""

import json
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bloomery.classic.linear import softmax
from bloomery.core.errors import InputError
from bloomery.finetune.inputs import Encoder, Input, forest_of, packed
from bloomery.finetune.labelled import Labelled
from bloomery.finetune.objectives import scores_of
from bloomery.losses.token import IGNORE
from bloomery.model.headed import Headed, load_headed
from bloomery.text.framing import frame_of
from bloomery.text.tokenizer import load_tokenizer
from bloomery.train.precision import Precision, choose, placed

TASK = "task.json"
MICRO_TOKENS = 8192
GLOBS = ("*.safetensors", "config.json", "tokenizer.json", TASK)


@contextmanager
def evaluating(model: torch.nn.Module):
    """Without dropout and gradients."""
    before = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(before)


def scored(model: Headed, inputs: Sequence[Input], micro_tokens: int = MICRO_TOKENS) -> list[np.ndarray]:
    """Of every input its scores: (C,), of tags (words, C), of choices (choices,)."""
    make = partial(forest_of, causal=model.config.causal, typed=model.config.types > 0)
    found: list[np.ndarray] = [np.zeros(0)] * len(inputs)
    with evaluating(model):
        for batch, places in zip(*packed(inputs, micro_tokens, make), strict=True):
            batch = batch.beside(model)
            hidden = model.states(batch.ids, batch.segments, batch.types)
            if model.shape.task == "token":
                asked = batch.truths != IGNORE
                parts = model.read(hidden[asked]).split([int(own.sum()) for own in asked.split(
                    [inputs[i].tokens for i in places])])
            else:
                scores = scores_of(model, batch, hidden)
                choice = model.shape.task == "choice"
                parts = scores[:, 0].split([len(inputs[i].reads) for i in places]) if choice else scores
            for place, own in zip(places, parts, strict=True):
                found[place] = own.double().cpu().numpy()
    return found


@dataclass(frozen=True)
class Judge:
    """A model of a task that can be asked about rows."""

    model: Headed
    encoder: Encoder
    temperature: float = 1.0

    def __call__(self, rows: Sequence[Labelled]) -> list[dict]:
        scores = scored(self.model, [self.encoder(replace(row, label=None))[0] for row in rows])    # never looked at
        return [said(self.encoder.task, self.encoder.names, own, row, self.temperature)
                for row, own in zip(rows, scores, strict=True)]


def said(task: str, names: Sequence[str], scores: np.ndarray, row: Labelled, temperature: float = 1.0) -> dict:
    """What scores mean: a label with its chance, labels, a number, tags, or which answer."""
    if task == "regression":
        return {"prediction": rounded(scores) if len(scores) > 1 else rounded(scores)[0]}
    if task == "multi":
        chances = np.exp(-np.logaddexp(0, -scores))
        return {"prediction": [name for name, p in zip(names, chances, strict=True) if p > 0.5],
                "probabilities": dict(zip(names, rounded(chances), strict=True))}
    if task == "tagging":
        tags = [names[i] for i in scores.argmax(-1)] if len(scores) else []
        return {"prediction": tags + ["O" if "O" in names else names[0]] * (len(row.texts) - len(tags))}
    chances = softmax(scores[None] / temperature)[0]
    best = int(chances.argmax())
    if task == "choice":
        return {"prediction": best, "answer": row.texts[1 + best], "probabilities": rounded(chances)}
    return {"prediction": names[best], "probability": rounded(chances)[best],
            "probabilities": dict(zip(names, rounded(chances), strict=True))}


def rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]


def open_judge(folder: Path, *, precision: Precision = "auto") -> Judge:
    """A classify stage's folder; or any ...ForSequenceClassification or ...ForTokenClassification with a tokenizer."""
    folder = Path(folder)
    model = load_headed(folder, compute=choose(precision)[0]).to(placed())
    shape = model.shape
    told = json.loads((folder / TASK).read_text(encoding="utf-8")) if (folder / TASK).is_file() else {}
    task = told.get("task") or {"token": "tagging", "choice": "choice"}.get(shape.task) or (
        "multi" if shape.problem == "multi_label_classification" else "regression" if shape.labels == 1 else "single")
    if shape.task not in ("sequence", "token", "choice"):
        raise InputError("this model is not a classifier", where=str(folder), why=f"its head is for {shape.task}")
    frame = frame_of(load_tokenizer(folder), causal=model.config.causal, where=str(folder))
    encoder = Encoder(task, shape.names or tuple(told.get("names", ())), frame, model.config.context,
                      both_orders=told.get("both_orders", False))
    return Judge(model, encoder, told.get("temperature", 1.0))
