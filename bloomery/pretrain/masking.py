"""Which tokens a masked language model has to guess, and what it reads in their place.

Of the selected tokens 80 % are read as [MASK], 10 % as any other token and 10 % as they are; all of them are predicted
(Devlin et al. 2019, section 3.1).  Two conventions of selection:

    exact       min(most, max(1, round(rate n))) of a text of n tokens, its control tokens counted     BERT
    bernoulli   each token with probability `rate`                                                     Hugging Face

A whole word is selected together or not at all.  Static masks are drawn once for a text, dynamic ones anew whenever it
is read (Liu et al. 2019).  A draw depends on the seed, the text's place and, if dynamic, the step; on nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from bloomery.core.config import Settings
from bloomery.core.errors import ConfigError
from bloomery.text.tokenizer import Tokenizer
from bloomery.text.wordpiece import GOES_ON

BEGINS = ("\u0120", "\u010a", "\u2581")             # the first piece of a word: byte-level BPE, SentencePiece


class MaskingConfig(Settings):
    """What is hidden, and how."""

    rate: float = Field(0.15, gt=0, lt=1, description="share of the tokens that are to be guessed")
    selection: Literal["exact", "bernoulli"] = Field(
        "exact", description="that share of every text, or each token with that probability")
    most: int | None = Field(None, gt=0, description="exact: tokens of one text at most")
    whole_words: bool = Field(False, description="all pieces of a word or none")
    dynamic: bool = Field(True, description="drawn anew whenever a text is read, not once for all epochs")
    masked: float = Field(0.8, ge=0, le=1, description="share of them that is read as [MASK]")
    random: float = Field(0.1, ge=0, le=1, description="share of them that is read as any other token")


def how_many(tokens: int, rate: float = 0.15, most: int | None = None) -> int:
    """Tokens to guess of a text of that many: google-research/bert, `create_pretraining_data.py`."""
    wanted = max(1, round(tokens * rate))
    return wanted if most is None else min(most, wanted)


def selected(order: Sequence[Sequence[int]], count: int) -> list[int]:
    """The places of the first words, in the order given, that together are no more than `count`; each word whole."""
    chosen: list[int] = []
    for word in order:
        if len(chosen) + len(word) <= count:
            chosen += word
        if len(chosen) == count:
            break
    return chosen


def corrupted(ids: np.ndarray, chosen: np.ndarray, draws: np.ndarray, others: np.ndarray, mask: int, *,
              masked: float = 0.8, random: float = 0.1) -> np.ndarray:
    """What is read: of the `chosen` places, each with its draw in [0, 1) and another token, see the top of the file."""
    out, kept = ids.copy(), np.round(masked + random, 12)
    out[chosen] = np.where(draws < masked, mask, np.where(draws < kept, others, ids[chosen]))
    return out


@dataclass(frozen=True)
class Masker:
    """Masks texts of one tokenizer."""

    config: MaskingConfig
    mask: int
    hidden: np.ndarray          # (V,) bool: may be selected
    begins: np.ndarray          # (V,) bool: begins a word
    others: np.ndarray          # ids that may stand in the place of another
    seed: int = 0

    def __call__(self, ids: np.ndarray, place: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """What is read of a text (n,), and which places are to be guessed; none where there is nothing to select."""
        draw = np.random.default_rng([self.seed, place, step + 1 if self.config.dynamic else 0])
        chosen = self.choose(ids, draw)
        others = self.others[draw.integers(0, len(self.others), len(chosen))]
        return corrupted(ids, chosen, draw.random(len(chosen)), others, self.mask, masked=self.config.masked,
                         random=self.config.random), chosen

    def choose(self, ids: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        c, may = self.config, np.flatnonzero(self.hidden[ids])
        if not len(may):
            return may
        begins = self.begins[ids[may]] if c.whole_words else np.ones(len(may), bool)
        begins[0] = True
        begins[1:] |= np.diff(may) > 1                          # a control token ends a word
        first = np.flatnonzero(begins)
        if c.selection == "bernoulli":
            return may[np.repeat(draw.random(len(first)) < c.rate, np.diff(first, append=len(may)))]
        count = how_many(len(ids), c.rate, c.most)
        if not c.whole_words:
            return np.sort(draw.permutation(may)[:count])
        words = np.split(may, first[1:])
        return np.sort(np.array(selected([words[i].tolist() for i in draw.permutation(len(words))], count), np.int64))


def masker(tokenizer: Tokenizer, config: MaskingConfig, *, seed: int, where: str) -> Masker:
    """The tables of a tokenizer; a `ConfigError` where it has no token that hides others."""
    if None in (tokenizer.mask, tokenizer.cls, tokenizer.sep):
        raise ConfigError("this tokenizer is not an encoder's", where=where,
                          why="tokenizer_config.json names no cls_token, sep_token and mask_token",
                          hint="make one with: bloomery tokenizer kind=wordpiece data=DOCUMENTS out=FOLDER")
    if config.masked + config.random > 1 + 1e-9:
        raise ConfigError("shares of what is read instead add up to more than 1", where="masking",
                          why=f"masked {config.masked} and random {config.random}")
    names = [tokenizer.name(i) or "" for i in range(tokenizer.size)]
    plain = np.array([i not in tokenizer.control and i != tokenizer.unknown for i in range(tokenizer.size)])
    pieces = any(name.startswith(GOES_ON) for name in names)
    begins = np.array([not name.startswith(GOES_ON) if pieces else name.startswith(BEGINS) for name in names])
    return Masker(config, tokenizer.mask, plain, begins, np.flatnonzero(plain), seed)
