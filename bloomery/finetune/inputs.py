"""Rows of a task as forests of token runs, step by step: what is read of them, and what is to be said there.

A text is one run, two are one run too, with a separator and, for encoders, types.  Answers to a question are a run
each behind the question, which a decoder reads once for all of them: a root with its answers as children.  With
`both_orders` two texts are two runs, A B and B A, whose states are added (Radford et al. 2018, section 3.3).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from bloomery.data.batch import Batch
from bloomery.data.packing import best_fit_decreasing
from bloomery.data.stream import Stream, samples
from bloomery.finetune.labelled import Labelled, names_of
from bloomery.losses.token import IGNORE
from bloomery.model.forest import Segments, roots
from bloomery.text.framing import Frame


@dataclass(frozen=True)
class Input:
    """One row, encoded. `runs` are ids, types and the run each continues (-1: none), `reads` those that are read."""

    runs: tuple[tuple[list[int], list[int], int], ...]
    reads: tuple[int, ...]
    truth: int | list[float] | tuple[int, ...]  # a class or an answer's number, a vector, or a class for every token
    weight: float = 1.0

    @property
    def tokens(self) -> int:
        return sum(len(ids) for ids, _, _ in self.runs)


@dataclass(frozen=True)
class TaskForest(Batch):
    """Inputs end to end. Where no token is predicted `weights` are 0 and `targets` are of no use."""

    reads: Tensor               # (M,) int64 runs that are read
    owner: Tensor               # (M,) int64 whose they are
    truths: Tensor              # (B,) or (B, C), of tags (N,)
    each: Tensor                # (B,) float32 what an example counts; of tags (N,)
    scale: float = field(default=0.0, kw_only=True)     # what examples of the step count / its predicted tokens


@dataclass(frozen=True)
class Encoder:
    """Encodes the rows of one task."""

    task: str
    names: tuple[str, ...]
    frame: Frame
    context: int
    both_orders: bool = False
    class_weights: tuple[float, ...] | None = None

    def __call__(self, row: Labelled) -> tuple[Input, int]:
        """The input, and how many tokens did not fit."""
        return ENCODERS[self.task](self, row)

    def ids(self, text: str) -> list[int]:
        return self.frame.tokenizer.encode(text)

    def fitted(self, a: list[int], b: list[int]) -> tuple[list[int], list[int], int]:
        ids, types = self.frame(*(parts := self.frame.fitted(self.context, a, b))[:2])
        return ids, types, parts[2]


def of_text(encoder: Encoder, row: Labelled) -> tuple[Input, int]:
    parts = [encoder.ids(text) for text in row.texts] + [[]] * (2 - len(row.texts))
    orders = [parts, parts[::-1]] if encoder.both_orders and len(row.texts) == 2 else [parts]
    found = [encoder.fitted(*order) for order in orders]
    truth = truth_of(encoder, row)
    weight = encoder.class_weights[truth] if encoder.class_weights and isinstance(truth, int) else 1.0
    runs = tuple((ids, types, -1) for ids, types, _ in found)
    return Input(runs, tuple(range(len(runs))), truth, weight), found[0][2]


def truth_of(encoder: Encoder, row: Labelled) -> int | list[float]:
    """A class's number, what is to be said of every label, or the number itself; a row without a label has zeros."""
    if row.label is None:
        return 0 if encoder.task == "single" else [0.0] * max(1, len(encoder.names))
    if encoder.task == "regression":
        return [float(value) for value in (row.label if isinstance(row.label, list) else [row.label])]
    if encoder.task == "multi":
        return [float(name in names_of(row)) for name in encoder.names]
    return encoder.names.index(str(row.label))


def of_tags(encoder: Encoder, row: Labelled) -> tuple[Input, int]:
    """A word's tag is that of its first token; the others are not asked."""
    pieces = [encoder.ids((" " if number else "") + word) for number, word in enumerate(row.texts)]
    tags = row.label or encoder.names[:1] * len(pieces)
    body = [i for ids in pieces for i in ids]
    said = [tag for ids, name in zip(pieces, tags, strict=True)
            for tag in [encoder.names.index(name), *[IGNORE] * (len(ids) - 1)][:len(ids)]]
    ids, types, over = encoder.fitted(body, [])
    kept, before = len(body) - over, len(encoder.frame.begin)
    truth = [IGNORE] * before + said[:kept] + [IGNORE] * (len(ids) - before - kept)
    return Input(((ids, types, -1),), (0,), tuple(truth)), over


def of_choices(encoder: Encoder, row: Labelled) -> tuple[Input, int]:
    question, *choices = (encoder.ids(text) for text in row.texts)
    frame, longest = encoder.frame, max(map(len, choices))
    over = max(0, len(question) + longest - frame.room(encoder.context, 2))
    kept = question[over:] if over < len(question) else question[-1:]       # what stands next to the answers
    truth = row.label or 0
    if not frame.causal:
        runs = tuple((ids, types, -1) for ids, types, _ in (encoder.fitted(kept, choice) for choice in choices))
        return Input(runs, tuple(range(len(runs))), truth), over
    room = max(1, frame.room(encoder.context, 2) - len(kept))
    root = [*frame.begin, *kept]
    ends = [[*frame.between, *choice[:room], *frame.end] for choice in choices]
    runs = ((root, [0] * len(root), -1), *((ids, [0] * len(ids), 0) for ids in ends))
    return Input(runs, tuple(range(1, len(runs))), truth), over


ENCODERS: dict[str, Callable[[Encoder, Labelled], tuple[Input, int]]] = {
    "single": of_text, "multi": of_text, "regression": of_text, "tagging": of_tags, "choice": of_choices}


# --- batches ------------------------------------------------------------------------------------------------------

def forest_of(inputs: Sequence[Input], *, causal: bool, typed: bool, language: bool = False) -> TaskForest:
    """Inputs as one forest; with `language` every token but the last of a run is also to predict the next."""
    ids, types, lengths, parents, reads, owner = [], [], [], [], [], []
    for number, one in enumerate(inputs):
        first = len(lengths)
        for run, kinds, parent in one.runs:
            ids += run
            types += kinds
            lengths.append(len(run))
            parents.append(parent + first if parent >= 0 else -1)
        reads += [first + run for run in one.reads]
        owner += [number] * len(one.reads)
    segments = Segments(roots(lengths).start, torch.tensor(parents, dtype=torch.int32), causal)
    flat = torch.tensor(ids)
    weights = torch.zeros(len(ids))
    if language:
        weights += 1.0
        weights[segments.start[1:].long() - 1] = 0.0
    tags = isinstance(inputs[0].truth, tuple)
    truths = torch.tensor([tag for one in inputs for tag in one.truth] if tags else [one.truth for one in inputs])
    each = (truths != IGNORE).float() if tags else torch.tensor([one.weight for one in inputs])
    return TaskForest(flat, flat.roll(-1), weights, segments.positions, segments, float(each.sum()),
                      reads=torch.tensor(reads), owner=torch.tensor(owner), truths=truths, each=each,
                      types=torch.tensor(types) if typed else None)


def stream_of(inputs: Sequence[Input], *, size: int, micro_tokens: int, seed: int,
              make: Callable[[Sequence[Input]], TaskForest]) -> Stream:
    """Each step `size` inputs in the order of `samples`, best-fit into forests of at most `micro_tokens`."""
    def batches(step: int) -> list[TaskForest]:
        found = packed([inputs[i] for i in samples(step, size, len(inputs), seed)], micro_tokens, make)[0]
        predicted, count = sum(float(batch.weights.sum()) for batch in found), sum(batch.count for batch in found)
        return [replace(batch, scale=count / predicted) for batch in found] if predicted else found

    return batches


def packed(inputs: Sequence[Input], micro_tokens: int, make: Callable[[Sequence[Input]], TaskForest]
           ) -> tuple[list[TaskForest], list[list[int]]]:
    """Forests of about `micro_tokens` tokens, and the places of the inputs in each."""
    sizes = [one.tokens for one in inputs]
    bins = best_fit_decreasing(sizes, max(micro_tokens, *sizes))
    return [make([inputs[i] for i in group]) for group in bins], bins


def share_cut(over: Sequence[int]) -> float:
    """Of inputs, the share that lost tokens."""
    return float(np.mean(np.asarray(over) > 0)) if len(over) else 0.0
