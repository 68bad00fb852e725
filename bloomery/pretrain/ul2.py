"""UL2: several ways of hiding parts of a text, mixed, each announced by a mode token (Tay et al. 2022, table 1).

    R   short spans, few of them            the span corruption of T5
    X   long spans, or half of the text     extreme: a span of 12 tokens or a share of 30 % at least
    S   the end of the text                 sequential: a prefix language model

The paper writes [R], [X], [S]; the checkpoints that were released have [NLU], [NLG], [S2S] in their place.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bloomery.pretrain.spans import corrupt, noise_mask

LONG, MUCH = 12, 0.3                    # from here on a denoiser is extreme


class Denoiser(NamedTuple):
    """One way: the mean length of a span, None for one span at the end, and the share that is hidden."""

    span: float | None
    density: float

    @property
    def mode(self) -> str:
        if self.span is None:
            return "S"
        return "X" if self.span >= LONG or self.density >= MUCH else "R"


def prefix_split(tokens: Sequence[int], split: int, *, mode: int | None, sentinel: int,
                 end: int | None) -> tuple[list[int], list[int]]:
    """The S-denoiser: what is before `split` is read, the rest is one span to be written."""
    if not 0 < split < len(tokens):
        raise ValueError(f"a text of {len(tokens)} tokens cannot be split at {split}")
    inputs, targets = corrupt(tokens, [place >= split for place in range(len(tokens))], [sentinel], end)
    return ([] if mode is None else [mode]) + inputs, targets


def denoised(tokens: Sequence[int], denoiser: Denoiser, draws: np.random.Generator, *, modes: dict[str, int],
             sentinels: Sequence[int], end: int) -> tuple[list[int], list[int]]:
    """Inputs, the mode first, and targets of a text of two tokens or more."""
    mode = modes.get(denoiser.mode)
    if denoiser.span is None:
        split = min(max(round(len(tokens) * (1 - denoiser.density)), 1), len(tokens) - 1)
        return prefix_split(tokens, split, mode=mode, sentinel=sentinels[0], end=end)
    mask = noise_mask(len(tokens), denoiser.density, denoiser.span, draws)
    inputs, targets = corrupt(tokens, mask, sentinels, end)
    return ([] if mode is None else [mode]) + inputs, targets


def drawn(weights: Sequence[float], draws: np.random.Generator) -> int:
    """Which denoiser comes next. `ValueError` unless weights are 0 or more and not all 0."""
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights must be 0 or more, and not all 0, got {list(weights)}")
    return int(draws.choice(len(weights), p=np.array(weights) / sum(weights)))


MIXTURE = (Denoiser(3, 0.15), Denoiser(8, 0.15), Denoiser(None, 0.25), Denoiser(3, 0.5), Denoiser(8, 0.5),
           Denoiser(64, 0.15), Denoiser(64, 0.5))
MODES = {"R": "[R]", "S": "[S]", "X": "[X]"}
RELEASED = {"R": "[NLU]", "S": "[S2S]", "X": "[NLG]"}
