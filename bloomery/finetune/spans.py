"""Questions whose answer stands in a text: windows a model can read, and the span its scores mean.

    [CLS] question [SEP] a window of the text [SEP]          windows overlap; the question is at most 64 tokens
    score of (i, j) = start_i + end_j,   i <= j < i + longest,   both in the text
    no answer where start_0 + end_0 - best > threshold       Devlin et al. 2019, section 4.3

A token stands in several windows; it may begin an answer in the one where it has most context, the smaller side
counting (google-research/bert, `run_squad.py`).  The window's first token stands for no answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bloomery.text.framing import Frame

LONGEST, QUERY, STRIDE = 30, 64, 128


@dataclass(frozen=True)
class Span:
    """The best span of scores, -1 where there is none, and what no answer scored."""

    start: int
    end: int
    score: float
    null: float

    def nothing(self, threshold: float = 0.0) -> bool:
        """Whether no answer is the answer."""
        return self.start < 0 or self.null - self.score > threshold


def best_span(start: np.ndarray, end: np.ndarray, inside: np.ndarray, *, longest: int = LONGEST, null: int = 0,
              begins: np.ndarray | None = None) -> Span:
    """The best (i, j) of scores (n,), both `inside`, at most `longest` tokens; of equals the first. All are looked at.

    `begins` (n,) are those i that may be looked at, all that are inside by default.
    """
    if longest < 1:
        raise ValueError(f"an answer has one token at least, got longest = {longest}")
    nothing = float(start[null] + end[null])
    first = np.where(inside if begins is None else inside & begins, start, -np.inf)
    last = np.concatenate([np.where(inside, end, -np.inf), np.full(longest - 1, -np.inf)])
    table = first[:, None] + np.lib.stride_tricks.sliding_window_view(last, longest)             # (n, longest)
    best = int(table.argmax()) if len(table) else 0
    i, more = divmod(best, longest)
    score = float(table[i, more]) if len(table) else -np.inf
    return Span(i, i + more, score, nothing) if score > -np.inf else Span(-1, -1, -np.inf, nothing)


@dataclass(frozen=True)
class Window:
    """One run: tokens first..last-1 of the text stand from place `at` on; `begins` are those with most context here."""

    ids: list[int]
    types: list[int]
    at: int
    first: int
    last: int
    begins: np.ndarray          # (last - first,) bool

    def place(self, token: int) -> int:
        """Where a token of the text stands, 0 where it does not."""
        return self.at + token - self.first if self.first <= token < self.last else 0

    @property
    def inside(self) -> np.ndarray:
        """Which places are of the text, (n,) bool."""
        found = np.zeros(len(self.ids), bool)
        found[self.at:self.at + self.last - self.first] = True
        return found


def cuts(tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """First and last token of every window."""
    found = [(0, min(tokens, room))]
    while found[-1][1] < tokens:
        first = found[-1][0] + min(stride, room)
        found.append((first, min(tokens, first + room)))
    return found


def most_context(bounds: Sequence[tuple[int, int]], tokens: int) -> np.ndarray:
    """The window in which each token has most context, (tokens,): the smaller side, and a little for length."""
    best, owner = np.full(tokens, -np.inf), np.zeros(tokens, np.int64)
    for number, (first, last) in enumerate(bounds):
        at = np.arange(first, last)
        score = np.minimum(at - first, last - 1 - at) + 0.01 * (last - first)
        better = score > best[first:last]
        best[first:last][better], owner[first:last][better] = score[better], number
    return owner


def windows(question: list[int], text: list[int], frame: Frame, context: int, *, stride: int = STRIDE,
            query: int = QUERY) -> list[Window]:
    """A text in windows of at most `context` tokens, each behind the question."""
    asked = question[:query]
    room = frame.room(context, 2) - len(asked)
    if room < 1:
        raise ValueError(f"a context of {context} tokens leaves no room behind a question of {len(asked)}")
    bounds, at = cuts(len(text), room, stride), len(frame.begin) + len(asked) + len(frame.between)
    owner = most_context(bounds, len(text))
    return [Window(*frame(asked, text[first:last]), at, first, last, owner[first:last] == number)
            for number, (first, last) in enumerate(bounds)]


def decoded(found: Sequence[Window], scores: Sequence[np.ndarray], *, longest: int = LONGEST) -> Span:
    """The best span of a text, in its tokens, from the scores (n, 2) of its windows; no answer is its least score."""
    best = Span(-1, -1, -np.inf, np.inf)
    for window, own in zip(found, scores, strict=True):
        begins = np.zeros(len(window.ids), bool)
        begins[window.at:window.at + window.last - window.first] = window.begins
        span = best_span(own[:, 0], own[:, 1], window.inside, longest=longest, begins=begins)
        null = min(best.null, span.null)
        move = window.first - window.at
        best = Span(span.start + move, span.end + move, span.score, null) if span.score > best.score else \
            Span(best.start, best.end, best.score, null)
    return best
