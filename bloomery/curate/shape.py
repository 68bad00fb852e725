"""A document's shape: what a person sees of a page before reading it, as numbers a classifier can learn from.

How long lines and words are, where lines end, how much repeats, how much is upper case, digits, marks or address, who
speaks.  A linear classifier learns one weight a statistic, though mostly the middle of a range is good and both ends
are bad; so a statistic becomes the part of its range it falls into, `parts` of them with equally many training texts.
"""

import numpy as np

from bloomery.classic.words import FUNCTION_WORDS

FUNCTION = frozenset(FUNCTION_WORDS.split())
SPEAKER, LISTENER = frozenset(["i", "i'm", "i've", "my", "me"]), frozenset(["you", "your", "you're"])
LONG, SHORT = 7, 5                                          # a long word has more letters, a short line fewer words
MARKS = {"question": "?", "exclamation": "!", "comma": ",", "colon": ":", "bar": "|", "full_stop": "."}


def shape(text: str) -> dict[str, float]:
    """Twenty-six statistics, zeros of an empty text; counts are logarithms, the others shares."""
    words, lines = text.lower().split(), [line for line in map(str.strip, text.splitlines()) if line]
    lengths, widths = np.array([len(word) for word in words] or [0]), np.array([len(ln.split()) for ln in lines] or [0])
    of_words, of_lines, of_text = max(len(words), 1), max(len(lines), 1), max(len(text), 1)
    return {
        "characters": float(np.log1p(len(text))), "lines": float(np.log1p(len(lines))),
        "word_length": float(lengths.mean()), "long_words": float((lengths > LONG).mean()),
        "line_words": float(widths.mean()), "middle_line_words": float(np.median(widths)),
        "short_lines": float(((widths > 0) & (widths < SHORT)).mean()), "longest_line": float(np.log1p(widths.max())),
        "ended_lines": sum(line.endswith((".", "!", "?", '"', "”")) for line in lines) / of_lines,
        "ellipsis_lines": sum(line.endswith(("...", "…")) for line in lines) / of_lines,
        "repeated_lines": (len(lines) - len(set(lines))) / of_lines, "distinct_words": len(set(words)) / of_words,
        "function_words": sum(word in FUNCTION for word in words) / of_words,
        "lettered_words": sum(any(map(str.isalpha, word)) for word in words) / of_words,
        "speaker": sum(word in SPEAKER for word in words) / of_words,
        "listener": sum(word in LISTENER for word in words) / of_words,
        "addresses": float(np.log1p(text.count("http") + text.count("www."))),
        "upper_case": sum(map(str.isupper, text)) / of_text, "digits": sum(map(str.isdigit, text)) / of_text,
        "other_scripts": sum(one > "\u024f" for one in text) / of_text,
        **{name: text.count(mark) / of_words for name, mark in MARKS.items()}}


def statistics(texts: list[str]) -> np.ndarray:
    """The statistics of texts, (B, S)."""
    return np.array([list(shape(text).values()) for text in texts], float).reshape(len(texts), len(NAMES))


def cuts(found: np.ndarray, parts: int) -> list[list[float]]:
    """Where each statistic is cut, S ascending lists: equally many texts in each part, as far as they differ."""
    return [np.unique(np.quantile(column, np.arange(1, parts) / parts)).tolist() for column in found.T]


def places(found: np.ndarray, edges: list[list[float]]) -> np.ndarray:
    """Which part each statistic falls into, (B, S) int64, numbered through over all statistics."""
    first = np.cumsum([0, *(len(own) + 1 for own in edges)])[:-1]
    return np.stack([np.searchsorted(own, column, "right") for own, column in zip(edges, found.T, strict=True)],
                    axis=1) + first


NAMES = tuple(shape(""))
