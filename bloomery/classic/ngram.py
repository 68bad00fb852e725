"""An interpolated n-gram model of bytes: what counting alone achieves, as a yardstick for the networks.

Interpolated Kneser-Ney (Kneser & Ney 1995; Chen & Goodman 1999, eq. 2.4.11) with one discount per order:

    p(w|h) = max(c(h w) - d, 0) / c(h) + d N(h .) / c(h) * p(w|h')        h' is h without its oldest byte

where c counts occurrences at the highest order and distinct left neighbours below it, N(h .) is the number of distinct
continuations of h, and d = n1 / (n1 + 2 n2).  Order 0 is uniform over the 256 bytes.  A gram of up to 7 bytes is one
integer, so counts are sorted arrays and nothing is a Python loop over the text.
"""

from dataclasses import dataclass

import numpy as np

LONGEST = 7


@dataclass(frozen=True)
class Order:
    """Counts of one order: grams (sorted), their counts, and totals of the contexts they begin with."""

    grams: np.ndarray           # (G,) int64: context and byte as one base-256 number
    counts: np.ndarray          # (G,)
    contexts: np.ndarray        # (C,) sorted
    totals: np.ndarray          # (C,) sum of counts after a context
    kinds: np.ndarray           # (C,) distinct bytes after a context
    discount: float


class ByteNgram:
    """`fit` on documents, then `nats` of others. `order` 5 conditions on four bytes, never across documents."""

    def __init__(self, order: int = 5):
        if not 1 <= order <= LONGEST:
            raise ValueError(f"order must be 1 to {LONGEST}, got {order}")
        self.order = order
        self.orders: list[Order] = []

    def fit(self, documents: list[bytes]) -> "ByteNgram":
        """Count every order in one pass a document list; at least one byte is needed."""
        if not any(documents):
            raise ValueError("no bytes to count")
        counted = [self._grams(documents, n) for n in range(1, min(self.order, max(map(len, documents))) + 1)]
        for n in range(1, len(counted) + 1):
            grams, counts = np.unique(counted[n - 1], return_counts=True)
            if n < len(counted):                                # lower orders count distinct left neighbours
                longer = np.unique(counted[n])
                tails, kinds = np.unique(longer % 256**n, return_counts=True)
                at, follows = found(tails, grams)
                counts = np.where(follows, kinds[at], 1)
            contexts, start = np.unique(grams // 256, return_index=True)
            totals = np.add.reduceat(counts, start)
            once, twice = int((counts == 1).sum()), int((counts == 2).sum())
            discount = once / (once + 2 * twice) if once else 0.5
            self.orders.append(Order(grams, counts, contexts, totals, np.diff([*start, len(grams)]), discount))
        return self

    @staticmethod
    def _grams(documents: list[bytes], n: int) -> np.ndarray:
        """All n-grams of all documents as numbers; none crosses a document."""
        joined = np.frombuffer(b"".join(documents), np.uint8).astype(np.int64)
        value = np.zeros(max(len(joined) - n + 1, 0), np.int64)
        for i in range(n):
            value = value * 256 + joined[i:i + len(value)]
        inside = np.ones(len(value), bool)
        for end in np.cumsum([len(d) for d in documents])[:-1]:
            inside[max(end - n + 1, 0):end] = False
        return value[inside]

    def probabilities(self, document: bytes) -> np.ndarray:
        """p of every byte of a document given the bytes before it, (len,)."""
        data = np.frombuffer(document, np.uint8).astype(np.int64)
        p = np.full(len(data), 1 / 256)
        history = np.zeros(len(data), np.int64)
        for n, order in enumerate(self.orders, start=1):
            usable = slice(n - 1, None)                         # bytes with n - 1 bytes before them
            if n > 1:
                shifted = np.concatenate([np.zeros(n - 1, np.int64), data])[:len(data)]
                history = history + shifted * 256 ** (n - 2)
            context, gram = history[usable], history[usable] * 256 + data[usable]
            at, seen = found(order.contexts, context)
            where, known = found(order.grams, gram)
            count = np.where(known, order.counts[where], 0)
            total = np.where(seen, order.totals[at], 1)
            backed = order.discount * order.kinds[at] / total * p[usable]
            p[usable] = np.where(seen, np.maximum(count - order.discount, 0) / total + backed, p[usable])
        return p

    def nats(self, documents: list[bytes]) -> float:
        """-log probability of documents, each on its own."""
        return float(-sum(np.log(self.probabilities(d)).sum() for d in documents if d))


def found(sorted_values: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of each wanted value in a sorted array (any index when absent) and whether it is there."""
    at = np.searchsorted(sorted_values, wanted).clip(max=len(sorted_values) - 1)
    return at, sorted_values[at] == wanted
