"""An interpolated n-gram model of symbols: what counting alone achieves, as a yardstick for the networks.

Interpolated Kneser-Ney (Kneser & Ney 1995; Chen & Goodman 1999, eq. 2.4.11) with one discount per order:

    p(w|h) = max(c(h w) - d, 0) / c(h) + d N(h .) / c(h) * p(w|h')        h' is h without its oldest symbol

where c counts occurrences at the highest order and distinct left neighbours below it, N(h .) is the number of distinct
continuations of h, and d = n1 / (n1 + 2 n2).  Order 0 is uniform over the vocabulary.  A gram is one integer: the
number of its context among the grams one shorter, times V, plus its last symbol.  So counts are sorted arrays for any
order and vocabulary, and nothing is a Python loop over the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Document = bytes | Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Order:
    """Counts of one order, grams sorted and contexts by their number among the grams one shorter."""

    grams: np.ndarray           # (G,) int64: context V + symbol
    counts: np.ndarray          # (G,)
    totals: np.ndarray          # (C,) sum of counts after a context, 0 where nothing follows
    kinds: np.ndarray           # (C,) distinct symbols after a context
    discount: float


class Ngram:
    """`fit` on documents of symbols in [0, V), then `nats` of others. Order 5 conditions on four symbols before.

    No gram crosses documents. Bytes are symbols of a vocabulary of 256.
    """

    def __init__(self, order: int = 5, vocabulary: int = 256):
        if order < 1:
            raise ValueError(f"order must be at least 1, got {order}")
        self.order, self.vocabulary = order, vocabulary
        self.orders: list[Order] = []

    def fit(self, documents: Sequence[Document]) -> "Ngram":
        """Count every order; at least one symbol is needed."""
        arrays = [array for document in documents if len(array := symbols(document))]
        if not arrays:
            raise ValueError("nothing to count: every document is empty")
        text = np.concatenate(arrays)
        place = np.concatenate([np.arange(len(array)) for array in arrays])     # symbols before it in its document
        longest = min(self.order, max(map(len, arrays)))
        ends, context, contexts = np.arange(len(text)), np.zeros(len(text), np.int64), 1
        number = np.full(len(text), -1)                         # of the gram that ends at each place
        tables = []                                             # grams, counts, contexts there are; by order
        for n in range(1, longest + 1):
            value = context * self.vocabulary + text[ends]
            grams, first, inverse, counts = np.unique(value, return_index=True, return_inverse=True,
                                                      return_counts=True)
            if n > 1:                                           # the order below counts distinct left neighbours
                suffix = np.bincount(number[ends[first]], minlength=len(tables[-1][0]))
                tables[-1][1] = np.where(suffix, suffix, 1)
            tables.append([grams, counts, contexts])
            number = np.full(len(text), -1)
            number[ends] = inverse
            ends = np.flatnonzero(place >= n)
            context, contexts = number[ends - 1], len(grams)
        self.orders = [counted(*table, self.vocabulary) for table in tables]
        return self

    def probabilities(self, document: Document) -> np.ndarray:
        """p of every symbol of a document given those before it, (len,)."""
        data = symbols(document)
        p = np.full(len(data), 1 / self.vocabulary)
        context = np.zeros(len(data), np.int64)                 # its number, -1 where it was never seen
        for n, order in enumerate(self.orders, start=1):
            usable = slice(n - 1, None)                         # symbols with n - 1 symbols before them
            known = context >= 0
            gram = np.where(known, context * self.vocabulary + data[usable], -1)
            at = np.searchsorted(order.grams, gram).clip(max=len(order.grams) - 1)
            hit = order.grams[at] == gram
            total = np.where(known, order.totals[context], 0)
            count = np.where(hit, order.counts[at], 0)
            shared = order.discount * order.kinds[context] / np.maximum(total, 1) * p[usable]
            p[usable] = np.where(total > 0, np.maximum(count - order.discount, 0) / np.maximum(total, 1) + shared,
                                 p[usable])
            context = np.where(hit, at, -1)[:-1]
        return p

    def nats(self, documents: Sequence[Document]) -> float:
        """-log probability of documents, each on its own."""
        return float(-sum(np.log(self.probabilities(d)).sum() for d in documents if len(d)))


def symbols(document: Document) -> np.ndarray:
    """A document as int64 symbols."""
    return np.frombuffer(document, np.uint8).astype(np.int64) if isinstance(document, bytes) else \
        np.asarray(document, np.int64)


def counted(grams: np.ndarray, counts: np.ndarray, contexts: int, vocabulary: int) -> Order:
    """Totals of every context, and the discount of an order."""
    whose = grams // vocabulary
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return Order(grams, counts, np.bincount(whose, counts, contexts).astype(np.int64),
                 np.bincount(whose, minlength=contexts), once / (once + 2 * twice) if once else 0.5)
