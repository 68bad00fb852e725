"""The lines of a batch as a table, on which line rules are decided: what C4 and RefinedWeb cut out of pages.

One row a line: where it lies (bytes in its document, as it stands and without the white space around it), its
characters, words, upper-case letters, digits and sentences, its last character, and which of a few phrases it holds.
With numba the table is filled by `line_kernel.py`; what stands here defines it and serves without.
"""

from collections.abc import Sequence
from enum import IntEnum
from functools import cache

import numpy as np
import pyarrow as pa

from bloomery.core.kernels import kernel
from bloomery.curate.characters import AFTER, DIGIT, LETTER, LOWER, TERMINAL, UPPER, classes
from bloomery.curate.edits import Edits
from bloomery.curate.scan import buffers

Line = IntEnum("Line", ["DOCUMENT", "BEGIN", "END", "START", "STOP", "CHARACTERS", "WORDS", "LONGEST", "UPPER",
                        "DIGITS", "NUMBERED", "FINAL", "DOTS", "CURLY", "PHRASES", "SENTENCES"], start=0)
RAREST = "jqzxkvbpgwyfmculdhrnsioate"                           # English letters, the rarest first
ASCII_LOWER = {code: code + 32 for code in range(65, 91)}


def lines(texts: pa.Array, phrases: Sequence[str] = (), *, universal: bool = True) -> np.ndarray:
    """The table (M, len(Line)) int64 of a large_string array, lines as `splitlines` has them or only at "\\n".

    Phrases are ASCII in lower case, at most 62, and found whatever the case; those of a line are bits of PHRASES.
    """
    if not (loops := kernel("curate/line")):
        found = [row for document, text in enumerate(texts.to_pylist())
                 for row in plain_lines(document, text, phrases, universal)]
        return np.array(found, np.int64).reshape(len(found), len(Line))
    data, offsets = buffers(texts)
    table = np.empty((loops.count_lines(data, offsets, classes(), universal), len(Line)), np.int64)
    joined = np.frombuffer("".join(phrases).encode() or b"\0", np.uint8)
    edges = np.cumsum([0, *map(len, phrases)])
    loops.lines(data, offsets, classes(), universal, joined, edges, by_rarest(tuple(phrases)), table)
    return table


@cache
def by_rarest(phrases: tuple[str, ...]) -> np.ndarray:
    """For each ASCII character the phrases whose rarest letter it is, -1 behind the last: (128, W + 1)."""
    letters = [ord(min(set(phrase) & set(RAREST), key=RAREST.index)) for phrase in phrases]
    table = np.full((128, max(map(letters.count, letters), default=0) + 1), -1)
    for number, letter in enumerate(letters):
        table[letter, np.argmax(table[letter] < 0)] = number
    return table


def gaps(table: np.ndarray, kept: np.ndarray, texts: pa.Array, documents: np.ndarray, *, strip: bool = True) -> Edits:
    """What makes texts of their kept lines, joined by line feeds: `strip` without the white space around each.

    `documents` (N,) says of which texts; those of the others stay as they are.
    """
    data, offsets = buffers(texts)
    bounds = [Line.START, Line.STOP] if strip else [Line.BEGIN, Line.END]
    rows, found = table[kept], []
    places = np.searchsorted(rows[:, Line.DOCUMENT], np.arange(len(texts) + 1))
    for document in np.flatnonzero(documents).tolist():
        text, at = data[offsets[document]:offsets[document + 1]].tobytes(), None
        for start, stop in rows[places[document]:places[document + 1]][:, bounds].tolist():
            if at is None:
                found.append((document, 0, start, ""))
            elif (feed := text.rfind(b"\n", at, start)) < 0:     # another kind of line end
                found.append((document, at, start, "\n"))
            else:
                found += [(document, at, feed, ""), (document, feed + 1, start, "")]
            at = stop
        found.append((document, at or 0, len(text), ""))
    spans = [span for span in found if span[1] < span[2]]
    row, start, stop, text = zip(*spans) if spans else ((), (), (), ())
    return Edits(*(np.array(part, np.int64) for part in (row, start, stop)), list(text))


def content(table: np.ndarray, place: int, texts: pa.Array) -> bytes:
    """A line without the white space around it."""
    document, start, stop = table[place, [Line.DOCUMENT, Line.START, Line.STOP]].tolist()
    data, offsets = buffers(texts)
    return data[offsets[document] + start:offsets[document] + stop].tobytes()


def per_document(table: np.ndarray, values: np.ndarray, documents: int) -> np.ndarray:
    """Sums over the lines of each document, (N,) int64."""
    return np.bincount(table[:, Line.DOCUMENT], weights=values, minlength=documents).astype(np.int64)


# --- the same in plain Python: what the table is -------------------------------------------------------------------

def plain_lines(document: int, text: str, phrases: Sequence[str], universal: bool) -> list[list[int]]:
    """The rows of one text."""
    rows, begin = [], 0
    for whole in text.splitlines(keepends=True) if universal else [part + "\n" for part in text.split("\n")]:
        line = whole.splitlines()[0] if universal else whole[:-1]
        words, lowered, visible = line.split(), line.strip().translate(ASCII_LOWER), line.strip()
        size, left = len(line.encode()), len(line[:len(line) - len(line.lstrip())].encode()) if visible else 0
        lead = next((bool(kind & DIGIT) for kind in kinds(line) if kind & (LETTER | DIGIT)), False)
        rows.append([document, begin, begin + size, begin + left, begin + left + len(visible.encode()), len(line),
                     len(words), max(map(len, words), default=0), sum(map(str.isupper, line)),
                     sum(map(str.isdigit, line)), lead, ord(visible[-1]) if visible else -1,
                     len(visible) - len(visible.rstrip(".")), line.count("{"),
                     sum(1 << number for number, phrase in enumerate(phrases) if phrase in lowered),
                     count_sentences(visible)])
        begin += len(whole.encode())
    return rows


def count_sentences(line: str) -> int:
    """Sentences of a line: words whose last character, closing marks aside, is terminal end one; so does the line."""
    found = [ends(word) for word in line.split()]
    return sum(found) + (bool(found) and not found[-1])


def ends(word: str) -> bool:
    """Whether a word ends a sentence. A full stop does not behind an initial, in "U.S." or beside another."""
    codes, ended, dots = kinds(word), False, 0
    for at, kind in enumerate(codes):
        if not kind & TERMINAL:
            dots, ended = 0, ended and bool(kind & AFTER)
            continue
        dots = dots + 1 if word[at] == "." else 0
        previous, before = (codes[at - 1] if at else 0), (codes[at - 2] if at > 1 else 0)
        if word[at] != ".":
            ended = True
        elif dots > 1:
            ended = False
        elif word[at + 1:at + 2] != ".":
            ended = bool(previous & (LOWER | DIGIT | AFTER) or (previous & LETTER and not previous & UPPER)
                         or (previous & UPPER and before & UPPER))
    return ended


def kinds(text: str) -> list[int]:
    table = classes()
    return [int(table[ord(character)]) for character in text]
