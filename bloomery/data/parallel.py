"""Sources and their targets: rows of a file or two files line by line, as tokens, and as batches of forests.

A source is a run without a parent, its target the run that continues it (`model/seq2seq.py`).  The target is read
behind a start token and predicted with its end; of the source nothing is predicted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bloomery.core.errors import InputError
from bloomery.core.files import BadRow, Quarantine, byte_lines, decode, rows
from bloomery.data.batch import Batch, Run, forest
from bloomery.data.packing import best_fit_decreasing
from bloomery.data.stream import MicroBatches, Stream, permute, samples
from bloomery.text.tokenizer import Tokenizer

POOL = 50               # steps whose pairs are sorted by length together


@dataclass(frozen=True)
class Parallel:
    """Two texts that say the same, or of which one answers the other."""

    source: str
    target: str
    where: str


@dataclass(frozen=True)
class Pair:
    """The same as tokens, each with its end; `row` is its number among those that were read."""

    source: list[int]
    target: list[int]
    row: int = 0

    @property
    def tokens(self) -> int:
        return len(self.source) + len(self.target)


# --- texts --------------------------------------------------------------------------------------------------------

def of_columns(path: str, quarantine: Quarantine, *, source: str, target: str) -> list[Parallel]:
    """The rows of a file or folder, by the names of two columns, which may be inside of others: `translation.de`."""
    found, seen = [], None
    for row, where in rows(path, quarantine):
        seen = seen or list(row)
        texts = [inside(row, name) for name in (source, target)]
        wrong = [name for name, text in zip((source, target), texts, strict=True)
                 if not isinstance(text, str) or not text.strip()]
        if wrong:
            quarantine.add(where, f"no text in {' and '.join(wrong)}", str(row))
        else:
            found.append(Parallel(*texts, where))
    if not found:
        raise InputError("no row has both texts", where=path,
                         why=f"source={source}, target={target}; the columns are {', '.join(map(str, seen or []))}",
                         hint="name them: source_column=... target_column=...")
    return found


def inside(row: dict, name: str) -> object:
    """The value of a column, or of one within a column; None where there is none."""
    if name in row:
        return row[name]
    first, _, rest = name.partition(".")
    return inside(row[first], rest) if rest and isinstance(row.get(first), dict) else None


def of_lines(sources: str, targets: str, quarantine: Quarantine) -> list[Parallel]:
    """Two text files, plain or packed, whose lines belong together. A pair with an empty side is set aside."""
    both = [[*byte_lines(existing(path), quarantine)] for path in (sources, targets)]
    if len(both[0]) != len(both[1]):
        raise InputError("two files are not parallel", where=f"{sources} and {targets}",
                         why=f"one has {len(both[0])} lines, the other {len(both[1])}",
                         hint="line i of one must be what line i of the other says")
    found = []
    for (one, where), (other, _) in zip(*both, strict=True):
        try:
            texts = [decode(line.removesuffix(b"\r")).strip() for line in (one, other)]
        except BadRow as error:
            quarantine.add(where, str(error), one)
            continue
        if all(texts):
            found.append(Parallel(*texts, where))
        else:
            quarantine.add(where, "one side is empty", one + other)
    if not found:
        raise InputError("no line has both texts", where=sources)
    return found


def existing(path: str) -> Path:
    if not Path(path).is_file():
        raise InputError("no such file", where=path, hint="give a text file, plain, .gz or .zst, one text a line")
    return Path(path)


# --- tokens -------------------------------------------------------------------------------------------------------

def pairs(texts: Sequence[Parallel], tokenizer: Tokenizer, *, end: int, longest: int, prefix: str = "",
          where: str = "") -> tuple[list[Pair], int]:
    """Texts as tokens, and how many were left out because a side is longer than `longest` tokens, its end included.

    `prefix` stands before every source ("translate English to German: ").
    """
    sources = tokenizer.encode_batch([prefix + text.source for text in texts])
    targets = tokenizer.encode_batch([text.target for text in texts])
    made = [Pair([*one, end], [*other, end], row)
            for row, (one, other) in enumerate(zip(sources, targets, strict=True))]
    kept = [pair for pair in made if max(len(pair.source), len(pair.target)) <= longest]
    if not kept:
        raise InputError("nothing is short enough", where=where, why=f"all {len(made)} pairs have a side of more than "
                         f"{longest} tokens", hint="a larger network.context")
    return kept, len(made) - len(kept)


# --- batches ------------------------------------------------------------------------------------------------------

def pair_batch(chosen: Sequence[Pair], start: int) -> Batch:
    """Pairs as a forest, every target behind `start`."""
    runs: list[Run] = []
    for pair in chosen:
        runs.append(Run(pair.source, pair.source, [0.0] * len(pair.source)))
        runs.append(Run([start, *pair.target[:-1]], pair.target, [1.0] * len(pair.target), len(runs) - 1))
    return forest(runs)


def pair_batches(chosen: Sequence[Pair], start: int, micro_tokens: int) -> MicroBatches:
    """Pairs best-fit into batches of at most `micro_tokens`, or one pair where it is longer."""
    sizes = [pair.tokens for pair in chosen]
    bins = best_fit_decreasing(sizes, max([micro_tokens, *sizes]))
    counts = [float(sum(len(chosen[i].target) for i in group)) for group in bins]
    return MicroBatches(lambda index: pair_batch([chosen[i] for i in bins[index]], start), counts)


def by_length(data: Sequence[Pair], *, examples: int, seed: int, pool: int = POOL) -> Callable[[int], np.ndarray]:
    """step -> its pairs, of similar length: `pool` steps are drawn at once, sorted, cut, and taken in random order.

    A function of (seed, step), as every order of data is.  No more are drawn at once than there are, or the same pair
    would stand beside itself.
    """
    pool = max(1, min(pool, len(data) // examples))
    lengths = np.array([(len(pair.target), len(pair.source)) for pair in data])

    def chosen(step: int) -> np.ndarray:
        block, place = divmod(step, pool)
        drawn = samples(block, pool * examples, len(data), seed)
        order = drawn[np.lexsort((drawn, lengths[drawn, 1], lengths[drawn, 0]))]
        turn = int(permute(np.array([place]), pool, seed * 1_000_003 + block)[0])
        return order[turn * examples:(turn + 1) * examples]

    return chosen


def paired(data: Sequence[Pair], *, start: int, examples: int, micro_tokens: int, seed: int) -> Stream:
    """Each step `examples` pairs of similar length."""
    order = by_length(data, examples=examples, seed=seed)
    return lambda step: pair_batches([data[i] for i in order(step)], start, micro_tokens)
