"""Pairs of texts that belong together, step by step: what is asked and what answers it, with texts that do not.

    query, passage, negatives       any of the names below; negatives may be missing, one text or a list
    question, context               also SQuAD's JSON: a question and the paragraph it was asked of
    a judged collection             a title and its text; a sentence and the rest of its text, which is the inverse
                                    cloze task (Lee et al. 2019, section 4).  Questions and judgements are not looked at

A step's groups are forests of texts: in a group every passage is a negative of every other query.  A hard negative is a
passage that BM25 takes for an answer and nobody has called one (Karpukhin et al. 2020, section 3.2); which of the first
`among` is drawn anew in every epoch.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bloomery.classic.bm25 import BM25
from bloomery.classic.words import sentences, terms
from bloomery.core.files import Quarantine
from bloomery.data.batch import Batch
from bloomery.data.formats import inside, records
from bloomery.data.stream import Stream, samples
from bloomery.finetune.judged import is_judged, open_judged
from bloomery.finetune.questions import nested
from bloomery.model.forest import roots

QUERIES = ("query", "anchor", "question", "title", "sentence1", "premise", "first")
PASSAGES = ("passage", "positive", "answer", "document", "context", "text", "sentence2", "hypothesis", "second")
NEGATIVES = ("negatives", "negative", "hard_negatives")
EXPECTED = "each row needs `query, passage` (and `negatives`); name yours with columns.THEIRS=query"


@dataclass(frozen=True, slots=True)
class Pair:
    query: str
    passage: str
    negatives: tuple[str, ...] = ()


def pairs(path: str, quarantine: Quarantine, columns: Mapping[str, str] | None = None) -> list[Pair]:
    """The pairs of a file, a folder or a judged collection; `columns` maps their names to ours."""
    if is_judged(path):
        found = open_judged(path, quarantine)
        return [pair for own in zip(found.titles, found.bodies, strict=True) for pair in cloze(*own)]

    def parse(row: dict, where: str) -> list[Pair] | str:
        row = {(columns or {}).get(name, name): value for name, value in row.items() if value is not None}
        if "data" in row or "paragraphs" in row:
            made = nested(row, where)
            return made if isinstance(made, str) else [Pair(asked.question, asked.context) for asked in made]
        return paired(row)

    found = records(inside(path, "pairs.jsonl"), quarantine, parse=parse, advice=lambda names: EXPECTED)
    return [pair for group in found for pair in group]


def cloze(title: str, body: str) -> list[Pair]:
    """A text as pairs; where it begins with its title that is no part of it."""
    own = sentences(body.removeprefix(title))
    rests = [" ".join(own[:place] + own[place + 1:]) for place in range(len(own))]
    return [Pair(query, rest) for query, rest in [(title, " ".join(own)), *zip(own, rests, strict=True)]
            if query and rest]


def paired(row: dict[str, Any]) -> list[Pair] | str:
    """What a row says; a string is why it cannot be used."""
    query, passage = (next((row[name] for name in names if name in row), None) for names in (QUERIES, PASSAGES))
    if not all(isinstance(text, str) and text.strip() for text in (query, passage)):
        return f"no query and passage; the columns are {', '.join(map(str, row))}"
    wrong = next((row[name] for name in NEGATIVES if name in row), ())
    wrong = (wrong,) if isinstance(wrong, str) else tuple(wrong)
    return [Pair(query, passage, wrong)] if all(isinstance(text, str) for text in wrong) else "negatives are no texts"


# --- what is right, and what looks as if it were ------------------------------------------------------------------

@dataclass(frozen=True)
class Lessons:
    """Pairs by number: `ids` of all texts as the model reads them, of each pair its query and passage, what else is
    right for a query, and the hard negatives there are to draw from."""

    ids: list[list[int]]
    pairs: list[tuple[int, int]]
    right: dict[int, set[int]]
    hard: list[list[int]]


def lessons(found: Sequence[Pair], encode: Callable[[str], list[int]], index: Callable[[list[list[str]]], BM25], *,
            among: int) -> Lessons:
    """Number the texts; look for hard negatives with BM25 where a pair brings none of its own and `among` is not 0."""
    numbers: dict[str, int] = {}
    known = [(numbers.setdefault(one.query, len(numbers)), numbers.setdefault(one.passage, len(numbers)))
             for one in found]
    right: dict[int, set[int]] = defaultdict(set)
    for query, passage in known:
        right[query].add(passage)
    passages = sorted({passage for _, passage in known})
    brought = [[numbers.setdefault(text, len(numbers)) for text in one.negatives] for one in found]
    texts = [*numbers]
    searched = index([terms(texts[number]) for number in passages]) if among else None
    hard = [own or (likely(searched, texts[query], passages, right[query] | {query}, among) if searched else [])
            for own, (query, _) in zip(brought, known, strict=True)]
    return Lessons([encode(text) for text in texts], known, right, hard)


def likely(index: BM25, query: str, passages: Sequence[int], right: set[int], among: int) -> list[int]:
    """The passages that BM25 would answer with, but for the right ones."""
    found = (passages[place] for place, _ in index.search(terms(query), among + len(right)))
    return [number for number in found if number not in right][:among]


# --- batches ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Group(Batch):
    """Queries and behind them passages, end to end. Nothing predicts a token: `targets` and `weights` are of no use."""

    right: Tensor               # (Q,) int64 the passage of each query
    known: Tensor               # (Q, P) bool what is right, that passage among it


def group_of(own: Lessons, chosen: Sequence[int], hard: Sequence[Sequence[int]], *, causal: bool) -> Group:
    """Some pairs with negatives (numbers of texts) for each; a text that comes twice is read once."""
    queries = [own.pairs[i][0] for i in chosen]
    passages = [*dict.fromkeys([*(own.pairs[i][1] for i in chosen), *(number for each in hard for number in each)])]
    place = {number: column for column, number in enumerate(passages)}
    runs = [own.ids[number] for number in (*queries, *passages)]
    segments = roots([len(ids) for ids in runs], causal=causal)
    flat = torch.tensor([i for ids in runs for i in ids])
    known = torch.tensor([[number in own.right[query] for number in passages] for query in queries])
    return Group(flat, flat, torch.zeros(len(flat)), segments.positions, segments, float(len(chosen)),
                 right=torch.tensor([place[own.pairs[i][1]] for i in chosen]), known=known)


def stream_of(own: Lessons, *, size: int, groups: int, negatives: int, seed: int, causal: bool) -> Stream:
    """Each step `groups` groups of `size` pairs in the order of `samples`, with `negatives` hard negatives a pair."""
    def batches(step: int) -> list[Group]:
        chosen, draw = samples(step, size * groups, len(own.pairs), seed), np.random.default_rng([seed, step, 2])
        hard = [draw.permutation(own.hard[i])[:negatives].astype(int).tolist() for i in chosen]
        return [group_of(own, chosen[at:at + size], hard[at:at + size], causal=causal)
                for at in range(0, size * groups, size)]

    return batches
