"""Heuristic quality rules: a table of statistics for each document, and limits over it that are data.

`Gopher` is the MassiveText quality filter (Rae et al. 2021, section A1.1); `Generated` finds what no person wrote:
tables and the output of programs.  `repetition.py`, `fineweb.py`, `c4.py` and `refinedweb.py` have the other published
sets.  A rule bears the name of its statistic and holds while `low <= statistic <= high`; one without a range is off.
Gopher's rules were made for prose: source code has '#' for comments and symbols for words, so a corpus of code relaxes
or leaves out (`without`) some of them.

Sources read the same paper differently, and `counting` says whom to follow:

    paper       every word counts; lines that are not blank; the more frequent of '#' and ellipses a word
    datatrove   word_count and mean_word_length leave out words that are only punctuation; blank lines are lines
    dolma       words that hold '#' or '…', a word; bullets are '*' and '-'; stop-words count each time they occur
    dclm        word_count leaves out punctuation; '#' and ellipses together; bullets are '•', '-', '*'; every stop-word
"""

import re
from collections.abc import Callable, Mapping
from math import inf
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from bloomery.core.config import Settings
from bloomery.curate.scan import STOP_WORDS, Count, Scan, scanned
from bloomery.curate.step import Findings

Range = tuple[float, float]
Counting = Literal["paper", "datatrove", "dolma", "dclm"]
Table = dict[str, np.ndarray]

MARKER = re.compile(r"\b(auto-?|automatically )generated\b|\b(file|module|codec \S+) (is |was )?generated (by|from)\b"
                    r"|\bdo not edit\b", re.IGNORECASE)
HINTS = "generated", "do not edit"  # what any marker holds: seen before the expression is tried
HEADER = 1000                       # characters in which a program signs its output


class Limits(Settings):
    """Ranges by name of a statistic; `without` names the rules that are not applied."""

    without: tuple[str, ...] = Field((), description="rules that are not applied")

    @classmethod
    def rules(cls) -> list[str]:
        """The rules there are: every option that is a range."""
        return [name for name, field in cls.model_fields.items() if field.annotation in (Range, Range | None)]

    @model_validator(mode="after")
    def known_rules(self) -> "Limits":
        if unknown := sorted(set(self.without) - set(self.rules())):
            raise ValueError(f"no rule named {', '.join(unknown)}; there are {', '.join(self.rules())}")
        return self

    def ranges(self) -> dict[str, Range]:
        named = {name: getattr(self, name) for name in self.rules() if name not in self.without}
        return {name: limits for name, limits in named.items() if limits is not None}


Split = Annotated[Literal["white", "english"], Field(description="words end at white space, or as in English")]


class Gopher(Limits):
    """Quality of prose, lowest and highest (Rae et al. 2021, A1.1)."""

    counting: Counting = Field("paper", description="whose reading of the paper: paper, datatrove, dolma or dclm")
    words: Split = "white"
    stop_word_list: tuple[str, ...] = Field(STOP_WORDS, min_length=1, max_length=62,
                                            description="the common words of `stop_words`, as they are written")
    word_count: Range | None = Field((50, 100_000), description="words")
    mean_word_length: Range | None = Field((3, 10), description="characters a word, on average")
    median_word_length: Range | None = Field(None, description="Dolma's: the middle of the lengths; off unless asked")
    symbol_ratio: Range | None = Field((0, 0.1), description="'#' or ellipses a word, whichever is more")
    bullet_lines: Range | None = Field((0, 0.9), description="share of lines that begin with a bullet")
    ellipsis_lines: Range | None = Field((0, 0.3), description="share of lines that end with an ellipsis")
    alphabetic_words: Range | None = Field((0.8, 1), description="share of words with at least one letter")
    stop_words: Range | None = Field((2, inf), description="how many of eight common words occur")


class Generated(Limits):
    """What no person wrote: tables and the output of programs.

    No paper's limits: in the standard library code and prose have under 0.1 digits a character, tables above 0.15.
    """

    generated_marker: Range | None = Field((0, 0), description='1 where the head says "DO NOT EDIT"')
    digit_ratio: Range | None = Field((0, 0.15), description="digits among characters that are not white space")


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Of nothing, nothing."""
    return part / np.maximum(whole, 1)


def quality_statistics(batch: pa.RecordBatch, limits: Gopher) -> Table:
    """What `Gopher` limits; an empty text has zeros everywhere."""
    found = scanned(batch.column("text"), split=limits.words, stop_words=limits.stop_word_list)
    words, counting = found[Count.WORDS], limits.counting
    lines = {"datatrove": found[Count.LINES], "dolma": found[Count.NEWLINES] + 1}.get(
        counting, found[Count.FILLED_LINES])
    return {
        "word_count": found[Count.SOLID_WORDS if counting in ("datatrove", "dclm") else Count.WORDS],
        "mean_word_length": ratio(found[Count.SOLID_CHARACTERS], found[Count.SOLID_WORDS])
        if counting == "datatrove" else ratio(found[Count.WORD_CHARACTERS], words),
        "median_word_length": found[Count.MEDIAN_WORD],
        "symbol_ratio": ratio(symbols(found, counting), words),
        "bullet_lines": ratio(sum(found[bullet] for bullet in BULLETS[counting]), lines),
        "ellipsis_lines": ratio(found[Count.ELLIPSIS_LINES], lines),
        "alphabetic_words": ratio(found[Count.LETTER_WORDS], words),
        "stop_words": found[Count.STOP_OCCURRENCES if counting in ("dolma", "dclm") else Count.STOP_WORDS],
    }


def symbols(found: Scan, counting: Counting) -> np.ndarray:
    if counting == "dolma":
        return found[Count.MARKED_WORDS]
    together = np.add if counting == "dclm" else np.maximum
    return together(found[Count.HASHES], found[Count.ELLIPSES])


def generated_statistics(batch: pa.RecordBatch, limits: Generated) -> Table:
    """What `Generated` limits."""
    found = scanned(batch.column("text"))
    heads = [text[:HEADER] for text in batch.column("text").to_pylist()]
    return {"generated_marker": np.array([float(is_marked(head)) for head in heads]),
            "digit_ratio": ratio(found[Count.DIGITS], found[Count.VISIBLE])}


def is_marked(head: str) -> bool:
    """Whether a program signed a text."""
    lowered = head.lower()
    return any(hint in lowered for hint in HINTS) and bool(MARKER.search(head))


def gopher_quality(text: str, limits: Gopher | None = None) -> list[str]:
    """The names of the Gopher quality rules that a text fails; the paper's limits unless others are given."""
    limits = limits or Gopher()
    table = quality_statistics(pa.record_batch({"text": pa.array([text], pa.large_string())}), limits)
    return [name for name, (low, high) in limits.ranges().items() if not low <= table[name][0] <= high]


class Heuristic:
    """The step that drops a document for the first limit, in the order they are declared, that its statistics break."""

    def __init__(self, statistics: Callable[[pa.RecordBatch, Any], Table], limits: Limits):
        self.statistics, self.limits, self.ranges = statistics, limits, limits.ranges()

    def examine(self, batch: pa.RecordBatch) -> Findings:
        table = self.statistics(batch, self.limits)
        return Findings(broken(table, self.ranges, batch.num_rows), table)


def broken(table: Mapping[str, np.ndarray], ranges: Mapping[str, Range], rows: int) -> list[str | None]:
    """The first limit each of the rows breaks."""
    reasons: list[str | None] = [None] * rows
    for name, (low, high) in ranges.items():
        for row in np.flatnonzero((table[name] < low) | (table[name] > high)):
            reasons[row] = reasons[row] or name
    return reasons


BULLETS = {"paper": (Count.DOT_LINES, Count.DASH_LINES), "datatrove": (Count.DOT_LINES, Count.DASH_LINES),
           "dolma": (Count.STAR_LINES, Count.DASH_LINES),
           "dclm": (Count.DOT_LINES, Count.DASH_LINES, Count.STAR_LINES)}
