"""Next sentence prediction: does the second part follow the first? Half the time it is from another document.

    [CLS] A [SEP] B [SEP], types 0 and 1; label 0: B follows A, 1: it does not          Devlin et al. 2019, section 3.1

A part is any stretch of tokens: token files know documents and not sentences, which BERT's own parts are made of.
"""

from collections.abc import Callable, Sequence

import numpy as np

FOLLOWS, ELSEWHERE = 0, 1
Draw = np.random.Generator


def truncated(a: Sequence[int], b: Sequence[int], room: int, draw: Draw) -> tuple[list[int], list[int]]:
    """Two parts of at most `room` tokens together: the longer loses a token, front or back, until they fit."""
    parts = list(a), list(b)
    while sum(map(len, parts)) > room:
        longer = max(parts, key=len)
        longer.pop(0 if draw.random() < 0.5 else -1)
    return parts


def pair(text: np.ndarray, other: Callable[[Draw], np.ndarray], room: int, draw: Draw) -> tuple[list, list, int]:
    """A, B and the label: a text cut in two, or its first part with part of what `other` draws from elsewhere."""
    cut = int(draw.integers(1, len(text)))
    if draw.random() < 0.5:
        return *truncated(text[:cut], text[cut:], room, draw), FOLLOWS
    found = other(draw)
    start = int(draw.integers(0, max(1, len(found) - (len(text) - cut))))
    return *truncated(text[:cut], found[start:start + room - cut], room, draw), ELSEWHERE


def elsewhere(count: int, own: int, draw: Draw) -> int:
    """A document that is not `own`, of `count`; `ValueError` where there is no other."""
    if count < 2:
        raise ValueError(f"next sentences from other documents need two documents at least, got {count}")
    while (found := int(draw.integers(0, count))) == own:
        continue
    return found


