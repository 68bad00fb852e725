"""The loops of `minhash.py`: text to units, units to shingles, shingles to signatures, and the choice of who stays."""

import numpy as np
from numba import njit

BASE = np.uint64(0x9E3779B97F4A7C15)            # of polynomials in 64-bit hashes, modulo 2^64; odd
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)                # splitmix64
BREAK, DIGIT, POINT, SKIP = 0, 1, 2, 3          # what a code point may be, besides the one it is folded to
ALONE = 1 << 24                                 # a flag of those that are words by themselves
ZERO, SPACE = 0x30, 0x20


@njit(nogil=True, cache=True, inline="always")
def mixed(x):
    """splitmix64's finaliser: every bit of x moves every bit."""
    x = (x ^ (x >> np.uint64(30))) * FIRST
    x = (x ^ (x >> np.uint64(27))) * SECOND
    return x ^ (x >> np.uint64(31))


@njit(nogil=True, cache=True, inline="always")
def decoded(data, at):
    """The code point at a byte of valid UTF-8, and how many bytes it has."""
    lead = np.int64(data[at])
    if lead < 0x80:
        return lead, 1
    second = np.int64(data[at + 1]) & 0x3F
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | second, 2
    third = np.int64(data[at + 2]) & 0x3F
    if lead < 0xF0:
        return (lead & 0x0F) << 12 | second << 6 | third, 3
    return (lead & 0x07) << 18 | second << 12 | third << 6 | np.int64(data[at + 3]) & 0x3F, 4


@njit(nogil=True, cache=True)
def past_number(data, at, stop, table):
    """Where the number at a digit ends: digits, with one decimal mark between two of them."""
    marked = False
    while at < stop:
        code, size = decoded(data, at)
        if table[code] == POINT and not marked and at + size < stop:
            after, more = decoded(data, at + size)
            if table[after] != DIGIT:
                return at
            marked, size = True, size + more
        elif table[code] != DIGIT:
            return at
        at += size
    return at


@njit(nogil=True, cache=True)
def units(data, offsets, table, characters, out, starts):
    """Hashes of the words of each text, or of its characters with one space between words; `starts` (N+1,)."""
    count = 0
    for row in range(len(offsets) - 1):
        at, stop, word, inside, starts[row] = offsets[row], offsets[row + 1], np.uint64(0), False, count
        while at < stop:
            code, size = decoded(data, at)
            folded = np.int64(table[code])
            if folded == DIGIT:
                at, size, folded = past_number(data, at, stop, table), 0, ZERO
            at += size
            if folded == SKIP:
                continue
            ends = folded <= POINT
            if characters and not ends:
                out[count] = mixed(np.uint64(folded))
                count, inside = count + 1, True
            elif characters:
                if inside:
                    out[count] = mixed(np.uint64(SPACE))
                    count, inside = count + 1, False
            elif ends or folded >= ALONE:
                if inside:
                    out[count] = mixed(word)
                    count, word, inside = count + 1, np.uint64(0), False
                if not ends:
                    out[count] = mixed(np.uint64(folded))
                    count += 1
            else:
                word, inside = (word ^ np.uint64(folded)) * BASE, True
        if characters and not inside and count > starts[row]:
            count -= 1                                      # no space behind the last word
        elif inside and not characters:
            out[count] = mixed(word)
            count += 1
    starts[len(offsets) - 1] = count
    return count


@njit(nogil=True, cache=True)
def shingled(units, k, out):
    """Every k units in a row as one number, a polynomial in their hashes; fewer than k are one as a whole."""
    count = len(units)
    last = BASE ** np.uint64(min(k, count))
    total = np.uint64(0)
    for at in range(count):
        total = total * BASE + units[at]
        if at >= k:
            total -= last * units[at - k]
        if at >= k - 1:
            out[at - k + 1] = mixed(total)
    if 0 < count < k:
        out[0] = mixed(total)
    return max(count - k + 1, min(count, 1))


@njit(nogil=True, cache=True)
def signatures(units, starts, k, a, b, out, key):
    """(N, P) min of (a x + b) mod 2^64 over a text's shingles x, its upper 32 bits; of no shingle all are set.

    `key` (N,) becomes a hash of the shingles in their order: what a text says, as one number.
    """
    longest = 0
    for row in range(len(starts) - 1):
        longest = max(longest, starts[row + 1] - starts[row])
    scratch = np.empty(longest, np.uint64)
    for row in range(len(starts) - 1):
        count = shingled(units[starts[row]:starts[row + 1]], k, scratch)
        for i in range(len(a)):
            times, plus, least = a[i], b[i], np.uint64(0xFFFFFFFFFFFFFFFF)
            for x in scratch[:count]:                       # eight at a time: the order of minima is free
                least = min(least, times * x + plus)
            out[row, i] = least >> np.uint64(32)
        whole = np.uint64(0)
        for x in scratch[:count]:
            whole = whole * BASE + x
        key[row] = whole


@njit(nogil=True, cache=True)
def shingle_sets(units, starts, k, out, bounds):
    """The distinct shingles of each text, sorted, end to end; `bounds` (N+1,) says where each begins."""
    total, bounds[0] = 0, 0
    for row in range(len(starts) - 1):
        own = out[total:]
        count = shingled(units[starts[row]:starts[row + 1]], k, own)
        own[:count].sort()
        distinct = min(count, 1)
        for at in range(1, count):
            if own[at] != own[at - 1]:
                own[distinct] = own[at]
                distinct += 1
        total += distinct
        bounds[row + 1] = total
    return total


@njit(nogil=True, cache=True)
def jaccard(a, b):
    """|A and B| / |A or B| of two sorted sets; two empty ones are nobody's duplicates: 0."""
    i = j = shared = 0
    while i < len(a) and j < len(b):
        x, y = a[i], b[j]
        shared += x == y
        i += x <= y
        j += y <= x
    return shared / max(len(a) + len(b) - shared, 1)


@njit(nogil=True, cache=True)
def jaccards(shingles, bounds, pairs, out):
    for at in range(len(pairs)):
        i, j = pairs[at]
        out[at] = jaccard(shingles[bounds[i]:bounds[i + 1]], shingles[bounds[j]:bounds[j + 1]])


@njit(nogil=True, cache=True, inline="always")
def agreeing(a, b):
    """In how many numbers two signatures agree."""
    same = np.int64(0)
    for i in range(len(a)):
        same += a[i] == b[i]
    return same


@njit(nogil=True, cache=True)
def listed(keys, key):
    """Whether a sorted array holds a key."""
    at = np.searchsorted(keys, key)
    return at < len(keys) and keys[at] == key


@njit(nogil=True, cache=True)
def stars(order, of, start, signatures, least, refused, most):
    """Who stands for each document, (N,): itself, or the first of better rank that stays and is similar enough.

    Documents are visited from the best rank to the last (`order`).  One is compared with those that stayed before it
    in its buckets, at most `most` a bucket.  `refused` are pairs, head * N + document, known not to be duplicates.
    """
    count = len(order)
    head = np.arange(count)
    stayed = np.zeros(len(start), np.int64)                 # how many of each bucket stayed so far
    slots = np.empty(start[-1], np.int64)
    tried = np.full(count, -1, np.int64)
    for document in order:
        for band in range(of.shape[1]):
            bucket = of[document, band]
            for at in range(start[bucket], start[bucket] + stayed[bucket]) if bucket >= 0 else range(0):
                other = slots[at]
                if tried[other] != document:
                    tried[other] = document
                    if agreeing(signatures[other], signatures[document]) >= least and \
                            not listed(refused, other * count + document):
                        head[document] = other
                        break
            if head[document] != document:
                break
        for band in range(of.shape[1]) if head[document] == document else range(0):
            bucket = of[document, band]
            if bucket >= 0 and stayed[bucket] < most:
                slots[start[bucket] + stayed[bucket]] = document
                stayed[bucket] += 1
    return head
