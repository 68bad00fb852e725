"""Texts to the ids of byte-level BPE, compiled (numba): see `encode.py`.

A word is looked up before it is merged: most stood in the batch before, and their ids are copied from where they were
written then.  A slot of the table holds the last word that fell into it, compared byte by byte, so it is never wrong.
"""

from heapq import heapify, heappop, heappush

import numpy as np
from numba import njit

OTHER, LETTER, NUMBER, SPACE = range(4)
APOSTROPHE, BLANK = ord("'"), ord(" ")
PRIME, HALF, LOW = np.uint64(0x9E3779B97F4A7C15), np.uint64(32), (1 << 32) - 1


@njit(inline="always")
def place(a, b, mask):
    """Where the pair of two ids is looked for first."""
    key = (np.uint64(a) << HALF | np.uint64(b)) * PRIME
    return np.int64(key >> HALF) & mask


@njit(nogil=True, cache=True)
def fill(pairs, made, keys, values):
    """Note of every pair its rank, which is its row, and the id it makes; of equal pairs the last row counts."""
    mask = len(keys) - 1
    for rank in range(len(pairs)):
        a, b = pairs[rank]
        key, at = a << 32 | b, place(a, b, mask)
        while keys[at] >= 0 and keys[at] != key:
            at = (at + 1) & mask
        keys[at], values[at] = key, rank << 32 | made[rank]


@njit(nogil=True, cache=True)
def rule(a, b, keys, values):
    """Rank and id of the merge of two ids, as rank << 32 | id, or -1."""
    mask = len(keys) - 1
    key, at = np.int64(a) << 32 | np.int64(b), place(a, b, mask)
    while keys[at] >= 0:
        if keys[at] == key:
            return values[at]
        at = (at + 1) & mask
    return -1


@njit(nogil=True, cache=True)
def merged(ids, keys, values):
    """Merge ids in their place, the lowest rank first and of equal ones the leftmost; how many are left."""
    size = len(ids)
    after, before = np.arange(1, size + 1), np.arange(-1, size - 1)
    waiting = [np.int64(0) for _ in range(0)]
    for i in range(size - 1):
        found = rule(ids[i], ids[i + 1], keys, values)
        if found >= 0:
            waiting.append((found & ~LOW) | i)
    heapify(waiting)
    while len(waiting):
        first = heappop(waiting)
        i = first & LOW
        j = after[i]
        if ids[i] < 0 or j == size:
            continue
        found = rule(ids[i], ids[j], keys, values)
        if found < 0 or found >> 32 != first >> 32:                                     # no longer what it was
            continue
        ids[i], ids[j], after[i] = found & LOW, -1, after[j]
        if after[i] < size:
            before[after[i]] = i
            found = rule(ids[i], ids[after[i]], keys, values)
            if found >= 0:
                heappush(waiting, (found & ~LOW) | i)
        if before[i] >= 0:
            found = rule(ids[before[i]], ids[i], keys, values)
            if found >= 0:
                heappush(waiting, (found & ~LOW) | before[i])
    left = 0
    for i in range(size):
        if ids[i] >= 0:
            ids[left] = ids[i]
            left += 1
    return left


@njit(inline="always")
def character(data, at, kinds):
    """How many bytes the character has that begins at a byte, and what kind it is."""
    point, size = np.int64(data[at]), 1
    if point >= 128:
        point, size = (point & 0x07, 4) if point >= 0xF0 else (point & 0x0F, 3) if point >= 0xE0 else (point & 0x1F, 2)
        for i in range(1, size):
            point = (point << 6) | (np.int64(data[at + i]) & 0x3F)
    return size, kinds[point]


@njit(nogil=True, cache=True)
def contraction(data, at, stop):
    """How many bytes 's, 't, 'm, 'd, 'll, 've or 're has that begins at an apostrophe; 0 where none does."""
    one = data[at + 1] if at + 1 < stop else 0
    two = data[at + 2] if at + 2 < stop else 0
    if one == 115 or one == 116 or one == 109 or one == 100:
        return 2
    return 3 if (one == 108 and two == 108) or ((one == 118 or one == 114) and two == 101) else 0


@njit(nogil=True, cache=True)
def word_end(data, at, stop, kinds):
    """Where the word ends that begins at a byte, by GPT-2's pattern: its alternatives in their order."""
    if data[at] == APOSTROPHE:
        size = contraction(data, at, stop)
        if size:
            return at + size
    begin = at
    size, kind = character(data, at, kinds)
    if data[at] == BLANK and at + 1 < stop:                     # one space goes with what follows it
        next_size, next_kind = character(data, at + 1, kinds)
        if next_kind != SPACE:
            at, size, kind = at + 1, next_size, next_kind
    last = at
    while True:
        last, at = at, at + size
        if at == stop:
            return at
        size, other = character(data, at, kinds)
        if other != kind:
            break
    return last if kind == SPACE and last > begin else at       # the last of several spaces begins the next word


@njit(nogil=True, cache=True)
def encode(data, edges, kinds, byte_ids, keys, values, slots, out, ends):
    """Ids of texts that lie end to end into `out`, and where those of each end; `slots` (S, 4) begin as zeros."""
    count, mask = 0, np.uint64(len(slots) - 1)
    for text in range(len(edges) - 1):
        at, stop = edges[text], edges[text + 1]
        while at < stop:
            end, code = word_end(data, at, stop, kinds), np.uint64(0)
            for i in range(at, end):
                code = (code ^ np.uint64(data[i])) * PRIME
            slot = slots[(code >> HALF) & mask]                                         # begin, bytes, first id, ids
            same = slot[1] == end - at
            for i in range(end - at):
                if not same:
                    break
                same = data[slot[0] + i] == data[at + i]
            if same:
                first, size = slot[2], slot[3]
                for i in range(size):
                    out[count + i] = out[first + i]
            else:
                for i in range(at, end):
                    out[count + i - at] = byte_ids[data[i]]
                size = merged(out[count:count + end - at], keys, values)
                slot[0], slot[1], slot[2], slot[3] = at, end - at, count, size
            count, at = count + size, end
        ends[text] = count
