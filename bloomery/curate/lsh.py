"""Locality-sensitive hashing: which documents are worth comparing, without comparing all with all.

A signature of P = b r numbers is cut into b bands of r rows.  Two documents of Jaccard similarity s agree in a row with
probability s (Broder 1997), in all rows of at least one band with

    P(candidate) = 1 - (1 - s^r)^b              a threshold near (1 / b)^(1 / r)

(Indyk & Motwani 1998; Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", section 3.4).  A band's bucket is the
documents that agree in it; a bucket of one is none.
"""

from dataclasses import dataclass

import numpy as np

NODES = 512                     # of a quadrature at most: exact up to degree 1023, and close enough beyond
MIXERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)           # splitmix64


def candidate_probability(similarity: np.ndarray | float, bands: int, rows: int) -> np.ndarray:
    """1 - (1 - s^r)^b, exact also where it is near 0 or 1."""
    with np.errstate(divide="ignore"):
        return -np.expm1(bands * np.log1p(-np.asarray(similarity, np.float64) ** rows))


def threshold(bands: int, rows: int) -> float:
    """(1 / b)^(1 / r): about where the curve is steepest."""
    return (1 / bands) ** (1 / rows)


def even_odds(bands: int, rows: int) -> float:
    """The similarity at which every other pair becomes a candidate."""
    return (-np.expm1(-np.log(2) / bands)) ** (1 / rows)


def optimal(similarity: float, permutations: int, *, false_positive: float = 0.5,
            false_negative: float = 0.5) -> tuple[int, int]:
    """Bands and rows, b r <= P, of the least weighted error at a threshold; of equals the fewest bands, then rows.

    The error is the area under the curve below the threshold, pairs compared in vain, and that above the curve beyond
    it, pairs missed (datasketch's criterion).  The curve is a polynomial of degree b r: Gauss and Legendre are exact.
    """
    if not 0 <= similarity <= 1 or permutations < 1:
        raise ValueError(f"a threshold lies in [0, 1] and there is a permutation, got {similarity} and {permutations}")
    nodes, weights = np.polynomial.legendre.leggauss(min(permutations // 2 + 1, NODES))
    below, above = similarity * (nodes + 1) / 2, similarity + (1 - similarity) * (nodes + 1) / 2
    found = []
    for bands in range(1, permutations + 1):
        rows = np.arange(1, permutations // bands + 1)[:, None]
        vain = candidate_probability(below, bands, rows) @ weights * similarity / 2
        missed = (1 - candidate_probability(above, bands, rows)) @ weights * (1 - similarity) / 2
        error = false_positive * vain + false_negative * missed
        best = int(np.argmin(error))
        found.append((float(error[best]), bands, best + 1))
    return min(found)[1:]


@dataclass(frozen=True)
class Buckets:
    """Documents that agree in a band: bucket i is `members[start[i]:start[i + 1]]`, in the order of documents."""

    members: np.ndarray         # (M,) documents, bucket after bucket
    start: np.ndarray           # (K+1,)
    of: np.ndarray              # (N, b) the bucket of each document in each band, -1 where it is alone


def band_keys(signatures: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """(b, N) a 64-bit mix of the rows of each band, from signatures (N, P) with P >= b r."""
    if signatures.shape[1] < bands * rows:
        raise ValueError(f"{bands} bands of {rows} rows need {bands * rows} numbers, got {signatures.shape[1]}")
    keys = np.zeros((bands, len(signatures)), np.uint64)
    for band in range(bands):
        for row in range(band * rows, (band + 1) * rows):
            mixed = (keys[band] ^ signatures[:, row]) * MIXERS[0]
            keys[band] = (mixed ^ (mixed >> np.uint64(29))) * MIXERS[1]
    return keys


def buckets(keys: np.ndarray, usable: np.ndarray) -> Buckets:
    """Buckets of at least two documents from band keys (b, N); who is not `usable` (N,) is in none.

    A band is a sort of its own, so that all but the keys takes memory of one band.
    """
    members, sizes, of, known = [], [], np.full(keys.shape[::-1], -1, np.int64), 0
    candidates = np.flatnonzero(usable)
    for band, row in enumerate(keys):
        order = candidates[np.argsort(row[candidates], kind="stable")]
        opens = np.flatnonzero(np.concatenate(([True], np.diff(row[order]) != 0))) if len(order) else order
        size = np.diff(opens, append=len(order))
        shared = np.repeat(size > 1, size)
        found = order[shared]
        of[found, band] = known + np.repeat(np.cumsum(size > 1) - 1, size)[shared]
        members.append(found)
        sizes.append(size[size > 1])
        known += len(sizes[-1])
    return Buckets(np.concatenate(members), np.concatenate(([0], np.cumsum(np.concatenate(sizes)))), of)


def edges(found: Buckets, rank: np.ndarray) -> np.ndarray:
    """(M, 2) from each member of a bucket to the one of the least rank (N,): linear in members, never all pairs."""
    members, start = found.members, found.start
    if not len(members):
        return np.zeros((0, 2), np.int64)
    sizes = np.diff(start)
    least = np.minimum.reduceat(rank[members], start[:-1])
    by_rank = np.empty(len(rank), np.int64)
    by_rank[rank] = np.arange(len(rank))
    pairs = np.stack((by_rank[np.repeat(least, sizes)], members), axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
