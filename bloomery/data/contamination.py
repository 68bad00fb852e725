"""Decontamination: does a training text hold n words in a row of a text that models are measured on?

Texts are compared as lower-case words without punctuation.  n is 13; an evaluation text of 8 to 12 words is looked for
whole, and a shorter one, which would be met by chance, not at all (Brown et al. 2020, appendix C: n from 8 to 13).
Runs of words that more than `common` evaluation texts share are the benchmark's own wording and prove nothing.

A run of words is one number, a polynomial in 64-bit word hashes, so that a benchmark is a sorted array: 8 bytes a word.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bloomery.core.files import Quarantine, rows
from bloomery.core.metrics import say
from bloomery.core.records import Conversation, text_id

WORD = re.compile(r"\w+")
ODD = np.uint64(0x9E3779B97F4A7C15)         # the polynomial's base; odd, so that no word is lost modulo 2^64


class WordHashes(dict[str, int]):
    """A 64-bit number for each word, the same in every process."""

    def __missing__(self, word: str) -> int:
        self[word] = value = int(text_id(word), 16)
        return value


class Contamination:
    """Word runs of the evaluation texts, and whether other texts hold them."""

    def __init__(self, evaluation: Iterable[str], *, n: int = 13, shortest: int = 8, common: int = 10):
        if not 1 <= shortest <= n:
            raise ValueError(f"shortest must be from 1 to n = {n}, got {shortest}")
        self.hashes, self.n, self.checked, self.unchecked, found = WordHashes(), n, 0, 0, {}
        for words in dict.fromkeys(" ".join(spelled(text)) for text in evaluation):
            hashes = self.hashed(words.split())
            if shortest <= len(hashes):
                *_, (size, runs) = windows(hashes, n)
                found.setdefault(size, []).append(np.unique(runs))
                self.checked += 1
            else:
                self.unchecked += 1
        self.runs = {size: rare(np.concatenate(parts), common) for size, parts in found.items()}

    def reason(self, text: str) -> str | None:
        """None, or the reason to drop `text`, with the first words it shares with an evaluation text."""
        words = spelled(text) if self.runs else []
        for size, at in self.shared(words):
            return f"overlaps with evaluation data: {' '.join(words[at[0]:at[0] + size])}"
        return None

    def spans(self, text: str, *, margin: int = 0) -> list[tuple[int, int]]:
        """The characters of each run of words that an evaluation text has too, those that meet as one.

        `margin` more belong to it on either side.
        """
        lower = text.lower()
        marks = np.zeros(len(lower) + 1, np.int64)
        words = list(WORD.finditer(lower)) if self.runs else []
        for size, at in self.shared([word.group() for word in words]):
            for first in at.tolist():
                marks[words[first].start()] += 1
                marks[words[first + size - 1].end()] -= 1
        edges = np.flatnonzero(np.diff(np.cumsum(marks) > 0, prepend=False)).reshape(-1, 2)
        if len(lower) != len(text):                         # a letter or two have a longer lower case
            edges = np.repeat(np.arange(len(text)), [len(letter.lower()) for letter in text])[edges - [0, 1]] + [0, 1]
        found: list[tuple[int, int]] = []
        for start, stop in (edges + [-margin, margin]).clip(0, len(text)).tolist():
            if found and start <= found[-1][1]:
                start, _ = found.pop()
            found.append((start, stop))
        return found

    def shared(self, words: list[str]) -> Iterator[tuple[int, np.ndarray]]:
        """For each length of a run of which some are known: where those begin that are."""
        for size, own in windows(self.hashed(words), self.n):
            known = self.runs.get(size, own[:0])
            at = np.flatnonzero(known[np.searchsorted(known, own) % len(known)] == own) if len(known) else known
            if len(at):
                yield size, at

    def hashed(self, words: list[str]) -> np.ndarray:
        """The number of each word, (T,)."""
        return np.fromiter(map(self.hashes.__getitem__, words), np.uint64, len(words))

    def of_conversation(self, conversation: Conversation) -> str | None:
        """The reason to drop a conversation: the first of any of its turns."""
        return next(filter(None, (self.reason(turn.content) for turn in conversation.messages)), None)


def spelled(text: str) -> list[str]:
    return WORD.findall(text.lower())


def windows(hashes: np.ndarray, n: int) -> Iterator[tuple[int, np.ndarray]]:
    """For 1 to n words in a row, as long as there are so many: one number for each such run, (T - size + 1,)."""
    total = np.zeros(len(hashes) + 1, np.uint64)
    for size in range(1, min(n, len(hashes)) + 1):
        total = total[:-1] * ODD + hashes[size - 1:]
        yield size, total


def rare(runs: np.ndarray, common: int) -> np.ndarray:
    """Those that at most `common` texts hold, sorted."""
    values, counts = np.unique(runs, return_counts=True)
    return values[counts <= common]


def contamination(places: Sequence[str], quarantine: Quarantine) -> Contamination:
    """What evaluation files hold, to keep it out of training; none of them, and nothing is held."""
    known = Contamination(evaluation_texts(places, quarantine))
    if places:
        say(f"  decontamination: {known.checked} evaluation texts, {known.unchecked} others too short to be looked for")
    return known


def evaluation_texts(places: Sequence[str], quarantine: Quarantine) -> Iterator[str]:
    """Every text of every row of evaluation files, whatever their format and columns."""
    return (text for place in places for row, _ in rows(place, quarantine) for text in strings(row))


def strings(value: Any) -> Iterator[str]:
    """Every text in a row of any shape: questions, choices, answers, turns."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)
