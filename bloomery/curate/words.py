"""Where words begin: at white space, or as a tokenizer of English splits what stands between white space.

The second follows the affix rules of spaCy's English (v3.8), by which datatrove counts words: marks before and behind a
word come off, clitics come apart (do | n't, it | 's), hyphens between letters split, addresses stay whole.  Left out
are its lists: emoticons, abbreviations ("Mr." is two words here), contractions without an apostrophe, units.

These functions are plain Python on arrays of code points and their kinds (`characters.py`), and are also compiled as
they stand (`scan_kernel.py`), so that there is one definition; therefore none calls another.
"""

from bloomery.curate.characters import AFTER, BEFORE, DIGIT, LETTER, LOWER, QUOTE, UPPER

PLUS, DOT, HYPHEN, SLASH, PERCENT = map(ord, "+.-/%")


def trim(points, kinds, count, begins):
    """Take marks off both ends of a chunk: what is left is points[a:b]. Where words begin is noted in `begins`."""
    a, b = 0, count
    while a < b:
        if b - a == 2 and points[b - 1] == DOT and kinds[a] & LOWER:                    # "e."
            break
        before = 0
        if kinds[a] & BEFORE or (points[a] == PLUS and not (a + 1 < b and 48 <= points[a + 1] <= 57)):
            before = 1
        elif points[a] == DOT and a + 1 < b and points[a + 1] == DOT:                   # a run of dots is one mark
            while a + before < b and points[a + before] == DOT:
                before += 1
        left, last, behind = a + before, points[b - 1], 0
        if left < b:
            previous, kind = (points[b - 2], kinds[b - 2]) if b - 2 >= left else (0, 0)
            if last == DOT and previous == DOT:
                while b - behind > left and points[b - 1 - behind] == DOT:
                    behind += 1
            elif last == DOT:
                upper = kind & UPPER and b - 3 >= left and kinds[b - 3] & UPPER
                behind = 1 if upper or kind & (LOWER | AFTER | DIGIT) or previous in (PLUS, HYPHEN, PERCENT) else 0
            elif (last == 115 or last == 83) and (previous == 39 or previous == 0x2019):            # 's
                behind = 2
            elif kinds[b - 1] & AFTER or (48 <= previous <= 57 and (last in (PLUS, PERCENT) or kinds[b - 1] & BEFORE)):
                behind = 1
        if not before and not behind:
            break
        a, b = a + before, b - behind
        if a < count:
            begins[a] = True
        if behind:
            begins[b] = True
    return a, b


def divide(points, kinds, a, b, begins):
    """Note where words begin inside points[a:b], which has lost its marks."""
    for i in range(a + 1, b):                                                           # clitics: 'll 've 're 'd 'm n't
        if points[i] == 39 or points[i] == 0x2019:
            rest, first = b - i - 1, points[i + 1] if i + 1 < b else 0
            second = points[i + 2] if i + 2 < b else 0
            if (rest == 1 and first in (100, 109)) or (rest == 2 and ((first == 108 and second == 108)
                                                                      or (first in (118, 114) and second == 101))):
                begins[i] = True
            elif rest == 1 and first == 116 and points[i - 1] == 110 and i - 1 > a:
                begins[i - 1] = True
    i = a
    while i < b:
        point, end = points[i], i + 1
        while end < b and point in (DOT, HYPHEN, 0x2014) and points[end] == point:
            end += 1
        length, cut = end - i, False
        if point == 0x2026 or (point == DOT and length > 1):
            cut = True
        elif i > a and end < b:
            left, right, after = kinds[i - 1], kinds[end], points[end]
            letter, number = left & LETTER, 48 <= points[i - 1] <= 57
            if point in (PLUS, HYPHEN, 42, 94) and length == 1 and number and (48 <= after <= 57 or after == HYPHEN):
                cut = True
            elif point == DOT:
                cut = bool((left & QUOTE or (letter and not left & UPPER))
                           and (right & QUOTE or (right & LETTER and not right & LOWER)))
            elif point == 44:
                cut = bool(letter and right & LETTER)
            elif point in (HYPHEN, 0x2013, 0x2014, 126):
                cut = bool((letter or number) and right & LETTER and length <= 3)
            elif point in (58, 60, 62, 61, SLASH):
                cut = bool((letter or number) and right & LETTER)
        if cut:
            if i > a:
                begins[i] = True
            if end < b:
                begins[end] = True
        i = end


def is_address(points, kinds, a, b):
    """Whether points[a:b] is one: [scheme://][somebody@]labels.toplevel[:port][/path]."""
    i = a
    while i < b and (kinds[i] & (LETTER | DIGIT) or points[i] in (PLUS, HYPHEN, DOT, 95)):
        i += 1
    if i - a >= 2 and i + 2 < b and points[i] == 58 and points[i + 1] == SLASH and points[i + 2] == SLASH:
        a = i + 3
    for i in range(a + 1, b - 1):
        if points[i] == 64:
            a = i + 1
            break
    i, label, dot = a, a, -1
    while i < b and (48 <= points[i] <= 57 or points[i] > 0xA0 or kinds[i] & LETTER or points[i] in (HYPHEN, DOT, 95)):
        if points[i] == DOT:
            if i == label or points[i - 1] == HYPHEN or points[label] == HYPHEN:
                return False
            dot, label = i, i + 1
        i += 1
    if dot < 0 or i - label < 2 or i - label > 63:
        return False
    for at in range(label, i):
        if not kinds[at] & LETTER or kinds[at] & UPPER:
            return False
    if i < b and points[i] == 58:
        i += 1
        while i < b and 48 <= points[i] <= 57:
            i += 1
    return i == b or points[i] in (SLASH, 63, 35)


def english(text: str, classes) -> list[str]:
    """The words of a text without white space: the whole rule, in plain Python."""
    points = [ord(character) for character in text]
    kinds = [int(classes[point]) for point in points]
    begins = [False] * (len(points) + 1)
    a, b = trim(points, kinds, len(points), begins)
    if a < b and not is_address(points, kinds, a, b):
        divide(points, kinds, a, b, begins)
    starts = [0, *(i for i in range(1, len(points)) if begins[i]), len(points)]
    return [text[start:stop] for start, stop in zip(starts, starts[1:])]
