"""How well texts are found: by terms, by vectors, and by both.

    mrr          1 / the place of the first text that is right          recall_k     of what is right, among the first k
    ndcg_10      gains of the first 10, discounted by their places (`classic/scores.py`)

Vectors are compared by their cosine, BM25 has the defaults of `bloomery text search`, and the two are fused by
reciprocal rank (Cormack et al. 2009).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from bloomery.classic.bm25 import build
from bloomery.classic.fusion import rrf
from bloomery.classic.postings import best
from bloomery.classic.scores import ndcg, recall, reciprocal_rank
from bloomery.classic.words import terms

DEPTH = 100                     # places of a ranking that are looked at, and fused
Ranking = list[int]


@dataclass(frozen=True)
class Search:
    """Questions with the places of the texts that answer them, and how well."""

    questions: list[str]
    texts: list[str]
    relevant: list[Mapping[int, float]]


def by_terms(search: Search) -> list[Ranking]:
    index = build([terms(text) for text in search.texts])
    return [[place for place, _ in index.search(terms(question), DEPTH)] for question in search.questions]


def by_vectors(questions: np.ndarray, texts: np.ndarray) -> list[Ranking]:
    """Rankings from vectors of length one, (Q, D) and (N, D)."""
    return [best(scores, DEPTH).tolist() for scores in questions @ texts.T]


def fused(*rankings: Sequence[Ranking]) -> list[Ranking]:
    return [[*rrf(own)][:DEPTH] for own in zip(*rankings, strict=True)]


def figures(rankings: Sequence[Ranking], relevant: Sequence[Mapping[int, float]]) -> dict[str, float]:
    """Means over questions."""
    found = {"mrr": [reciprocal_rank(own, right) for own, right in zip(rankings, relevant, strict=True)],
             "ndcg_10": [ndcg(own, right, 10) for own, right in zip(rankings, relevant, strict=True)]}
    found |= {f"recall_{k}": [recall(own, right, k) for own, right in zip(rankings, relevant, strict=True)]
              for k in (1, 10, 100)}
    return {name: fmean(values) for name, values in found.items()}
