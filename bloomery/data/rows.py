"""A token file as rows of at most `context` targets, and rows as batches.

A run predicts tokens[first:last], each from those before it in the run; what it reads begins one token earlier, with
the end-of-text before a document or the token before a cut.  So every token of the file is a target exactly once, and
the first of a document is predicted from an end-of-text alone, never from the document before.

    concatenated    row i is the i-th window of the file, one run: documents see those before them in the window
    masked          the same windows, cut into runs where documents end
    documents       whole documents, best-fit packed; only what is longer than the context is cut
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bloomery.data.batch import Batch
from bloomery.data.packing import best_fit
from bloomery.data.shards import Shard
from bloomery.model.forest import roots

Runs = tuple[np.ndarray, np.ndarray]        # (R,) int64 twice: first and last of the targets of each run


@dataclass(frozen=True)
class Rows:
    """`count` rows; `runs(chosen)` are those of the chosen rows in order. `fill` is how full the average row is."""

    count: int
    runs: Callable[[np.ndarray], Runs]
    fill: float = 1.0


def concatenated(shard: Shard, context: int) -> Rows:
    """Windows of `context` targets from the second token on; what is left at the end is no window."""
    return Rows((len(shard.tokens) - 1) // context, lambda chosen: (chosen * context + 1, (chosen + 1) * context + 1))


def masked(shard: Shard, context: int) -> Rows:
    """The windows of `concatenated`, and no run goes beyond the end of a document."""
    whole = concatenated(shard, context)

    def runs(chosen: np.ndarray) -> Runs:
        first, last = whole.runs(chosen)
        inside = np.searchsorted(shard.ends, first, "right"), np.searchsorted(shard.ends, last, "left")
        edges = [np.array([f, *shard.ends[a:b], e]) for f, e, a, b in zip(first, last, *inside, strict=True)]
        return np.concatenate([edge[:-1] for edge in edges]), np.concatenate([edge[1:] for edge in edges])

    return Rows(whole.count, runs)


def documents(shard: Shard, context: int) -> Rows:
    """Whole documents, best-fit packed into rows.

    No document sees another, so it does not matter which of them share a row: one plan serves every epoch.
    """
    begin = np.concatenate([[0], shard.ends[:-1]])
    if shard.eos is None:
        begin[0] = 1                                            # nothing to predict the first token of the file from
    first, last = cut((begin, shard.ends), context)
    order, bounds = best_fit(last - first, context)

    def runs(chosen: np.ndarray) -> Runs:
        index = order[ranges(bounds[chosen], bounds[chosen + 1])]
        return first[index], last[index]

    count = len(bounds) - 1
    return Rows(count, runs, float((last - first).sum()) / (max(count, 1) * context))


def cut(runs: Runs, longest: int) -> Runs:
    """Runs longer than `longest` in pieces of that length, the last of them shorter."""
    first, last = runs
    pieces = -(-(last - first) // longest)
    begin = np.repeat(first, pieces) + longest * ranges(np.zeros_like(pieces), pieces)
    return begin, np.minimum(begin + longest, np.repeat(last, pieces))


def ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Every arange(first[i], last[i]), end to end."""
    lengths = last - first
    return np.arange(lengths.sum()) + np.repeat(first - (np.cumsum(lengths) - lengths), lengths)


def batch_of(parts: list[tuple[Shard, Runs]]) -> Batch:
    """Runs of one or more token files as one batch of roots, every position trained."""
    ids, targets, lengths = [], [], []
    for shard, (first, last) in parts:
        place = ranges(first, last)                                                             # (N,)
        read = shard.tokens[np.maximum(place - 1, 0)].astype(np.int64)
        if shard.eos is not None:
            read[place == 0] = shard.eos
        ids.append(read)
        targets.append(shard.tokens[place].astype(np.int64))
        lengths.append(last - first)
    length = np.concatenate(lengths)                                                            # (R,)
    position = ranges(np.zeros_like(length), length)
    count = len(position)
    return Batch(torch.from_numpy(np.concatenate(ids)), torch.from_numpy(np.concatenate(targets)), torch.ones(count),
                 torch.from_numpy(position), roots(length.tolist()), float(count))


PACKINGS: dict[str, Callable[[Shard, int], Rows]] = {
    "concatenated": concatenated, "masked": masked, "documents": documents}
