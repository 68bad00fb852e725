"""What repeats in hashes, compiled (numba): see `repetition.py`.

A table of hashes serves all documents of a batch and is never cleared: what bears another document's number is free.
"""

import numpy as np
from numba import njit

from bloomery.curate.scan import PRIME, SEED

PRIME, SEED = np.uint64(PRIME), np.uint64(SEED)


@njit(nogil=True, cache=True)
def place_of(value, keys, tags, epoch, mask, shift):
    """Where a hash stands in a table, or would: linear probing; what bears another tag is free."""
    place = np.int64((value * PRIME) >> shift)
    while tags[place] == epoch and keys[place] != value:
        place = (place + 1) & mask
    return place


@njit(nogil=True, cache=True)
def sized(count):
    """Mask and shift of a table for so many hashes, at most half full."""
    bits = 4
    while (1 << bits) < 2 * count:
        bits += 1
    return (1 << bits) - 1, np.uint64(64 - bits)


@njit(nogil=True, cache=True)
def repeats(pieces, blank, out):
    """For each document, of its pieces (those that are blank too, if `blank`): how many there are, how many occurred
    before, how many occur more than once, and the same in characters: out (N, 6)."""
    hashes, lengths, filled, edges = pieces
    most = 0
    for d in range(len(edges) - 1):
        most = max(most, edges[d + 1] - edges[d])
    mask, shift = sized(most)
    keys, tags, seen = np.empty(mask + 1, np.uint64), np.zeros(mask + 1, np.int64), np.empty(mask + 1, np.int64)
    for d in range(len(edges) - 1):
        first, last = edges[d], edges[d + 1]
        mask, shift = sized(last - first)
        for i in range(first, last):
            if not (filled[i] or blank):
                continue
            out[d, 0] += 1
            out[d, 3] += lengths[i]
            place = place_of(hashes[i], keys, tags, d + 1, mask, shift)
            if tags[place] != d + 1:
                keys[place], tags[place], seen[place] = hashes[i], d + 1, 1
                continue
            seen[place] += 1
            out[d, 1] += 1
            out[d, 4] += lengths[i]
            again = 2 if seen[place] == 2 else 1                                        # the first of them counts too
            out[d, 2] += again
            out[d, 5] += again * lengths[i]


@njit(nogil=True, cache=True)
def tally(grams, ends, n, table, slots, epoch, mask, shift):
    """Count all n-grams of a document into a table: how often the top one occurs, where it first stands, and the most
    characters of one that occurs as often; `slots` says where in the table each is counted."""
    keys, tags, seen, began = table
    best, best_at, longest = 0, 0, 0
    for i in range(len(slots)):
        place = place_of(grams[i], keys, tags, epoch, mask, shift)
        if tags[place] != epoch:
            keys[place], tags[place], seen[place], began[place] = grams[i], epoch, 0, i
        seen[place] += 1
        slots[i] = place
        length = ends[i + n] - ends[i]
        if seen[place] > best:
            best, best_at, longest = seen[place], began[place], length
        elif seen[place] == best:
            best_at, longest = min(best_at, began[place]), max(longest, length)
    return best, best_at, longest


@njit(nogil=True, cache=True)
def recurring(ends, n, seen, slots, overlapping):
    """Characters of n-grams that recur and of all: each word once in the first, or as often as it is in one."""
    part, whole, covered = 0, 0, 0
    for i in range(len(slots)):
        if seen[slots[i]] > 1:
            part += ends[i + n] - ends[i if overlapping else max(covered, i)]
            covered = i + n
        whole += ends[i + n] - ends[i]
    return part, whole


@njit(nogil=True, cache=True)
def skipping(grams, ends, n, count, table, epoch, mask, shift):
    """Characters of n-grams that occurred before, from left to right; what is behind a hit is looked at next."""
    keys, tags, _, _ = table
    i, total = 0, 0
    while i < count:
        place = place_of(grams[i], keys, tags, epoch, mask, shift)
        if tags[place] == epoch:
            total += ends[i + n] - ends[i]
            i += n
        else:
            keys[place], tags[place] = grams[i], epoch
            i += 1
    return total


@njit(nogil=True, cache=True)
def ngrams(words, variant, top, duplicated):
    """For each document, characters in its most frequent 2- to 4-gram, top (N, 3), and in 5- to 10-grams that recur,
    duplicated (N, 6, 2), the second being all that n-grams hold; variants as in `repetition.py`."""
    hashes, lengths, _, edges = words
    most, epoch = 0, 0
    for d in range(len(edges) - 1):
        most = max(most, edges[d + 1] - edges[d])
    mask, shift = sized(most)
    table = (np.empty(mask + 1, np.uint64), np.zeros(mask + 1, np.int32), np.empty(mask + 1, np.int32),
             np.empty(mask + 1, np.int32))
    slots, grams, ends = np.empty(most + 1, np.int32), np.empty(most + 1, np.uint64), np.zeros(most + 1, np.int64)
    for d in range(len(edges) - 1):
        first, count = edges[d], edges[d + 1] - edges[d]
        mask, shift = sized(count)
        for i in range(count):
            grams[i], ends[i + 1] = hashes[first + i], ends[i] + lengths[first + i]
        unique = False
        for n in range(2, min(count, 10) + 1):
            whole, joints, epoch = count - n + 1, n - 1 if variant == 0 else 0, epoch + 1
            for i in range(whole):
                grams[i] = grams[i] * SEED + hashes[first + i + n - 1]
            if unique:                                          # what holds of short ones holds of longer ones
                if n < 5 and variant != 2:
                    top[d, n - 2] = ends[n] + joints
            elif n < 5 or variant != 0:
                best, at, longest = tally(grams, ends, n, table, slots[:whole], epoch, mask, shift)
                unique = best == 1
                if n >= 5:
                    duplicated[d, n - 5] = recurring(ends, n, table[2], slots[:whole], variant == 1)
                elif variant != 2:
                    top[d, n - 2] = best * (ends[at + n] - ends[at] + joints)
                elif not unique:
                    top[d, n - 2] = best * longest
            else:
                duplicated[d, n - 5, 0] = skipping(grams, ends, n, whole, table, epoch, mask, shift)
                unique = duplicated[d, n - 5, 0] == 0
