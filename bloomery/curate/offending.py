"""Where in a text the trouble lies: for each rule that points at places, what a person should look at.

A rule is a number over the whole text; its places are what that number counts: repeated lines, symbols, lines that do
not end.  They are for the eye and never decide anything: words end at white space, whatever a step's `words` or
`counting` say.  Rules about the whole (too short, no stop-word) have none.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from bloomery.curate.characters import TERMINAL, classes
from bloomery.curate.heuristics import HEADER, MARKER
from bloomery.curate.scan import SHORT

LOOKED = 50_000                 # characters of a text that are looked at
MOST = 200                      # places of one text
Span = tuple[int, int]
WORD, LINE, PARAGRAPH = re.compile(r"\S+"), re.compile(r"[^\n]+"), re.compile(r"\S.*?(?=\n{2,}|\Z)", re.DOTALL)


def offending(rule: str, text: str) -> list[Span]:
    """Spans of characters, ascending and apart, that a rule ("word_count", "gopher.symbol_ratio") holds against a text.
    """
    find = PLACES.get(rule.rpartition(".")[2])
    return list(islice(find(text[:LOOKED]), MOST)) if find else []


def matches(pattern: re.Pattern, text: str) -> Iterator[Span]:
    return (found.span() for found in pattern.finditer(text) if found.end() > found.start())


def again(pattern: re.Pattern, text: str) -> Iterator[Span]:
    """Pieces that stood before."""
    seen: set[str] = set()
    for start, stop in matches(pattern, text):
        piece = text[start:stop].strip()
        if piece in seen:
            yield start, stop
        elif piece:
            seen.add(piece)


def recurring(n: int, text: str) -> Iterator[Span]:
    """Runs of n words that stood before, from left to right: behind one the search goes on."""
    words, seen, i = [found.span() for found in WORD.finditer(text)], set(), 0
    while i + n <= len(words):
        gram = tuple(text[start:stop] for start, stop in words[i:i + n])
        if gram in seen:
            yield words[i][0], words[i + n - 1][1]
        i += n if gram in seen else 1
        seen.add(gram)


def top(n: int, text: str) -> Iterator[Span]:
    """Every place of the most frequent run of n words."""
    words = [found.span() for found in WORD.finditer(text)]
    grams = list(zip(*([text[start:stop] for start, stop in words[i:]] for i in range(n))))
    (most, count), = Counter(grams).most_common(1) or [((), 0)]
    behind = 0
    for i, gram in enumerate(grams if count > 1 else ()):
        if gram == most and words[i][0] >= behind:
            behind = words[i + n - 1][1]
            yield words[i][0], behind


def unlettered(text: str) -> Iterator[Span]:
    """Words without a letter."""
    return ((start, stop) for start, stop in matches(WORD, text) if not any(map(str.isalpha, text[start:stop])))


def unended(text: str) -> Iterator[Span]:
    """The last words of lines that do not end a sentence."""
    for start, stop in matches(LINE, text):
        line = text[start:stop].rstrip()
        if line and not classes()[ord(line[-1])] & TERMINAL:
            yield start + len(line) - len(line.split()[-1]), start + len(line)


def short(text: str) -> Iterator[Span]:
    """Lines too short to be sentences."""
    return ((start, stop) for start, stop in matches(LINE, text) if stop - start <= SHORT)


def feeds(text: str) -> Iterator[Span]:
    """Lines of less than four words, which is what many line feeds a word come from."""
    return ((start, stop) for start, stop in matches(LINE, text) if len(text[start:stop].split()) < 4)


def signed(text: str) -> Iterator[Span]:
    """What a program signed its output with."""
    return matches(MARKER, text[:HEADER])


def parts(pattern: str) -> Callable[[str], Iterator[Span]]:
    return partial(matches, re.compile(pattern, re.IGNORECASE | re.MULTILINE))


PLACES: dict[str, Callable[[str], Iterator[Span]]] = {
    "symbol_ratio": parts(r"#|…|\.{3,}"),
    "bullet_lines": parts(r"^[ \t]*[•‣*-]"),
    "ellipsis_lines": parts(r"(?:…|\.{3,})[ \t]*$"),
    "alphabetic_words": unlettered,
    "digit_ratio": parts(r"\d+"),
    "generated_marker": signed,
    "duplicate_lines": partial(again, LINE), "duplicate_line_characters": partial(again, LINE),
    "duplicate_characters": partial(again, LINE),
    "duplicate_paragraphs": partial(again, PARAGRAPH), "duplicate_paragraph_characters": partial(again, PARAGRAPH),
    **{f"top_{n}_gram": partial(top, n) for n in range(2, 5)},
    **{f"duplicate_{n}_gram": partial(recurring, n) for n in range(5, 11)},
    "curly_bracket": parts(r"[{}]"), "lorem_ipsum": parts("lorem ipsum"),
    "ended_lines": unended, "short_lines": short, "newlines_a_word": feeds,
}
