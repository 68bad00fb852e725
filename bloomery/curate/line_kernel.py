"""One scan of the lines of a batch of UTF-8 texts, compiled (numba): see `lines.py`."""

from numba import njit

from bloomery.curate.characters import AFTER, BREAK, DIGIT, LETTER, LOWER, SPACE, TERMINAL, UPPER
from bloomery.curate.lines import Line
from bloomery.curate.scan_kernel import character

DOT = ord(".")


@njit(nogil=True, cache=True)
def count_lines(data, offsets, classes, universal):
    """How many lines there are in all."""
    total = 0
    for d in range(len(offsets) - 1):
        at, line, previous = offsets[d], offsets[d], 0
        while at < offsets[d + 1]:
            point, size, kind = character(data, at, classes)
            if (kind & BREAK) if universal else point == 10:
                total += not (universal and point == 10 and previous == 13)
                line = at + size
            previous = point
            at += size
        total += not universal or at > line
    return total


@njit(nogil=True, cache=True)
def matches(data, at, first, last, phrase):
    """Whether the bytes of a phrase stand at a place of a line, but for the case of ASCII letters."""
    if at < first or at + len(phrase) > last:
        return False
    for i in range(len(phrase)):
        byte = data[at + i]
        if 65 <= byte <= 90:
            byte += 32
        if byte != phrase[i]:
            return False
    return True


@njit(nogil=True, cache=True)
def phrases_in(data, first, last, phrases, edges, rare):
    """The phrases a line holds, as bits: each is looked for where its rarest letter stands, rare (128, W)."""
    found = 0
    for at in range(first, last):
        byte = data[at]
        if 65 <= byte <= 90:
            byte += 32
        if byte >= 128 or rare[byte, 0] < 0:
            continue
        for n in range(rare.shape[1]):
            which = rare[byte, n]
            if which < 0:
                break
            phrase = phrases[edges[which]:edges[which + 1]]
            back = 0
            while phrase[back] != byte:
                back += 1
            if not found >> which & 1 and matches(data, at - back, first, last, phrase):
                found |= 1 << which
    return found


@njit(nogil=True, cache=True)
def sentences(data, first, last, classes):
    """Sentences of a line: what ends with a terminal character, perhaps closing marks, and white space or the line.

    A full stop ends none behind an initial ("J."), in an abbreviation ("U.S.") or beside another ("..."), as in spaCy.
    """
    count, begun, ended, at = 0, False, False, first
    previous, before, dots = 0, 0, 0
    while at < last:
        point, size, kind = character(data, at, classes)
        at += size
        if kind & SPACE:
            if ended:
                count += 1
                begun = ended = False
        elif kind & TERMINAL:
            dots = dots + 1 if point == DOT else 0
            follows = at < last and data[at] == DOT
            if point != DOT:
                ended = True
            elif dots == 1 and not follows:
                initials = previous & UPPER and before & UPPER
                uncased = previous & LETTER and not previous & UPPER
                ended = bool(initials or uncased or previous & (LOWER | DIGIT | AFTER))
            elif dots > 1:
                ended = False
            begun = True
        else:
            begun = True
            if not kind & AFTER:
                ended = False
        if not kind & TERMINAL:
            dots = 0
        before, previous = previous, kind
    return count + begun


@njit(nogil=True, cache=True)
def lines(data, offsets, classes, universal, phrases, edges, rare, table):
    """Fill a table (M, len(Line)) with the lines of all texts."""
    m = 0
    for d in range(len(offsets) - 1):
        at, stop = offsets[d], offsets[d + 1]
        line, previous, running = at, -1, True
        characters, words, longest, word, upper, digits, first, last = 0, 0, 0, 0, 0, 0, -1, at
        open_word, lead, decided, final, dots, curly = False, False, False, -1, 0, 0
        while running:
            running = at < stop
            if running:
                point, size, kind = character(data, at, classes)
            else:
                point, size, kind = 10, 0, SPACE | BREAK
            if (kind & BREAK and universal) or point == 10 or not running:
                if universal and running and point == 10 and previous == 13:
                    line = at + 1
                elif not universal or running or at > line:
                    first = line if first < 0 else first
                    row = table[m]
                    row[Line.DOCUMENT], row[Line.BEGIN], row[Line.END] = d, line - offsets[d], at - offsets[d]
                    row[Line.START], row[Line.STOP] = first - offsets[d], max(last, first) - offsets[d]
                    row[Line.CHARACTERS], row[Line.WORDS], row[Line.LONGEST] = characters, words, longest
                    row[Line.UPPER], row[Line.DIGITS], row[Line.NUMBERED] = upper, digits, lead
                    row[Line.FINAL], row[Line.DOTS], row[Line.CURLY] = final, dots, curly
                    row[Line.PHRASES] = phrases_in(data, first, last, phrases, edges, rare) if words else 0
                    row[Line.SENTENCES] = sentences(data, first, last, classes) if words else 0
                    m += 1
                    line = at + size
                characters, words, longest, word, upper, digits, first, last = 0, 0, 0, 0, 0, 0, -1, at
                open_word, lead, decided, final, dots, curly = False, False, False, -1, 0, 0
            elif kind & SPACE:
                open_word = False
                characters += 1
            else:
                if not open_word:
                    words, word, dots, open_word = words + 1, 0, 0, True
                word, final, dots = word + 1, point, dots + 1 if point == DOT else 0
                curly += point == 123
                longest = max(longest, word)
                characters += 1
                upper += (kind & UPPER) > 0
                digits += (kind & DIGIT) > 0
                if not decided and kind & (LETTER | DIGIT):
                    lead, decided = (kind & DIGIT) > 0, True
                first = at if first < 0 else first
                last = at + size
            previous = point
            at += size
