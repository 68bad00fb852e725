"""FineWeb's own rules (Penedo et al. 2024): lists, menus and boilerplate that pass Gopher's and C4's.

Lines are what "\\n" separates and is not blank.  `duplicate_characters` is 0.01 in the code that made FineWeb and 0.1
in the paper; the code's is the default here.
"""

from math import inf

import numpy as np
import pyarrow as pa
from pydantic import Field

from bloomery.curate.heuristics import Limits, Range, Split, Table, ratio
from bloomery.curate.repetition import repeats
from bloomery.curate.scan import SHORT, Count, scanned


class FineWeb(Limits):
    """Lines that end, are short or repeat, and words a line."""

    words: Split = "white"
    short: int = Field(SHORT, ge=1, description="characters up to which a line is short")
    filled_lines: Range | None = Field((1, inf), description="lines that are not blank")
    ended_lines: Range | None = Field((0.12, 1), description="share of lines that end with terminal punctuation")
    short_lines: Range | None = Field((0, 0.67), description="share of short lines")
    duplicate_characters: Range | None = Field((0, 0.01), description="share of characters in lines that repeat one "
                                                                      "before: 0.01 in the code, 0.1 in the paper")
    newlines_a_word: Range | None = Field((0, 0.3), description="line feeds a word: more is a list")


def fineweb_statistics(batch: pa.RecordBatch, limits: FineWeb) -> Table:
    """What `FineWeb` limits."""
    found = scanned(batch.column("text"), split=limits.words, short=limits.short)
    lines, feeds = found[Count.FILLED_ROWS], found[Count.NEWLINES]
    ended = ratio(found[Count.ENDED_ROWS], lines)
    return {"filled_lines": lines, "ended_lines": np.where(lines > 0, ended, 1),
            "short_lines": ratio(found[Count.SHORT_ROWS], lines),
            "duplicate_characters": ratio(repeats(found.rows, blank=False)[:, 4], found[Count.CHARACTERS] - feeds),
            "newlines_a_word": ratio(feeds, found[Count.WORDS])}
