"""Heuristic quality rules: a table of statistics for each document, and limits over it that are data.

`Gopher` is the MassiveText quality filter and `Repetition` the line and paragraph part of its repetition filter (Rae et
al. 2021, section A1.1 and table A1); `Generated` finds what no person wrote: tables and the output of programs.  A rule
bears the name of its statistic and holds while `low <= statistic <= high`.  Gopher's rules were made for prose: source
code has '#' for comments and symbols for words, so a corpus of code relaxes or leaves out (`without`) some of them.

Words are what white space separates.  Left out: table A1's n-gram rules.
"""

import re
from collections import Counter
from collections.abc import Callable
from math import inf

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from bloomery.core.config import Settings

Range = tuple[float, float]

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
WITH_LETTER = re.compile(r"[^\W\d_]")
PARAGRAPH = re.compile(r"\n{2,}")
MARKER = re.compile(r"\b(auto-?|automatically )generated\b|\b(file|module|codec \S+) (is |was )?generated (by|from)\b"
                    r"|\bdo not edit\b", re.IGNORECASE)
HEADER = 1000                       # characters in which a program signs its output


class Limits(Settings):
    """Ranges by name of a statistic; `without` names the rules that are not applied."""

    without: tuple[str, ...] = Field((), description="rules that are not applied")

    @model_validator(mode="after")
    def known_rules(self) -> "Limits":
        names = [name for name in type(self).model_fields if name != "without"]
        if unknown := sorted(set(self.without) - set(names)):
            raise ValueError(f"no rule named {', '.join(unknown)}; there are {', '.join(names)}")
        return self

    def ranges(self) -> dict[str, Range]:
        return {name: value for name, value in self if name != "without" and name not in self.without}


class Gopher(Limits):
    """Quality of prose, lowest and highest (Rae et al. 2021, A1.1)."""

    word_count: Range = Field((50, 100_000), description="words")
    mean_word_length: Range = Field((3, 10), description="characters a word, on average")
    symbol_ratio: Range = Field((0, 0.1), description="'#' or ellipses a word, whichever is more")
    bullet_lines: Range = Field((0, 0.9), description="share of lines that begin with a bullet")
    ellipsis_lines: Range = Field((0, 0.3), description="share of lines that end with an ellipsis")
    alphabetic_words: Range = Field((0.8, 1), description="share of words with at least one letter")
    stop_words: Range = Field((2, inf), description="how many of eight common words occur")


class Repetition(Limits):
    """Shares of what occurred before (Rae et al. 2021, table A1)."""

    duplicate_lines: Range = Field((0, 0.3), description="share of lines that repeat one before")
    duplicate_paragraphs: Range = Field((0, 0.3), description="share of paragraphs that repeat one before")
    duplicate_line_characters: Range = Field((0, 0.2), description="share of characters in repeated lines")
    duplicate_paragraph_characters: Range = Field((0, 0.2), description="share of characters in repeated paragraphs")


class Generated(Limits):
    """What no person wrote: tables and the output of programs.

    No paper's limits: in the standard library code and prose have under 0.1 digits a character, tables above 0.15.
    """

    generated_marker: Range = Field((0, 0), description='1 where the head says "DO NOT EDIT"')
    digit_ratio: Range = Field((0, 0.15), description="digits among characters that are not white space")


def quality_statistics(text: str) -> dict[str, float]:
    """What `Gopher` limits; an empty text has zeros everywhere. Blank lines are no lines."""
    words = text.split()
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    count, line_count = max(len(words), 1), max(len(lines), 1)
    return {
        "word_count": len(words),
        "mean_word_length": sum(map(len, words)) / count,
        "symbol_ratio": max(text.count("#"), text.count("...") + text.count("…")) / count,
        "bullet_lines": sum(line.startswith(("•", "-")) for line in lines) / line_count,
        "ellipsis_lines": sum(line.endswith(("...", "…")) for line in lines) / line_count,
        "alphabetic_words": sum(map(bool, map(WITH_LETTER.search, words))) / count,
        "stop_words": len(STOP_WORDS.intersection(words)),
    }


def repetition_statistics(text: str) -> dict[str, float]:
    """What `Repetition` limits; lines and paragraphs that are not blank, compared as they stand."""
    lines, paragraphs = text.split("\n"), PARAGRAPH.split(text.strip("\n"))
    line_share, line_characters = duplicate_shares([line for line in lines if line.strip()])
    paragraph_share, paragraph_characters = duplicate_shares([part for part in paragraphs if part.strip()])
    return {"duplicate_lines": line_share, "duplicate_paragraphs": paragraph_share,
            "duplicate_line_characters": line_characters / max(len(text), 1),
            "duplicate_paragraph_characters": paragraph_characters / max(len(text), 1)}


def duplicate_shares(pieces: list[str]) -> tuple[float, int]:
    """The share of pieces that occurred before, and how many characters those have."""
    counts = Counter(pieces)
    repeated = len(pieces) - len(counts)
    return repeated / max(len(pieces), 1), sum(len(piece) * (count - 1) for piece, count in counts.items() if count > 1)


def generated_statistics(text: str) -> dict[str, float]:
    """What `Generated` limits."""
    visible = len(text) - sum(map(text.count, " \n\t\r\f\v"))
    return {"generated_marker": float(bool(MARKER.search(text, 0, HEADER))),
            "digit_ratio": sum(map(text.count, "0123456789")) / max(visible, 1)}


def gopher_quality(text: str, limits: Gopher | None = None) -> list[str]:
    """The names of the Gopher quality rules that a text fails; the paper's limits unless others are given."""
    statistics, ranges = quality_statistics(text), (limits or Gopher()).ranges()
    return [name for name, (low, high) in ranges.items() if not low <= statistics[name] <= high]


class Heuristic:
    """The step that drops a document for the first limit, in the order they are declared, that its statistics break."""

    def __init__(self, statistics: Callable[[str], dict[str, float]], limits: Limits):
        self.statistics, self.ranges = statistics, limits.ranges()

    def table(self, batch: pa.RecordBatch) -> dict[str, np.ndarray]:
        """The statistics of a batch, a column each."""
        found = [self.statistics(text) for text in batch.column("text").to_pylist()]
        return {name: np.array([row[name] for row in found]) for name in (found[0] if found else ())}

    def reasons(self, batch: pa.RecordBatch) -> list[str | None]:
        table = self.table(batch)
        reasons: list[str | None] = [None] * batch.num_rows
        for name, (low, high) in self.ranges.items() if batch.num_rows else ():
            for row in np.flatnonzero((table[name] < low) | (table[name] > high)):
                reasons[row] = reasons[row] or name
        return reasons
