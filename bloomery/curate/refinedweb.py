"""RefinedWeb's line rules (Penedo et al. 2023, appendix G.2), as DCLM and Dolma 3 have them.

A line goes that is mostly upper case, all digits, a counter ("3 likes") or a single word; of short lines "items in
cart", a "Read more..." at the end and a "Sign-in" at the start are cut.  A document that loses more than a twentieth of
its words so was not worth keeping, and goes.  Lines are what "\\n" separates; blank ones stay, at most `blank_lines`
together.
"""

import re
from math import inf
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from bloomery.core.config import Settings
from bloomery.curate.edits import Edits, joined
from bloomery.curate.heuristics import Range, broken, ratio
from bloomery.curate.lines import Line, content, gaps, lines, per_document
from bloomery.curate.step import Findings

COUNTED = "likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes|downvotes|downloads|views|followers"
COUNTERS = {"line": re.compile(rf"\W*\d[\d,.]*[kmb]?\s+(?:{COUNTED})\W*", re.IGNORECASE),
            "start": re.compile(rf"\W*\d[\d,.]*[kmb]?\s+(?:{COUNTED})\b.*", re.IGNORECASE | re.DOTALL)}
PHRASES = ("items in cart", "read more...", "sign-in")
CUT = re.compile(rb"\s?items in cart|\s?read more\.\.\.\Z|\Asign-in\s?", re.IGNORECASE)


class RefinedWeb(Settings):
    """What takes a line, and what its loss means to the document."""

    uppercase: float = Field(0.5, ge=0, le=1, description="share of upper-case letters beyond which a line goes")
    digits: float = Field(0.999999, ge=0, le=1, description="share of digits beyond which a line goes")
    line_words: int = Field(2, ge=0, description="words a line must have")
    counters: Literal["line", "start", "keep"] = Field("line", description="what goes as a counter: lines that are "
                                                       "nothing else (DCLM), that begin as one, or none")
    cut_words: int = Field(10, ge=0, description="words up to which a line is searched for phrases to cut")
    removed: float = Field(0.05, ge=0, le=1, description="share of words beyond which the document goes")
    characters: int = Field(0, ge=0, description="characters a document must have left; Dolma 3: 150")
    blank_lines: int = Field(1, ge=0, description="blank lines that may follow one another")


class LineEdits:
    """The step: lines and phrases to cut, and documents that were mostly such lines."""

    def __init__(self, options: RefinedWeb):
        self.options = options
        self.ranges: dict[str, Range] = {"words_removed": (0, options.removed)}
        if options.characters:
            self.ranges["characters_left"] = (options.characters, inf)

    def examine(self, batch: pa.RecordBatch) -> Findings:
        texts, rows = batch.column("text"), batch.num_rows
        table = lines(texts, PHRASES, universal=False)
        falls = self.falls(table, texts)
        cut = np.any(list(falls.values()), axis=0)
        spans, lost = self.phrases(table, ~cut, texts)
        cut |= (table[:, Line.WORDS] > 0) & (lost == table[:, Line.WORDS])
        words = per_document(table, table[:, Line.WORDS], rows)
        removed = per_document(table, np.where(cut, table[:, Line.WORDS], lost), rows)
        columns = {f"lines_{name}": per_document(table, found, rows) for name, found in falls.items()}
        columns["words_removed"] = ratio(removed, words)
        columns["characters_left"] = per_document(table, np.where(cut, 0, table[:, Line.CHARACTERS]), rows)
        reasons = broken(columns, self.ranges, rows)
        stays = np.array([reason is None for reason in reasons], bool)
        kept = ~cut & ~self.blank(table, cut)
        inner = spans[stays[spans[:, 0]] & ~cut[spans[:, 3]], :3]
        edits = joined([gaps(table, kept, texts, stays, strip=False), Edits.cuts(*inner.T)])
        return Findings(reasons, columns, edits)

    def falls(self, table: np.ndarray, texts: pa.Array) -> dict[str, np.ndarray]:
        """For each rule the lines that fall to it and to none before it, (M,) bool; an empty line falls to none."""
        options, size = self.options, np.maximum(table[:, Line.CHARACTERS], 1)
        counters = np.zeros(len(table), bool)
        if options.counters != "keep":
            for place in np.flatnonzero(table[:, Line.NUMBERED]).tolist():
                line = content(table, place, texts).decode()
                counters[place] = bool(COUNTERS[options.counters].fullmatch(line))
        left, first = table[:, Line.CHARACTERS] > 0, {}
        for name, failed in {"upper_case": table[:, Line.UPPER] / size > options.uppercase,
                             "digits": table[:, Line.DIGITS] / size > options.digits, "counter": counters,
                             "few_words": table[:, Line.WORDS] < options.line_words}.items():
            first[name], left = failed & left, left & ~failed
        return first

    def phrases(self, table: np.ndarray, left: np.ndarray, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Phrases to cut out of short lines (document, start, stop, line), and the words each line loses so, (M,)."""
        found, lost = [], np.zeros(len(table), np.int64)
        short = left & (table[:, Line.PHRASES] > 0) & (table[:, Line.WORDS] <= self.options.cut_words)
        for place in np.flatnonzero(short).tolist():
            line = content(table, place, texts)
            lost[place] = len(line.split()) - len(CUT.sub(b"", line).split())
            document, start = table[place, [Line.DOCUMENT, Line.START]].tolist()
            found += [(document, start + match.start(), start + match.end(), place) for match in CUT.finditer(line)]
        return np.array(found, np.int64).reshape(-1, 4), lost

    def blank(self, table: np.ndarray, cut: np.ndarray) -> np.ndarray:
        """Empty lines that follow `blank_lines` others once the lines to be cut are gone, (M,) bool."""
        rows = np.flatnonzero(~cut)
        place, empty = np.arange(len(rows)), table[rows, Line.CHARACTERS] == 0
        begins = np.diff(table[rows, Line.DOCUMENT], prepend=-1) > 0
        filled = np.maximum.accumulate(np.where(~empty, place, np.where(begins, place - 1, -1)))
        found = np.zeros(len(table), bool)
        found[rows[empty & (place - filled > self.options.blank_lines)]] = True
        return found
