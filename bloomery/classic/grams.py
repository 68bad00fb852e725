"""Counting and finding n-grams in numpy arrays: no gram is ever a Python object.

A gram is one integer: the number of its context among the grams one shorter, times V, plus its last symbol.  So the
grams of any order and vocabulary are one sorted array, all that follow a context stand side by side, and counting is
sorting.  Finding is a hash table with open addressing (Knuth, TAOCP 3, section 6.4), probed for a whole text at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

Document = bytes | Sequence[int] | np.ndarray
DIRECT = 1 << 22                    # slots of a table that needs no hashing: 16 MB
ODD = np.uint64(0x9E3779B97F4A7C15)                         # 2^64 / golden ratio: Fibonacci hashing, TAOCP 3, 6.4


def symbols(document: Document) -> np.ndarray:
    """A document as an array of symbols."""
    return np.frombuffer(document, np.uint8) if isinstance(document, bytes) else np.asarray(document)


class Grams:
    """The sorted grams of one order: `keys[i]` = context * V + symbol is gram number i."""

    def __init__(self, keys: np.ndarray, vocabulary: int, contexts: int):
        self.keys, self.vocabulary, self.contexts = keys, vocabulary, contexts

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def context(self) -> np.ndarray:
        """(G,) the number of each gram's context, all 0 at order 1."""
        return self.keys // self.vocabulary

    @cached_property
    def symbol(self) -> np.ndarray:
        """(G,) the last symbol of each gram."""
        return self.keys - self.context * self.vocabulary

    def summed(self, values: np.ndarray) -> np.ndarray:
        """(C,) sums of a value of each gram over those that continue each context."""
        return np.bincount(self.context, values, self.contexts)

    def following(self, context: int) -> slice:
        """The grams that continue one context."""
        return slice(*np.searchsorted(self.keys, [context * self.vocabulary, (context + 1) * self.vocabulary]))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The numbers of grams, -1 where there is none; (N,) from (N,)."""
        if self.contexts * self.vocabulary <= DIRECT:
            return self.slots[keys].astype(np.int64)
        slot = self.home(keys)
        found = self.slots[slot].astype(np.int64)
        searching = np.flatnonzero((found >= 0) & (self.keys[found] != keys))
        while len(searching):                               # on to the next slot, for those that met another gram
            slot[searching] = (slot[searching] + 1) & (len(self.slots) - 1)
            met = self.slots[slot[searching]]
            found[searching] = met
            searching = searching[(met >= 0) & (self.keys[met] != keys[searching])]
        return found

    def home(self, keys: np.ndarray) -> np.ndarray:
        """The slot where the search for a gram begins: the upper bits of a product."""
        shift = np.uint64(65 - len(self.slots).bit_length())
        return ((keys.view(np.uint64) * ODD) >> shift).view(np.int64)

    @cached_property
    def slots(self) -> np.ndarray:
        """(S,) int32 gram numbers, -1 for an empty slot; a gram lies at its home or in one of the slots after it."""
        if self.contexts * self.vocabulary <= DIRECT:
            slots = np.full(self.contexts * self.vocabulary, -1, np.int32)
            slots[self.keys] = np.arange(len(self), dtype=np.int32)
            return slots
        slots = self.slots = np.full(1 << (2 * len(self)).bit_length(), -1, np.int32)       # a quarter to a half full
        waiting, slot = np.arange(len(self), dtype=np.int32), self.home(self.keys)
        while len(waiting):
            free = slots[slot] < 0
            slots[slot[free]] = waiting[free]               # of several that want one slot the last has it
            moves = slots[slot] != waiting
            waiting, slot = waiting[moves], (slot[moves] + 1) & (len(slots) - 1)
        return slots


@dataclass(frozen=True)
class Tally:
    """The counts of one order, from which a smoothing estimates."""

    order: int
    size: int                   # how many symbols can be predicted: V of the formulas
    grams: Grams
    counts: np.ndarray          # (G,) occurrences, or distinct left neighbours where continuations are counted

    @cached_property
    def totals(self) -> np.ndarray:
        """(C,) the sum of counts after each context: its count as a history, 0 where nothing follows."""
        return self.grams.summed(self.counts).astype(np.int64)

    def kinds(self, low: int = 1, high: float = np.inf) -> np.ndarray:
        """(C,) distinct symbols after each context counted `low` to `high` times: N1+, N1, N2 of the papers."""
        return self.grams.summed((self.counts >= low) & (self.counts <= high))

    def frequency(self, count: int) -> int:
        """How many grams are counted so often: n1, n2, n3, n4 of the papers."""
        return int((self.counts == count).sum())


def tallied(documents: Sequence[Document], order: int, vocabulary: int, *, size: int, continuation: bool = False,
            start: int | None = None) -> list[Tally]:
    """Count the grams of every order up to `order` of documents, none across documents.

    `continuation` counts distinct left neighbours below the highest order, which is how Kneser & Ney (1995) tell a
    frequent word from a versatile one.  `start` opens every document and is a context only, its own count is 0.
    """
    arrays = [array for document in documents if len(array := symbols(document))]
    if not arrays:
        raise ValueError("nothing to count: every document is empty")
    text = np.concatenate(arrays)
    check(text, vocabulary)
    if start is not None and any(array[0] != start for array in arrays):
        raise ValueError(f"every document must begin with the start symbol {start}")
    lengths = np.array([len(array) for array in arrays])
    place = (np.arange(len(text)) - np.repeat(np.cumsum(lengths) - lengths, lengths)).astype(np.int32)
    context = number = np.zeros(len(text), np.int32)        # number: of the gram that ends at each place
    contexts, ends, found = 1, np.arange(len(text)), []
    for n in range(1, min(order, int(lengths.max())) + 1):
        keys, inverse, counts, example = grouped(context.astype(np.int64) * vocabulary + text[ends],
                                                 contexts * vocabulary)
        if n > 1 and continuation:
            left = np.bincount(number[ends[example]], minlength=contexts)       # of the gram without its first symbol
            opening = 1 if start is None else found[-1].counts                  # kenlm keeps counts of what opens
            found[-1] = replace(found[-1], counts=np.where(left > 0, left, opening))
        found.append(Tally(n, size, Grams(keys, vocabulary, contexts), counts))
        number = np.full(len(text), -1, np.int32)
        number[ends] = inverse
        ends, contexts = np.flatnonzero(place >= n), len(keys)
        context = number[ends - 1]
    if start is not None:
        found[0] = replace(found[0], counts=np.where(found[0].grams.keys == start, 0, found[0].counts))
    return found


def check(text: np.ndarray, vocabulary: int) -> None:
    low, high = text.min(), text.max()
    if low < 0 or high >= vocabulary:
        raise ValueError(f"symbols must lie in [0, {vocabulary}), got {low if low < 0 else high}")


def grouped(values: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distinct values in order, the group of each value, how large a group is, and where one of it stands.

    `np.unique` would sort stably, which for integers is three times as slow.
    """
    if limit <= DIRECT:
        counts = np.bincount(values, minlength=limit)
        distinct = np.flatnonzero(counts)
        group = (np.cumsum(counts > 0) - 1).astype(np.int32)[values]
        example = np.empty(len(distinct), np.int64)
        example[group] = np.arange(len(values))
        return distinct, group, counts[distinct], example
    order = np.argsort(values)
    ordered = values[order]
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    counts = np.diff(first, append=len(values))
    group = np.empty(len(values), np.int32)
    group[order] = np.repeat(np.arange(len(first), dtype=np.int32), counts)
    return ordered[first], group, counts, order[first]
