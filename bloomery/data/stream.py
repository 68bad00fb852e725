"""Data order as a function: which samples step k trains on follows from (seed, k), with no state to save.

Epoch e of a domain visits sample `permute(i, n, key(seed, e))` at position i; whose turn it is says `mixture.py`.  The
permutation is a Feistel network (four rounds, cycle walking into [0, n)), so that a trillion samples cost no memory and
any position can be asked for directly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bloomery.core.records import unit_hash
from bloomery.data.batch import Batch
from bloomery.data.mixture import taken, turns
from bloomery.data.rows import Rows, Runs, batch_of, concatenated, cut
from bloomery.data.shards import Shard

ROUNDS = 4


def mix(x: np.ndarray, key: np.uint64) -> np.ndarray:
    """A 64-bit finaliser (SplitMix64, Steele et al. 2014) of x with a key."""
    with np.errstate(over="ignore"):
        x = (x ^ key) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(positions: np.ndarray, n: int, key: int) -> np.ndarray:
    """Where positions in [0, n) go in the permutation that `key` names; a bijection of [0, n)."""
    half = max(1, -(-max(1, (n - 1).bit_length()) // 2))
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    keys = mix(np.arange(ROUNDS, dtype=np.uint64), np.uint64(key % 2**64))
    out = np.asarray(positions, np.uint64).copy()
    todo = np.ones(out.shape, bool)
    while todo.any():                                           # walk until inside [0, n): fewer than 4 turns a value
        left, right = out[todo] >> shift, out[todo] & mask
        for round_key in keys:
            left, right = right, left ^ (mix(right, round_key) & mask)
        out[todo] = (left << shift) | right
        todo[todo] = out[todo] >= n
    return out.astype(np.int64)


def visited(positions: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The samples at `positions` of a run whose every epoch visits all n once in its own order, int64."""
    epoch, place = positions // n, positions % n
    out = np.empty(len(positions), np.int64)
    for e in np.unique(epoch):
        here = epoch == e
        out[here] = permute(place[here], n, key=int(seed * 1_000_003 + e))
    return out


def samples(step: int, size: int, n: int, seed: int) -> np.ndarray:
    """The `size` samples of step `step`, (size,) int64."""
    return visited(np.arange(step * size, (step + 1) * size), n, seed)


class MicroBatches(Sequence[Batch]):
    """The micro-batches of a step, each built when it is first asked for, so that a rank builds only its own.

    `counts` are known before: what the loss of each is divided by, before the sum over all of them.
    """

    def __init__(self, build: Callable[[int], Batch], counts: list[float]):
        self.build, self.counts, self.built = build, counts, {}

    @property
    def count(self) -> float:
        """What the summed loss of the whole step is divided by."""
        return sum(self.counts)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        if place not in self.built:
            self.built[place] = self.build(place)
        return self.built[place]


Stream = Callable[[int], Sequence[Batch]]       # step -> the micro-batches of that step


@dataclass(frozen=True)
class Domain:
    """A part of the corpus that is drawn from and measured on its own."""

    name: str               # "" when it is the whole corpus
    shard: Shard
    rows: Rows
    share: float = 1.0      # of all samples

    def key(self, seed: int) -> int:
        """The seed of its order: another one for every name, the same whatever other domains there are."""
        return seed + int(unit_hash(self.name, "domain") * 2**40) if self.name else seed


class TokenStream:
    """Each step `rows` rows, the domains in turn by their shares, in micro-batches of `micro_rows`, the last smaller.

    `longest(step)`, when given, cuts runs to that many tokens: the same tokens a step at a shorter context.
    """

    def __init__(self, domains: list[Domain], *, rows: int, micro_rows: int, seed: int,
                 longest: Callable[[int], int] | None = None):
        self.domains, self.rows, self.micro_rows, self.seed, self.longest = domains, rows, micro_rows, seed, longest
        self.shares = np.array([domain.share for domain in domains])

    def __call__(self, step: int) -> MicroBatches:
        bounds = [*range(0, self.rows, self.micro_rows), self.rows]
        parts = [[(domain.shard, runs) for domain, runs in self.runs(step, first, last)]
                 for first, last in pairwise(bounds)]
        counts = [float(sum((last - first).sum() for _, (first, last) in part)) for part in parts]
        return MicroBatches(lambda index: batch_of(parts[index]), counts)

    def runs(self, step: int, first: int, last: int) -> list[tuple[Domain, Runs]]:
        """The runs of rows first..last-1 of a step, domain by domain."""
        turn, place = turns(self.shares, step * self.rows + first, step * self.rows + last)
        found = []
        for index in np.unique(turn):
            domain = self.domains[index]
            runs = domain.rows.runs(visited(place[turn == index], domain.rows.count, domain.key(self.seed)))
            found.append((domain, cut(runs, self.longest(step)) if self.longest else runs))
        return found

    def documents(self, step: int) -> dict[str, list[int]]:
        """Which documents of each domain a step reads, for whoever has to look at them."""
        found = {}
        for domain, (first, last) in self.runs(step, 0, self.rows):
            ends = domain.shard.ends
            inside = zip(np.searchsorted(ends, first, "right"), np.searchsorted(ends, last - 1, "right"), strict=True)
            found[domain.name] = sorted({int(d) for a, b in inside for d in range(a, b + 1)})
        return found

    def drawn(self, steps: int) -> dict[str, tuple[int, float]]:
        """Samples and epochs of each domain after `steps` steps."""
        counts = taken(self.shares, steps * self.rows).tolist()
        return {domain.name: (count, count / domain.rows.count)
                for domain, count in zip(self.domains, counts, strict=True)}


def windows(shard: Shard, *, context: int, rows: int, micro_rows: int, seed: int) -> TokenStream:
    """A stream over one token file: each step has `rows` windows of `context` targets, in micro-batches."""
    return TokenStream([Domain("", shard, concatenated(shard, context))], rows=rows, micro_rows=micro_rows, seed=seed)


def doubling(context: int, *, until: int, times: int = 3) -> Callable[[int], int]:
    """The longest run at each step: context / 8, / 4 and / 2 for a third of the first `until` steps each, then all.

    Short runs first train faster and more stably (Li et al. 2021, arXiv 2108.06084); there the context grows by 8
    tokens at a time, here it doubles, since a CPU compiles every new shape of a product.
    """
    return lambda step: -(-context // 2 ** max(times - times * step // until, 0)) if until else context
