"""How good a task's answers are: the figures its field reports, and the table of what was taken for what.

    one label       accuracy, macro F1, Matthews' correlation, calibration error before and after a temperature
    any of several  micro and macro F1, the share of rows that are right in all labels
    numbers         Pearson's and Spearman's correlation, root mean squared error
    tags            accuracy of tokens, micro F1 of tags but "O"; of whole spans where tags say B- and I-
    choices         accuracy

Matthews' correlation of several classes is R_K (Gorodkin 2004); calibration is Naeini et al. 2015 and Guo et al. 2017.
"""

from collections.abc import Sequence

import numpy as np

from bloomery.classic.linear import calibration_error, fitted_temperature, softmax
from bloomery.classic.scores import Score, classified

BINS = 15


def confusion(truths: np.ndarray, guesses: np.ndarray, classes: int) -> np.ndarray:
    """How often class r was taken for class c, (C, C)."""
    return np.bincount(truths * classes + guesses, minlength=classes * classes).reshape(classes, classes)


def matthews(table: np.ndarray) -> float:
    """R_K of a confusion table; 0 where truths or guesses are all of one class."""
    rows, columns, total = table.sum(1).astype(float), table.sum(0).astype(float), float(table.sum())
    above = float(np.trace(table)) * total - rows @ columns
    below = np.sqrt(total**2 - rows @ rows) * np.sqrt(total**2 - columns @ columns)
    return float(above / below) if below else 0.0


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """0 where one of them does not vary."""
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else 0.0


def ranks(x: np.ndarray) -> np.ndarray:
    """From 1; equal values share the mean of theirs."""
    _, where, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[where]


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    return pearson(ranks(x), ranks(y))


def reliability(probabilities: np.ndarray, truths: np.ndarray) -> list[dict[str, float]]:
    """What the reliability diagram shows: guesses by their chance, and how often they are right."""
    sure, right = probabilities.max(1), probabilities.argmax(1) == truths
    part = np.minimum((sure * BINS).astype(int), BINS - 1)
    return [{"low": b / BINS, "high": (b + 1) / BINS, "count": int(own.sum()), "confidence": float(sure[own].mean()),
             "right": float(right[own].mean())} for b in range(BINS) if (own := part == b).any()]


def per_class(scores: dict[str, Score]) -> dict[str, dict[str, float]]:
    return {str(name): {"precision": one.precision, "recall": one.recall, "f1": one.f1, "support": one.support}
            for name, one in scores.items()}


def one_label(scores: np.ndarray, truths: np.ndarray, names: Sequence[str]) -> tuple[dict, dict]:
    """Figures and card of logits (B, C) and classes (B,)."""
    guesses, table = scores.argmax(1), confusion(truths, scores.argmax(1), len(names))
    found = classified([names[i] for i in truths], [names[i] for i in guesses], labels=list(names))
    temperature = fitted_temperature(scores, truths)
    figures = {"accuracy": found.accuracy, "macro_f1": found.macro.f1, "matthews": matthews(table),
               "ece": calibration_error(softmax(scores), truths), "temperature": temperature,
               "ece_calibrated": calibration_error(softmax(scores / temperature), truths)}
    figures |= {"f1": found.labels[names[1]].f1} if len(names) == 2 else {}
    return figures, {"classes": list(names), "confusion": table.tolist(), "per_class": per_class(found.labels),
                     "reliability": reliability(softmax(scores), truths)}


def any_label(scores: np.ndarray, truths: np.ndarray, names: Sequence[str]) -> tuple[dict, dict]:
    """Figures and card of logits and truths (B, C); a label is said where its chance is above one half."""
    said, true = scores > 0, truths > 0.5
    labels = {name: Score.of(int((said[:, c] & true[:, c]).sum()), int(said[:, c].sum()), int(true[:, c].sum()))
              for c, name in enumerate(names)}
    micro = Score.of(int((said & true).sum()), int(said.sum()), int(true.sum()))
    return {"micro_f1": micro.f1, "macro_f1": float(np.mean([one.f1 for one in labels.values()])),
            "exact_match": float((said == true).all(1).mean()), "accuracy": float((said == true).mean())}, \
        {"classes": list(names), "per_class": per_class(labels)}


def numbers(scores: np.ndarray, truths: np.ndarray, names: Sequence[str]) -> tuple[dict, dict]:
    x, y = scores.ravel(), truths.ravel()
    return {"pearson": pearson(x, y), "spearman": spearman(x, y), "rmse": float(np.sqrt(np.mean((x - y) ** 2)))}, {}


def choices(scores: np.ndarray, truths: np.ndarray, names: Sequence[str]) -> tuple[dict, dict]:
    """Of logits (B, most choices), -inf where a question has fewer."""
    return {"accuracy": float((scores.argmax(1) == truths).mean())}, {}


def tags(guesses: Sequence[Sequence[str]], truths: Sequence[Sequence[str]]) -> tuple[dict, dict]:
    """Figures and card of the tags of sentences, a tag a word."""
    flat = [(t, g) for true, said in zip(truths, guesses, strict=True) for t, g in zip(true, said, strict=True)]
    true, said = zip(*flat, strict=True)
    names = sorted({*true, *said})
    inside = [name for name in names if name != "O"]
    found, wanted = classified(true, said, labels=names), classified(true, said, labels=inside or names)
    figures = {"accuracy": found.accuracy, "micro_f1": wanted.micro.f1, "macro_f1": found.macro.f1}
    if any(name.startswith("B-") for name in names):
        right, own, theirs = (sum(map(len, each)) for each in (
            [spans(t) & spans(g) for t, g in zip(truths, guesses, strict=True)], map(spans, guesses),
            map(spans, truths)))
        whole = Score.of(right, own, theirs)
        figures |= {"span_precision": whole.precision, "span_recall": whole.recall, "span_f1": whole.f1}
    number = {name: i for i, name in enumerate(names)}
    table = confusion(np.array([number[t] for t in true]), np.array([number[s] for s in said]), len(names))
    return figures, {"classes": names, "confusion": table.tolist(), "per_class": per_class(found.labels)}


def spans(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """What B- and I- tags mark: first, end and kind. An I- that continues nothing begins a span, as in CoNLL's."""
    found, start, kind = set(), 0, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, own = tag.partition("-")
        if kind and (prefix != "I" or own != kind):
            found.add((start, place, kind))
            kind = ""
        if prefix in ("B", "I") and not kind:
            start, kind = place, own
    return found


MEASURES = {"single": one_label, "multi": any_label, "regression": numbers, "choice": choices}
