"""The loops of `substring.py`. A window is n symbols from a place on, and `whole` where its document has so many."""

import numpy as np
from numba import njit

from bloomery.curate.minhash_kernel import ALONE, BASE, DIGIT, SKIP, decoded, mixed


@njit(nogil=True, cache=True, inline="always")
def same(text, a, b, n):
    """Whether two windows are equal: from the end, as neighbours in a suffix array begin alike."""
    i = n - 1
    while i >= 0 and text[a + i] == text[b + i]:
        i -= 1
    return i < 0


@njit(nogil=True, cache=True)
def mark_whole(starts, n, whole):
    """Which windows do not reach beyond their document."""
    for row in range(len(starts) - 1):
        for at in range(starts[row], starts[row + 1] - n + 1):
            whole[at] = True


@njit(nogil=True, cache=True)
def mark_sorted(text, suffixes, n, whole, keep_first, repeated):
    """Mark whole windows that occur twice or more; suffixes stand in order, so equal windows stand together."""
    last, begin, count = len(text) - n, 0, len(suffixes)    # windows begin at `last` at most
    while begin < count:
        end = begin + 1
        while end < count and suffixes[end - 1] <= last and suffixes[end] <= last and \
                same(text, suffixes[end - 1], suffixes[end], n):
            end += 1
        held, first = 0, count
        for place in suffixes[begin:end] if end > begin + 1 else suffixes[:0]:
            if whole[place]:
                held, first = held + 1, min(first, place)
        for place in suffixes[begin:end] if held > 1 else suffixes[:0]:
            repeated[place] = whole[place] and not (keep_first and place == first)
        begin = end


@njit(nogil=True, cache=True)
def hashed(text, n, whole, shard, bits, hashes, places):
    """The hash and place of the whole windows whose hash begins with the bits of a shard; how many there are.

    With no room in `hashes` they are only counted.
    """
    last, total, count = BASE ** np.uint64(n), np.uint64(0), 0
    for at in range(len(text)):
        total = total * BASE + mixed(np.uint64(text[at]) + np.uint64(1))
        if at >= n:
            total -= last * mixed(np.uint64(text[at - n]) + np.uint64(1))
        begin = at - n + 1
        if begin >= 0 and whole[begin]:
            value = mixed(total)
            if bits == 0 or value >> np.uint64(64 - bits) == np.uint64(shard):
                if len(hashes):
                    hashes[count], places[count] = value, begin
                count += 1
    return count


@njit(nogil=True, cache=True)
def mark_equal(text, hashes, places, n, keep_first, repeated):
    """Mark windows that are equal, of those with one hash, which stand together in the order of their places."""
    begin, count = 0, len(hashes)
    while begin < count:
        end = begin + 1
        while end < count and hashes[end] == hashes[begin]:
            end += 1
        for i in range(begin, end):
            first = i
            for j in range(begin, i):                       # the first of the group is equal, unless hashes collide
                if same(text, places[j], places[i], n):
                    first = j
                    break
            if first != i:
                repeated[places[i]] = True
                if not keep_first:
                    repeated[places[first]] = True
        begin = end


@njit(nogil=True, cache=True)
def ranges(repeated, starts, n, rows, begins, ends):
    """What marked windows cover, document by document, where two meet as one; how many ranges there are.

    With no room in `rows` they are only counted.
    """
    count = 0
    for row in range(len(starts) - 1):
        end, opened = starts[row] - 1, False
        for at in range(starts[row], starts[row + 1]):
            if repeated[at]:
                if not opened or at > end:
                    if len(rows):
                        rows[count], begins[count] = row, at - starts[row]
                    count, opened = count + 1, True
                end = at + n
                if len(rows):
                    ends[count - 1] = end - starts[row]
    return count


@njit(nogil=True, cache=True, inline="always")
def of_word(data, at, table):
    """Whether the character at a byte is a letter, a digit or a mark, of a script that puts spaces between words."""
    code, _ = decoded(data, at)
    kind = table[code]
    return kind == DIGIT or SKIP <= kind < ALONE


@njit(nogil=True, cache=True, inline="always")
def splits(data, at, first, last, table, words):
    """Whether a cut at a byte would fall into a character, or into a word; a document is bytes `first` to `last`."""
    if not first < at < last:
        return False
    if (data[at] & 0xC0) == 0x80:
        return True
    before = at - 1
    while (data[before] & 0xC0) == 0x80:
        before -= 1
    return words and of_word(data, before, table) and of_word(data, at, table)


@njit(nogil=True, cache=True)
def snapped(data, begins, ends, firsts, lasts, table, words):
    """Ranges of bytes, shrunk until they begin and end at a whole character, or a whole word where `words`."""
    out_begins, out_ends = begins.copy(), ends.copy()
    for i in range(len(begins)):
        begin, end = begins[i], ends[i]
        while begin < end and splits(data, begin, firsts[i], lasts[i], table, words):
            begin += 1
        while end > begin and splits(data, end, firsts[i], lasts[i], table, words):
            end -= 1
        out_begins[i], out_ends[i] = begin, end
    return out_begins, out_ends


@njit(nogil=True, cache=True)
def characters(data, begins, ends):
    """How many characters of UTF-8 each range of bytes holds."""
    out = np.zeros(len(begins), np.int64)
    for i in range(len(begins)):
        for at in range(begins[i], ends[i]):
            out[i] += (data[at] & 0xC0) != 0x80
    return out
