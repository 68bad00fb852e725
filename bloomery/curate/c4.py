"""C4's rules (Raffel et al. 2020, section 2.2): lines that are no sentences are cut, pages that are no prose dropped.

A line stays if no word of it is monstrous, it ends in terminal punctuation and not in an ellipsis, has enough words,
does not speak of JavaScript and is no notice about cookies, terms or privacy.  A page goes that holds "lorem ipsum" or
a curly bracket in a line that came so far, has too few sentences left, a bad word, or is too long to be prose.  The
order is that of the code that made C4; marks of Wikipedia ([1], [edit]) are cut first.

The paper and datatrove ask for 3 words a line and 5 sentences a page, the published code (TFDS) for 5 and 3: `PAPER`
and `TFDS`.  mC4 asks for lines instead: `long_lines`.  No list of bad words comes with this tool; name a file (the
paper's is LDNOOBW).  Sentences end as in `lines.py`, without a model; C4's language test is the step `language`.
"""

import re
from math import inf
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.curate.edits import Edits, joined
from bloomery.curate.heuristics import Range, broken
from bloomery.curate.lines import Line, content, gaps, lines, per_document
from bloomery.curate.step import Findings

PAPER, TFDS = {"line_words": 3, "sentences": 5}, {"line_words": 5, "sentences": 3}
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
PHRASES = ("lorem ipsum", "javascript", *POLICY)                # the first two are bits 1 and 2 of a line's PHRASES
CITATION = re.compile(rb"\[\d*\]|\[edit\]|\[citation needed\]")


class C4(Settings):
    """What a line and a page must have; 0 or false leaves a rule out."""

    line_words: int = Field(3, ge=0, description="words a line must have: 3 in the paper, 5 in the code (TFDS)")
    sentences: int = Field(5, ge=0, description="sentences a page must have left: 5 in the paper, 3 in the code (TFDS)")
    ends: tuple[Annotated[str, Field(min_length=1, max_length=1)], ...] = Field(
        (".", "?", "!", '"'), description="what a line must end with; datatrove adds \"'\"; empty: anything (FineWeb)")
    longest_word: int = Field(1000, ge=0, description="characters beyond which a word takes its line along")
    citations: bool = Field(True, description="cut [1], [edit] and [citation needed]")
    javascript: bool = Field(True, description="cut lines that hold the word")
    policy: bool = Field(True, description="cut lines about cookies, privacy and terms of use")
    lorem_ipsum: bool = Field(True, description="drop pages that hold it")
    curly_bracket: bool = Field(True, description="drop pages that hold one")
    bad_words: Input | None = Field(None, description="a file with a word or phrase a line: a page with one is dropped")
    longest_text: int = Field(0, ge=0, description="characters beyond which a page is dropped; the code has 190000")
    long_lines: tuple[int, int] | None = Field(None, description="lines, and characters each must have; mC4: [3, 200]")


class LineRules:
    """The step: lines to cut, and pages to drop for what is left."""

    def __init__(self, options: C4):
        self.options, self.bad = options, bad_words(options.bad_words) if options.bad_words else None
        count = options.long_lines[0] if options.long_lines else 0
        limits = {"lorem_ipsum": (options.lorem_ipsum, (0, 0)), "curly_bracket": (options.curly_bracket, (0, 0)),
                  "sentences": (options.sentences, (options.sentences, inf)),
                  "characters": (options.longest_text, (0, options.longest_text)),
                  "long_lines": (count, (count, inf)), "bad_words": (self.bad, (0, 0))}
        self.ranges: dict[str, Range] = {name: range_ for name, (asked, range_) in limits.items() if asked}

    def examine(self, batch: pa.RecordBatch) -> Findings:
        texts, rows = batch.column("text"), batch.num_rows
        table = lines(texts, PHRASES)
        falls = self.falls(table, texts)
        kept = ~np.any(list(falls.values()), axis=0)
        columns = {name if name in self.ranges else f"lines_{name}": per_document(table, cut, rows)
                   for name, cut in falls.items()}
        columns["lines_kept"] = per_document(table, kept, rows)
        columns |= self.pages(table, kept, texts)
        reasons = broken(columns, self.ranges, rows)
        stays = np.array([reason is None for reason in reasons], bool)
        edits = [gaps(table, kept, texts, stays)] + ([citations(texts, stays)] if self.options.citations else [])
        return Findings(reasons, columns, joined(edits))

    def falls(self, table: np.ndarray, texts: pa.Array) -> dict[str, np.ndarray]:
        """For each rule the lines that fall to it and to none before it, (M,) bool."""
        options, held = self.options, table[:, Line.PHRASES]
        failed = {"blank": table[:, Line.WORDS] == 0}
        if options.longest_word:
            failed["long_word"] = table[:, Line.LONGEST] > options.longest_word
        if options.ends:
            failed["unended"] = ~ended(table, texts, options.ends, strip=options.citations)
        failed["few_words"] = table[:, Line.WORDS] < options.line_words
        if options.lorem_ipsum:
            failed["lorem_ipsum"] = (held & 1) > 0
        if options.javascript:
            failed["javascript"] = (held & 2) > 0
        if options.curly_bracket:
            failed["curly_bracket"] = table[:, Line.CURLY] > 0
        if options.policy:
            failed["policy"] = held > 3
        left, first = np.ones(len(table), bool), {}
        for name, lines_ in failed.items():
            first[name], left = lines_ & left, left & ~lines_
        return first

    def pages(self, table: np.ndarray, kept: np.ndarray, texts: pa.Array) -> dict[str, np.ndarray]:
        """What the rules about pages limit."""
        options, documents = self.options, len(texts)
        columns = {"sentences": per_document(table, kept * table[:, Line.SENTENCES], documents),
                   "characters": pc.utf8_length(texts).to_numpy()}
        if options.long_lines:
            columns["long_lines"] = per_document(table, table[:, Line.CHARACTERS] >= options.long_lines[1], documents)
        if self.bad:
            columns["bad_words"] = np.array([len(self.bad.findall(text.lower())) for text in texts.to_pylist()])
        return columns


def ended(table: np.ndarray, texts: pa.Array, ends: tuple[str, ...], *, strip: bool) -> np.ndarray:
    """Whether each line ends with one of these and not with an ellipsis, (M,) bool; `strip` citations behind it."""
    found = np.isin(table[:, Line.FINAL], [ord(end) for end in ends]) & (table[:, Line.DOTS] < 3)
    for place in np.flatnonzero(table[:, Line.FINAL] == ord("]")) if strip else ():
        line = CITATION.sub(b"", content(table, place, texts)).decode()
        found[place] = line.endswith(ends) and not line.endswith("...")
    return found


def citations(texts: pa.Array, stays: np.ndarray) -> Edits:
    """Wikipedia's marks, to be cut."""
    held = np.flatnonzero(stays & pc.match_substring(texts, "[").to_numpy(zero_copy_only=False))
    found = [(row, match.start(), match.end()) for row in held.tolist()
             for match in CITATION.finditer(texts[row].as_buffer())]
    return Edits.cuts(*np.array(found, np.int64).reshape(-1, 3).T)


def bad_words(path: str) -> re.Pattern:
    """An expression for the words of a file, flanked by what is no letter."""
    words = [line.strip().lower() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    if not words:
        raise InputError("a list of bad words is empty", where=path, hint="a word or phrase a line")
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)")
