"""The inner loop of learning byte-pair merges, compiled (numba). `bpe.py` says what it computes, and computes it too.

Words lie end to end as chains of symbols.  Every pair has the places where it occurs, in the order it came to be: all
places of a pair arise in one merge, that of the later of its two symbols, so a list never grows again and a place that
is no longer one is seen to be stale when it is visited.  The heap is lazy likewise: an entry whose count has changed
goes back with the new one.
"""

import numpy as np
from numba import njit, types
from numba.typed import Dict

KEY = types.int64


@njit(cache=True)
def before(a, b, counts, left, right, bytes_, ends):
    """Whether pair a is merged before pair b: the commoner, of equally common ones the lesser in bytes."""
    if counts[a] != counts[b]:
        return counts[a] > counts[b]
    for one, other in ((left[a], left[b]), (right[a], right[b])):
        start, start_other = ends[one], ends[other]
        size, size_other = ends[one + 1] - start, ends[other + 1] - start_other
        for place in range(min(size, size_other)):
            if bytes_[start + place] != bytes_[start_other + place]:
                return bytes_[start + place] < bytes_[start_other + place]
        if size != size_other:
            return size < size_other
    return False


@njit(cache=True)
def sink(heap, size, place, shown, left, right, bytes_, ends):
    while True:
        best, child = place, 2 * place + 1
        for other in (child, child + 1):
            if other < size and before(heap[other], heap[best], shown, left, right, bytes_, ends):
                best = other
        if best == place:
            return
        heap[place], heap[best] = heap[best], heap[place]
        place = best


@njit(cache=True)
def rise(heap, place, shown, left, right, bytes_, ends):
    while place and before(heap[place], heap[(place - 1) // 2], shown, left, right, bytes_, ends):
        heap[place], heap[(place - 1) // 2] = heap[(place - 1) // 2], heap[place]
        place = (place - 1) // 2


@njit(cache=True)
def grown(array, needed):
    if needed <= len(array):
        return array
    larger = np.empty(max(2 * len(array), needed), array.dtype)
    larger[:len(array)] = array
    return larger


@njit(cache=True)
def merges(symbols, starts, weights, wanted):
    """Pairs of symbols in the order they are merged, (M, 2); symbol 256 + i is what the i-th makes."""
    n = len(symbols)
    following, previous, weight = np.full(n, -1, np.int64), np.full(n, -1, np.int64), np.zeros(n, np.int64)
    for word in range(len(weights)):
        for place in range(starts[word], starts[word + 1]):
            weight[place] = weights[word]
            if place + 1 < starts[word + 1]:
                following[place], previous[place + 1] = place + 1, place
    bytes_, ends = np.empty(1 << 12, np.uint8), np.zeros(257 + wanted, np.int64)
    for value in range(256):
        bytes_[value], ends[value + 1] = value, value + 1
    number = Dict.empty(KEY, KEY)
    left, right = np.empty(1 << 12, np.int64), np.empty(1 << 12, np.int64)
    counts, head, tail = np.zeros(1 << 12, np.int64), np.empty(1 << 12, np.int64), np.empty(1 << 12, np.int64)
    where, after = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)      # nodes of the lists of places
    pairs, nodes = 0, 0
    for place in range(n):
        if following[place] >= 0:
            key = (np.int64(symbols[place]) << 32) | symbols[following[place]]
            if key not in number:
                left, right, counts = grown(left, pairs + 1), grown(right, pairs + 1), grown(counts, pairs + 1)
                head, tail = grown(head, pairs + 1), grown(tail, pairs + 1)
                number[key], left[pairs], right[pairs] = pairs, symbols[place], symbols[following[place]]
                counts[pairs], head[pairs], pairs = 0, -1, pairs + 1
            pair = number[key]
            where[nodes], after[nodes] = place, -1
            if head[pair] < 0:
                head[pair] = nodes
            else:
                after[tail[pair]] = nodes
            tail[pair], nodes = nodes, nodes + 1
            counts[pair] += weight[place]
    heap, shown = np.arange(max(pairs, 1)), counts.copy()
    size = pairs
    for place in range(size // 2 - 1, -1, -1):
        sink(heap, size, place, shown, left, right, bytes_, ends)
    found, made = np.empty((wanted, 2), np.int64), 0
    while made < wanted and size:
        best = heap[0]
        if shown[best] != counts[best]:
            shown[best] = counts[best]
            sink(heap, size, 0, shown, left, right, bytes_, ends)
            continue
        if counts[best] <= 0:
            break
        size -= 1
        heap[0] = heap[size]
        sink(heap, size, 0, shown, left, right, bytes_, ends)
        a, b, new = left[best], right[best], 256 + made
        found[made, 0], found[made, 1] = a, b
        made += 1
        bytes_ = grown(bytes_, ends[new] + ends[a + 1] - ends[a] + ends[b + 1] - ends[b])
        at = ends[new]
        for one in (a, b):
            for place in range(ends[one], ends[one + 1]):
                bytes_[at] = bytes_[place]
                at += 1
        ends[new + 1] = at
        first, node = pairs, head[best]
        while node >= 0:
            place, node = where[node], after[node]
            other = following[place]
            if symbols[place] != a or other < 0 or symbols[other] != b:
                continue
            mine, last = weight[place], following[other]
            symbols[place], symbols[other], following[place] = new, -1, last
            if last >= 0:
                previous[last] = place
                counts[number[(np.int64(b) << 32) | symbols[last]]] -= mine
            if previous[place] >= 0:
                counts[number[(np.int64(symbols[previous[place]]) << 32) | a]] -= mine
            for start in (previous[place], place):
                if start < 0 or following[start] < 0:
                    continue
                key = (np.int64(symbols[start]) << 32) | symbols[following[start]]
                if key not in number:
                    left, right, counts = grown(left, pairs + 1), grown(right, pairs + 1), grown(counts, pairs + 1)
                    head, tail = grown(head, pairs + 1), grown(tail, pairs + 1)
                    number[key], left[pairs], right[pairs] = pairs, symbols[start], symbols[following[start]]
                    counts[pairs], head[pairs], pairs = 0, -1, pairs + 1
                pair = number[key]
                where, after = grown(where, nodes + 1), grown(after, nodes + 1)
                where[nodes], after[nodes] = start, -1
                if head[pair] < 0:
                    head[pair] = nodes
                else:
                    after[tail[pair]] = nodes
                tail[pair], nodes = nodes, nodes + 1
                counts[pair] += mine
        counts[best] = 0
        shown, heap = grown(shown, pairs), grown(heap, size + pairs - first)
        for pair in range(first, pairs):
            shown[pair], heap[size] = counts[pair], pair
            size += 1
            rise(heap, size - 1, shown, left, right, bytes_, ends)
    return found[:made]
