"""One scan of a batch of UTF-8 texts, compiled (numba; imported by name where it is there): see `scan.py`.

Kernels read Arrow's buffers where they lie and release the interpreter's lock, so that threads run side by side.
"""

import numpy as np
from numba import njit

from bloomery.curate import words
from bloomery.curate.characters import BREAK, COUNTED, LETTER, MARK, SPACE, SYMBOL, TERMINAL
from bloomery.curate.scan import BULLETS, HISTOGRAM, Count

PRIME, SEED, HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93), np.uint64(32)
MARKERS = tuple(map(ord, BULLETS))
END = -1                                                        # stands behind the last character

trim, divide, is_address = (njit(nogil=True, cache=True)(rule) for rule in (words.trim, words.divide, words.is_address))


@njit(nogil=True, cache=True)
def digest(data, start, stop):
    """64 bits of the bytes from start to stop, eight at a time; `scan.digest` is the same."""
    state = (np.uint64(stop - start) ^ SEED) * PRIME
    at = start
    while at + 8 <= stop:
        word = np.uint64(0)
        for i in range(8):
            word |= np.uint64(data[at + i]) << np.uint64(8 * i)
        state = (state ^ word) * PRIME
        state ^= state >> HALF
        at += 8
    word = np.uint64(0)
    for i in range(stop - at):
        word |= np.uint64(data[at + i]) << np.uint64(8 * i)
    state = (state ^ word) * PRIME
    return state ^ (state >> HALF)


@njit(inline="always")
def character(data, at, classes):
    """The code point that begins at a byte, how many bytes it has, and its kinds."""
    point, size = np.int64(data[at]), 1
    if point >= 128:
        point, size = (point & 0x07, 4) if point >= 0xF0 else (point & 0x0F, 3) if point >= 0xE0 else (point & 0x1F, 2)
        for i in range(1, size):
            point = (point << 6) | (np.int64(data[at + i]) & 0x3F)
    return point, size, np.int64(classes[point])


@njit(nogil=True, cache=True)
def count_word(out, histogram, found_words, place, value, length, every, some, stops):
    """Note a word: every and some are what all and any of its characters are; the stop-words it is, as a bit."""
    found_words[0][place], found_words[1][place], found_words[2][place] = value, length, True
    out[Count.WORDS] += 1
    out[Count.WORD_CHARACTERS] += length
    out[Count.LONGEST_WORD] = max(out[Count.LONGEST_WORD], length)
    histogram[min(length, HISTOGRAM - 1)] += 1
    if not every & SYMBOL:
        out[Count.SOLID_WORDS] += 1
        out[Count.SOLID_CHARACTERS] += length
    if some & LETTER:
        out[Count.LETTER_WORDS] += 1
    if some & MARK:
        out[Count.MARKED_WORDS] += 1
    for i in range(len(stops)):
        if stops[i] == value:
            out[Count.STOP_OCCURRENCES] += 1
            return 1 << i
    return 0


@njit(nogil=True, cache=True)
def count_split(data, out, histogram, found_words, place, points, kinds, places, begins, length, stops):
    """Note the words of English in a chunk without white space; the place of the next, and the stop-words as bits."""
    begins[:length + 1] = False
    a, b = trim(points, kinds, length, begins)
    if a < b and not is_address(points, kinds, a, b):
        divide(points, kinds, a, b, begins)
    first, found = 0, 0
    for i in range(1, length + 1):
        if i == length or begins[i]:
            every, some = kinds[first], 0
            for j in range(first, i):
                every &= kinds[j]
                some |= kinds[j]
            value = digest(data, places[first], places[i])
            found |= count_word(out, histogram, found_words, place, value, i - first, every, some, stops)
            place, first = place + 1, i
    return place, found


@njit(nogil=True, cache=True)
def count_line(out, first, final, tail):
    """Note a line by its first and last visible character, if it has one, and the full stops it ends with."""
    out[Count.LINES] += 1
    if first != END:
        out[Count.FILLED_LINES] += 1
        out[Count.ELLIPSIS_LINES] += (tail >= 3) | (final == 0x2026)
        for i in range(len(MARKERS)):
            out[Count.DOT_LINES + i] += first == MARKERS[i]


@njit(nogil=True, cache=True)
def count_row(out, length, is_filled, final_kind, short):
    """Note a row that has anything but white space."""
    if is_filled:
        out[Count.FILLED_ROWS] += 1
        out[Count.ENDED_ROWS] += (final_kind & TERMINAL) > 0
        out[Count.SHORT_ROWS] += length <= short


@njit(nogil=True, cache=True)
def bits(flags):
    """How many bits are set."""
    count = 0
    while flags:
        count += flags & 1
        flags >>= 1
    return count


@njit(nogil=True, cache=True)
def median(histogram, count):
    """The middle of the lengths counted, or the mean of the two in the middle; the histogram is cleared."""
    low, high, seen = 0, 0, 0
    if not count:
        return 0.0
    for length in range(HISTOGRAM):
        if seen <= (count - 1) // 2:
            low = length
        if seen <= count // 2:
            high = length
        seen += histogram[length]
        histogram[length] = 0
    return (low + high) / 2


@njit(inline="always")
def read_word(data, at, stop, classes, point, size, kind, english, points, kinds, places):
    """From the first character of a word to its end; characters are kept where they may be split as English.

    Returns where it ends, how many characters it has, what all and any of them are, the last one and what that is,
    how many full stops it ends with, and what is counted in it.  Written into `scan_document` by numba: as a function
    of its own that begins with the first character again, it took the scan from 155 MB/s to 70.
    """
    length, every, some, run, ellipses, digits, hashes = 0, kind, 0, 0, 0, 0, 0
    while True:
        if english:
            points[length], kinds[length], places[length] = point, kind, at
        length += 1
        every &= kind
        some |= kind
        if kind & COUNTED:
            run = run + 1 if point == 46 else 0
            ellipses += (point == 0x2026) | ((run > 0) & (run % 3 == 0))
            digits += (point >= 48) & (point <= 57)
            hashes += point == 35
        else:
            run = 0
        final, final_kind = point, kind
        at += size
        if at == stop:
            break
        point, size, kind = character(data, at, classes)
        if kind & SPACE:
            break
    return at, length, every, some, final, final_kind, run, (ellipses, digits, hashes)


@njit(inline="always")
def count_words(data, begin, at, length, every, some, english, stops, out, histogram, found_words, place, chunk):
    """Note the word that was read, or those that English has in it; the place of the next, and stop-words as bits."""
    points, kinds, places, begins = chunk
    if not english or every & LETTER:
        value = digest(data, begin, at)
        return place + 1, count_word(out, histogram, found_words, place, value, length, every, some, stops)
    places[length] = at
    return count_split(data, out, histogram, found_words, place, points, kinds, places, begins, length, stops)


@njit(nogil=True, cache=True)
def count_text(out, histogram, characters, visible, found, ellipses, digits, hashes):
    """Note what was counted on the way, and what follows from it."""
    out[Count.CHARACTERS], out[Count.VISIBLE], out[Count.STOP_WORDS] = characters, visible, bits(found)
    out[Count.ELLIPSES], out[Count.DIGITS], out[Count.HASHES] = ellipses, digits, hashes
    out[Count.MEDIAN_WORD] = median(histogram, int(out[Count.WORDS]))


@njit(nogil=True, cache=True)
def note(data, pieces, place, start, stop, length, is_filled):
    """Note a row or a part; the place of the next."""
    pieces[0][place], pieces[1][place], pieces[2][place] = digest(data, start, stop), length, is_filled
    return place + 1


@njit(nogil=True, cache=True)
def scan_document(data, start, stop, classes, english, stops, short, out, histogram, word, rows, parts, w, r, p, chunk):
    """Count one document in a row of the table and note its words, rows and parts from places w, r and p on.

    Words are read whole; between them stand white space and the ends of lines, rows and parts.  A part ends at a blank
    line, and the last with the text, stripped: so what would follow the last visible character is taken back.
    """
    points, kinds, places, _ = chunk
    characters, visible, found, at, previous, previous_kind = 0, 0, 0, start, END, 0
    ellipses, digits, hashes = 0, 0, 0
    line, first, tail, final = start, END, 0, END
    row, row_at, row_visible = start, 0, False
    part, part_at, part_visible, feeds, seen = -1, 0, False, 0, False
    last_part, last_start, last_at, shown, shown_at = -1, 0, 0, start, 0
    while at <= stop:
        if at == stop:
            point, size, kind = END, 1, SPACE | BREAK
        else:
            point, size, kind = character(data, at, classes)
        if not kind & SPACE:                                                            # a word
            if first == END:
                first = point
            if part < 0:
                part, part_at, part_visible = at, characters, False
            row_visible, part_visible, seen, feeds = True, True, True, 0
            begin = at
            at, length, every, some, final, previous_kind, tail, marks = read_word(
                data, at, stop, classes, point, size, kind, english, points, kinds, places)
            ellipses, digits, hashes = ellipses + marks[0], digits + marks[1], hashes + marks[2]
            characters, visible, previous = characters + length, visible + length, final
            shown, shown_at = at, characters
            w, met = count_words(data, begin, at, length, every, some, english, stops, out, histogram, word, w, chunk)
            found |= met
            continue
        if kind & BREAK:
            if (point != 10 or previous != 13) and (point != END or at > line):         # a line, as splitlines has it
                count_line(out, first, final, tail)
            line, first, tail, final = at + size, END, 0, END
        if point == 10 or point == END:
            if at > row:
                count_row(out, characters - row_at, row_visible, previous_kind, short)
                r = note(data, rows, r, row, at, characters - row_at, row_visible)
            row, row_at, row_visible = at + size, characters + 1, False
            out[Count.NEWLINES] += point == 10
            feeds += 1
            if part >= 0 and feeds == 2 and point == 10:
                if part_visible:
                    last_part, last_start, last_at = p, part, part_at
                p = note(data, parts, p, part, at - 1, characters - 1 - part_at, part_visible)
                part = -1
        else:
            feeds = 0
            if seen and part < 0:
                part, part_at, part_visible = at, characters, False
        characters += point != END
        previous, previous_kind = point, kind
        at += size
    if part >= 0 and part_visible:
        last_part, last_start, last_at = p, part, part_at
    count_text(out, histogram, characters, visible, found, ellipses, digits, hashes)
    return w, r, last_part, last_start, shown, shown_at - last_at


@njit(nogil=True, cache=True)
def scan(data, offsets, classes, english, stops, short, table, words, rows, parts):
    """Fill a table (N, len(Count)) and the `Pieces` of all documents: words, rows and parts."""
    w, r, p, longest = 0, 0, 0, 0
    for d in range(len(offsets) - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    room = longest + 1 if english else 1
    chunk = (np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int64),
             np.zeros(room + 1, np.bool_))
    histogram = np.zeros(HISTOGRAM, np.int64)
    for d in range(len(offsets) - 1):
        w, r, last, start, stop, length = scan_document(
            data, offsets[d], offsets[d + 1], classes, english, stops, short, table[d], histogram,
            words, rows, parts, w, r, p, chunk)
        if last >= 0:
            p = note(data, parts, last, start, stop, length, True)
        words[3][d + 1], rows[3][d + 1], parts[3][d + 1] = w, r, p
