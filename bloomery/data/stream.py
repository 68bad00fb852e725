"""Data order as a function: which samples step k trains on follows from (seed, k), with no state to save.

Epoch e visits sample `permute(i, n, key(seed, e))` at position i.  The permutation is a Feistel network (four rounds,
cycle walking into [0, n)), so that a trillion samples cost no memory and any position can be asked for directly.
"""

from collections.abc import Callable

import numpy as np
import torch

from bloomery.data.batch import Batch, rectangle
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


def samples(step: int, size: int, n: int, seed: int) -> np.ndarray:
    """The `size` samples of step `step` when every epoch visits all n once in its own order, (size,) int64."""
    position = np.arange(step * size, (step + 1) * size)
    epoch, place = position // n, position % n
    out = np.empty(size, np.int64)
    for e in np.unique(epoch):
        here = epoch == e
        out[here] = permute(place[here], n, key=int(seed * 1_000_003 + e))
    return out


Stream = Callable[[int], list[Batch]]       # step -> the micro-batches of that step


def windows(shard: Shard, *, context: int, rows: int, micro_rows: int, seed: int) -> Stream:
    """A stream over a token file: each step has `rows` windows of `context` targets, in micro-batches.

    A window begins with the token before it, so that every token is predicted once an epoch.
    """
    count = (len(shard.tokens) - 1) // context
    place = np.arange(context + 1)

    def batches(step: int) -> list[Batch]:
        chosen = samples(step, rows, count, seed)
        taken = torch.from_numpy(shard.tokens[(chosen * context)[:, None] + place].astype(np.int64))
        return [rectangle(part) for part in taken.split(micro_rows)]

    return batches
