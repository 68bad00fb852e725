"""Span corruption: spans of a text are cut out, a sentinel in the place of each, and are what is to be written.

    Thank you for inviting me to your party last week .
    Thank you <X> me to your party <Y> week .    ->    <X> for inviting <Y> last <Z>     Raffel et al. 2020, figure 2

The share of tokens cut out and the mean length of a span fix how many spans there are; where they are is drawn.  What
counts is as in T5's own code, of which this restates `random_spans_noise_mask` and `random_spans_helper`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np

T = TypeVar("T")

SENTINELS = 100         # of T5


def noise_counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """Tokens that are cut out of `length`, and in how many spans. Halves are rounded to even, the share in fp32."""
    if not 0 < density < 1 or mean_span < 1:
        raise ValueError(f"density must be in (0, 1) and mean_span at least 1, got {density} and {mean_span}")
    length = max(length, 2)
    noise = min(max(int(np.round(np.float32(length) * np.float32(density))), 1), length - 1)
    spans = max(int(np.round(np.float32(noise) / np.float32(mean_span))), 1)
    return noise, min(spans, length - noise)                    # every span has something before it


def raw_length(inputs: int, density: float, mean_span: float, *, extra_inputs: int = 1,
               extra_targets: int = 1) -> tuple[int, int]:
    """How many tokens of text make inputs of at most `inputs` tokens, sentinels and end included, and the length of
    their targets.

    At a density of a half, targets that would be one token longer than inputs are made as long.
    """
    def lengths(tokens: int) -> tuple[int, int]:
        noise = round(tokens * density)
        spans = round(noise / mean_span)
        return tokens - noise + spans * extra_inputs + 1, noise + spans * extra_targets + 1

    tokens = inputs
    while lengths(tokens + 1)[0] <= inputs:
        tokens += 1
    made, targets = lengths(tokens)
    if made > inputs:
        raise ValueError(f"no text is short enough for inputs of {inputs} tokens")
    return (tokens - 1, targets - 1) if density == 0.5 and targets > made else (tokens, targets)


def noise_mask(length: int, density: float, mean_span: float, draws: np.random.Generator) -> np.ndarray:
    """Which tokens are cut out, (length,) bool: kept and cut out spans in turn, a kept one first, lengths drawn."""
    noise, spans = noise_counts(length, density, mean_span)
    kept, cut = (parted(count, spans, draws) for count in (max(length, 2) - noise, noise))
    lengths = np.stack([kept, cut], 1).flatten()
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)[:length]


def parted(count: int, parts: int, draws: np.random.Generator) -> np.ndarray:
    """`count` split at random into `parts` lengths of at least one, every split as likely."""
    bounds = np.sort(draws.choice(count - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], bounds, [count]]))


def corrupt(tokens: Sequence[T], mask: Sequence[bool], sentinels: Sequence[T],
               end: T | None = None) -> tuple[list[T], list[T]]:
    """Inputs and targets of a text whose tokens are cut out where `mask` is true, each with its `end`, if any.

    Sentinel i stands for span i in the inputs and before it in the targets; one more closes the targets of a text that
    goes on after its last span.  Raises `ValueError` for more spans than sentinels.
    """
    if len(tokens) != len(mask):
        raise ValueError(f"{len(tokens)} tokens and a mask of {len(mask)}")
    inputs: list[T] = []
    targets: list[T] = []
    bounds = [0, *(i for i in range(1, len(mask)) if bool(mask[i]) != bool(mask[i - 1])), len(mask)]
    spans = [(first, last) for first, last in pairwise(bounds) if first < last]
    cut = [bool(mask[first]) for first, _ in spans]
    needed = sum(cut) + (bool(spans) and not cut[-1])
    if needed > len(sentinels):
        raise ValueError(f"{needed} sentinels are needed, there are {len(sentinels)}")
    marks = iter(sentinels)
    for (first, last), gone in zip(spans, cut, strict=True):
        if gone:
            mark = next(marks)
            inputs.append(mark)
            targets += [mark, *tokens[first:last]]
        else:
            inputs += tokens[first:last]
    if spans and not cut[-1]:
        targets.append(next(marks))
    ends = [] if end is None else [end]
    return inputs + ends, targets + ends
