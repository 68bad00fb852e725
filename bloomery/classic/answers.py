"""Answers compared with answers: exact match and token F1 after SQuAD's normalisation (Rajpurkar et al. 2016)."""

import re
import string
from collections import Counter

ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", kept).split())


def exact_match(prediction: str, gold: list[str]) -> float:
    """1 when the normalised prediction equals a normalised gold answer."""
    return float(any(normalise(prediction) == normalise(g) for g in gold))


def token_f1(prediction: str, gold: list[str]) -> float:
    """The best harmonic mean of token precision and recall over gold answers; two empty answers agree."""
    return max(one_f1(normalise(prediction).split(), normalise(g).split()) for g in gold)


def one_f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    common = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * common / (len(predicted) + len(gold))
