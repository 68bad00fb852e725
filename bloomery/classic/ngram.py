"""The n-gram language model: what counting alone achieves.

The chain rule with a short memory, p(w_1 .. w_T) = prod p(w_t | w_{t-n+1} .. w_{t-1}) (Shannon 1948).  One recursion
serves every smoothing and every model that backs off (`smoothing.py` estimates, `arpa.py` exchanges, `pruning.py`
shortens):

    p(w|h) = own(h w) + share(h) p(w|h')            h' is h without its oldest symbol

Order 0 is uniform.  Cross-entropy is the mean of -log p: nats with ln, bits with log2; perplexity is e^nats = 2^bits.
Words, tokens and bytes are symbols alike; no gram crosses documents; nothing is a Python loop over the text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np

from bloomery.classic.grams import Document, Grams, check, symbols, tallied
from bloomery.classic.smoothing import Smoothing, kneser_ney

CHUNK = 1 << 16                 # symbols scored at a time: what a step reads and writes stays in the cache


@dataclass(frozen=True)
class Order:
    """One order of a model. Grams are numbered in the order of their keys; a context is a gram one shorter."""

    grams: Grams
    counts: np.ndarray          # (G,) occurrences, or distinct left neighbours; zeros where a model was read from ARPA
    own: np.ndarray             # (G,) probability a gram has for itself
    share: np.ndarray           # (C,) probability a context leaves to the shorter one


@dataclass(frozen=True)
class Score:
    """What a text costs: -log p summed over its symbols, in nats."""

    nats: float
    symbols: int

    @property
    def nats_per_symbol(self) -> float:
        return self.nats / self.symbols

    @property
    def bits_per_symbol(self) -> float:
        return self.nats / self.symbols / log(2)

    @property
    def perplexity(self) -> float:
        """e^nats a symbol, infinite where something impossible happened."""
        return exp(self.nats_per_symbol) if self.nats_per_symbol < 700 else float("inf")


class Ngram:
    """`fit` on documents of symbols in [0, V), then score others. Order 5 conditions on four symbols before.

    `start` is a symbol that opens every document, is a context and is never predicted, so that the first word has
    one; probabilities are then of the symbols after it.  `size` is how many symbols can be predicted: V, or V - 1
    beside a start symbol.  Bytes are symbols of a vocabulary of 256 and need no start.
    """

    def __init__(self, order: int = 5, vocabulary: int = 256, *, smoothing: Smoothing | None = None,
                 start: int | None = None, size: int | None = None):
        if order < 1:
            raise ValueError(f"order must be at least 1, got {order}")
        self.order, self.vocabulary, self.start = order, vocabulary, start
        self.size = size or vocabulary - (start is not None)
        self.smoothing = smoothing or kneser_ney()
        self.orders: list[Order] = []

    def fit(self, documents: Sequence[Document]) -> "Ngram":
        """Count every order and smooth it; at least one symbol is needed."""
        tallies = tallied(documents, self.order, self.vocabulary, size=self.size, start=self.start,
                          continuation=self.smoothing.continuation)
        self.orders = [Order(tally.grams, tally.counts, *self.smoothing.estimate(tally)) for tally in tallies]
        return self

    @property
    def base(self) -> float:
        """p of every symbol at order 0."""
        return 1 / self.size if self.smoothing.uniform else 0.0

    def probabilities(self, document: Document) -> np.ndarray:
        """p of every symbol of a document given those before it, (T,); a start symbol has none."""
        return self.batched([document])[0]

    def batched(self, documents: Sequence[Document]) -> list[np.ndarray]:
        """`probabilities` of each of many documents, computed together: a call for each costs more than its symbols."""
        text, opens = joined(documents)
        pieces = np.split(self.scored(text, opens), np.cumsum([len(document) for document in documents])[:-1])
        return [piece[1:] if self.start is not None else piece for piece in pieces[:len(documents)]]

    def scored(self, text: np.ndarray, opens: np.ndarray) -> np.ndarray:
        """p of every symbol of documents laid end to end, (N,), in chunks that see the symbols before that they need.

        `opens` (N+1,) says where documents begin.
        """
        p = np.empty(len(text))
        for begin in range(0, len(text), CHUNK):
            lead, end = max(0, begin - self.order + 1), begin + CHUNK
            p[begin:end] = self.flat(text[lead:end].astype(np.int64), opens[lead:end + 1])[begin - lead:]
        return p

    def rows(self, grams: np.ndarray) -> np.ndarray:
        """(G, n) p of every symbol of G grams of n symbols, each a document of its own."""
        opens = np.arange(grams.size + 1) % grams.shape[1] == 0
        return self.scored(grams.ravel(), opens).reshape(grams.shape)

    def flat(self, text: np.ndarray, opens: np.ndarray) -> np.ndarray:
        """The recursion for all symbols at once, (N,)."""
        p = np.full(len(text), self.base)
        reaches = np.ones(len(text), bool)                  # whether a document goes back far enough for this order
        for at, own, share in self.layers(text, opens):
            below = p[at]
            if self.smoothing.alone:
                p[reaches] = below = self.base
                reaches = np.concatenate(([False], reaches[:-1])) & ~opens[:-1]
            p[at] = own + share * below
        return p

    def layers(self, text: np.ndarray, opens: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each order: the places whose context is known, and `own` and `share` there, (K,) each."""
        check(text, self.vocabulary)
        at, context = np.arange(len(text)), np.zeros(len(text), np.int64)
        for order in self.orders:
            gram = order.grams.find(context * self.vocabulary + text[at])
            seen = gram >= 0
            yield at, np.where(seen, order.own[gram], 0), order.share[context]
            seen &= ~opens[at + 1]
            seen[-1:] &= at[-1:] + 1 < len(text)            # the last place of a chunk has none after it
            at, context = at[seen] + 1, gram[seen]

    def score(self, documents: Sequence[Document]) -> Score:
        """What documents cost, each on its own."""
        text, opens = joined(documents)
        p = self.scored(text, opens)
        p = p[~opens[:-1]] if self.start is not None else p
        with np.errstate(divide="ignore"):
            return Score(float(-np.log(p).sum()), len(p))

    def nats(self, documents: Sequence[Document]) -> float:
        """-log probability of documents, each on its own."""
        return self.score(documents).nats

    def distribution(self, history: Document) -> np.ndarray:
        """p of every symbol after a history, (V,); the start symbol is never next."""
        past = symbols(history)[-(self.order - 1):] if self.order > 1 else symbols(history)[:0]
        base = np.full(self.vocabulary, self.base)
        if self.start is not None:
            base[self.start] = 0
        p = base
        for length in range(min(len(past), len(self.orders) - 1) + 1):
            context = self.number(past[len(past) - length:])
            below = base if self.smoothing.alone else p
            if context is None:
                p = below
                continue
            order = self.orders[length]
            own = order.grams.following(context)
            p = order.share[context] * below
            p[order.grams.symbol[own]] += order.own[own]
        return p

    def number(self, gram: np.ndarray) -> int | None:
        """The number of a gram among those of its length, 0 for the empty one, None where it was never seen."""
        number = 0
        for order, symbol in zip(self.orders, gram.tolist()):
            number = int(order.grams.find(np.array([number * self.vocabulary + symbol]))[0])
            if number < 0:
                return None
        return number

    def sample(self, length: int, *, history: Document = (), stop: int | None = None, seed: int = 0) -> list[int]:
        """At most `length` symbols drawn one by one after a history, up to and with `stop`."""
        generator, drawn = np.random.default_rng(seed), list(symbols(history).tolist())
        begin = len(drawn)
        while len(drawn) < begin + length and (len(drawn) == begin or drawn[-1] != stop):
            whole = np.cumsum(self.distribution(np.array(drawn, np.int64)))
            if not whole[-1] > 0:
                break                                       # maximum likelihood saw nothing follow
            drawn.append(int(np.searchsorted(whole, generator.random() * whole[-1], side="right")))
        return drawn[begin:]


def joined(documents: Sequence[Document]) -> tuple[np.ndarray, np.ndarray]:
    """Documents end to end, (N,), and where each begins, (N+1,)."""
    arrays = [array for document in documents if len(array := symbols(document))]
    opens = np.zeros(sum(map(len, arrays)) + 1, bool)
    opens[np.cumsum([0, *map(len, arrays)])] = True
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64), opens
