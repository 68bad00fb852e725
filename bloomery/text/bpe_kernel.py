"""The inner loop of learning byte-pair merges, compiled (numba). `bpe.py` says what it computes, and computes it too.

Words lie end to end as chains of symbols.  Every pair has the places where it occurs, in the order it came to be: all
places of a pair arise in one merge, that of the later of its two symbols, so a list never grows again and a place that
is no longer one is seen to be stale when it is visited.  The heap is lazy likewise: an entry whose count has changed
goes back with the new one.

A merge makes a place fewer and at most two pairs more, so of N bytes there are never more than 3N pairs or nodes of
their lists; memory that is never written costs nothing.
"""

import numpy as np
from numba import njit, types
from numba.typed import Dict

KEY = types.int64


@njit(cache=True)
def before(a, b, counts, pairs, spelled):
    """Whether pair a is merged before pair b: the commoner, of equally common ones the lesser in bytes."""
    if counts[a] != counts[b]:
        return counts[a] > counts[b]
    data, begin, length = spelled
    for side in range(2):                                       # the left symbols, then the right ones
        one, other = pairs[side][a], pairs[side][b]
        for i in range(min(length[one], length[other])):
            if data[begin[one] + i] != data[begin[other] + i]:
                return data[begin[one] + i] < data[begin[other] + i]
        if length[one] != length[other]:
            return length[one] < length[other]
    return False


@njit(cache=True)
def sink(heap, size, place, shown, pairs, spelled):
    while True:
        best, child = place, 2 * place + 1
        for other in (child, child + 1):
            if other < size and before(heap[other], heap[best], shown, pairs, spelled):
                best = other
        if best == place:
            return
        heap[place], heap[best] = heap[best], heap[place]
        place = best


@njit(cache=True)
def rise(heap, place, shown, pairs, spelled):
    while place and before(heap[place], heap[(place - 1) // 2], shown, pairs, spelled):
        heap[place], heap[(place - 1) // 2] = heap[(place - 1) // 2], heap[place]
        place = (place - 1) // 2


@njit(cache=True)
def chained(symbols, starts, weights):
    """Of each place the next and the one before in its word, -1 where there is none, and the word's weight."""
    n = len(symbols)
    following, previous, weight = np.full(n, -1, np.int64), np.full(n, -1, np.int64), np.zeros(n, np.int64)
    for word in range(len(weights)):
        for place in range(starts[word], starts[word + 1]):
            weight[place] = weights[word]
            if place + 1 < starts[word + 1]:
                following[place], previous[place + 1] = place + 1, place
    return symbols, following, previous, weight


@njit(cache=True)
def key_of(a, b):
    return (np.int64(a) << 32) | b


@njit(cache=True)
def note(place, words, number, pairs, lists, used):
    """Note the pair that begins at a place; `used` counts pairs and nodes."""
    symbols, following, _, weight = words
    left, right, counts, head, tail = pairs
    where, after = lists
    a, b = symbols[place], symbols[following[place]]
    key = key_of(a, b)
    if key not in number:
        number[key], left[used[0]], right[used[0]], head[used[0]] = used[0], a, b, -1
        used[0] += 1
    pair, node = number[key], used[1]
    where[node], after[node] = place, -1
    if head[pair] < 0:
        head[pair] = node
    else:
        after[tail[pair]] = node
    tail[pair], used[1] = node, node + 1
    counts[pair] += weight[place]


@njit(cache=True)
def merge(best, new, words, number, pairs, lists, used):
    """Make one symbol of a pair wherever it occurs; a place where it stands now."""
    symbols, following, previous, weight = words
    left, right, counts, head, _ = pairs
    where, after = lists
    a, b, node, stands = left[best], right[best], head[best], -1
    while node >= 0:
        place, node = where[node], after[node]
        other = following[place]
        if symbols[place] != a or other < 0 or symbols[other] != b:
            continue
        stands, last, first = place, following[other], previous[place]
        if last >= 0:
            previous[last] = place
            counts[number[key_of(b, symbols[last])]] -= weight[place]
        if first >= 0:
            counts[number[key_of(symbols[first], a)]] -= weight[place]
        symbols[place], symbols[other], following[place] = new, -1, last
        if first >= 0:
            note(first, words, number, pairs, lists, used)
        if last >= 0:
            note(place, words, number, pairs, lists, used)
    counts[best] = 0
    return stands


@njit(cache=True)
def merges(symbols, starts, weights, wanted):
    """Pairs of symbols in the order they are merged, (M, 2); symbol 256 + i is what the i-th makes."""
    n = len(symbols)
    words = chained(symbols.copy(), starts, weights)
    begin, length = np.zeros(256 + wanted, np.int64), np.ones(256 + wanted, np.int64)
    spelled = symbols, begin, length                            # a symbol's bytes: where they stand for one
    number, used = Dict.empty(KEY, KEY), np.zeros(2, np.int64)
    left, right, head, tail = (np.empty(3 * n, np.int64), np.empty(3 * n, np.int64), np.empty(3 * n, np.int64),
                               np.empty(3 * n, np.int64))
    counts, shown, heap = np.zeros(3 * n, np.int64), np.empty(3 * n, np.int64), np.empty(3 * n, np.int64)
    pairs, lists = (left, right, counts, head, tail), (np.empty(3 * n, np.int64), np.empty(3 * n, np.int64))
    for place in range(n):
        begin[symbols[place]] = place
        if words[1][place] >= 0:
            note(place, words, number, pairs, lists, used)
    found, made, size, known = np.empty((wanted, 2), np.int64), 0, 0, 0
    while made < wanted:
        for pair in range(known, used[0]):                      # new ones
            shown[pair], heap[size] = counts[pair], pair
            size += 1
            rise(heap, size - 1, shown, pairs, spelled)
        known = used[0]
        while size and shown[heap[0]] != counts[heap[0]]:
            shown[heap[0]] = counts[heap[0]]
            sink(heap, size, 0, shown, pairs, spelled)
        if not size or counts[heap[0]] <= 0:
            break
        best, new = heap[0], 256 + made
        size -= 1
        heap[0] = heap[size]
        sink(heap, size, 0, shown, pairs, spelled)
        found[made, 0], found[made, 1] = left[best], right[best]
        length[new] = length[left[best]] + length[right[best]]
        begin[new] = merge(best, new, words, number, pairs, lists, used)
        made += 1
    return found[:made]
