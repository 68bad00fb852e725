"""How one or two texts stand before a model that is to judge them.

    encoder     [CLS] A [SEP] B [SEP], types 0 up to the first [SEP] and 1 behind it     Devlin et al. 2019
    decoder     begin A newline B end: it is read at its last token                      Radford et al. 2018, sec. 3.3

The end is a token of its own where the tokenizer has one that does not fill up rows too: whoever pads rows would not
find it.  What is too long loses tokens of its longer part, one at a time, at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bloomery.core.errors import InputError
from bloomery.text.tokenizer import Tokenizer

Ids = Sequence[int]


def framed(a: Ids, b: Ids, cls: int, sep: int) -> tuple[list[int], list[int]]:
    """ids and types of [CLS] A [SEP] B [SEP]; without a second text [CLS] A [SEP]."""
    ids = [cls, *a, sep, *b, sep] if len(b) else [cls, *a, sep]
    return ids, [0] * (len(a) + 2) + [1] * (len(ids) - len(a) - 2)


@dataclass(frozen=True)
class Frame:
    """Frames texts for one model."""

    tokenizer: Tokenizer
    causal: bool
    pad: int | None                 # what fills up rows elsewhere
    begin: tuple[int, ...]
    between: tuple[int, ...]        # the second text's separator
    end: tuple[int, ...]

    def __call__(self, a: Ids, b: Ids = ()) -> tuple[list[int], list[int]]:
        """ids and types."""
        if not self.causal:
            return framed(a, b, *self.begin, *self.end)
        ids = [*self.begin, *a, *(self.between if len(b) else ()), *b, *self.end]
        return ids, [0] * len(ids)

    def room(self, context: int, parts: int = 1) -> int:
        """Tokens that are left for the texts."""
        return context - len(self.begin) - len(self.end) - (len(self.between) if parts > 1 else 0)

    def fitted(self, context: int, a: list[int], b: list[int]) -> tuple[list[int], list[int], int]:
        """Two texts, of which the second may be empty, as long as they may be, and how many tokens were left out."""
        room = self.room(context, 1 + bool(b))
        over = max(0, len(a) + len(b) - room)
        from_a = min(over, max(0, len(a) - len(b)))             # down to equal lengths, then from both in turn
        from_b = min(over, max(0, len(b) - len(a)))
        rest = over - from_a - from_b
        return a[:len(a) - from_a - (rest + 1) // 2], b[:len(b) - from_b - rest // 2], over


def frame_of(tokenizer: Tokenizer, *, causal: bool, where: str) -> Frame:
    """How this tokenizer frames texts; `InputError` where an encoder's has no [CLS] and [SEP]."""
    if not causal:
        if tokenizer.cls is None or tokenizer.sep is None:
            raise InputError("this tokenizer is not an encoder's", where=where,
                             why="tokenizer_config.json names no cls_token and sep_token",
                             hint="give the folder of an encoder with its tokenizer")
        return Frame(tokenizer, causal, tokenizer.pad, (tokenizer.cls,), (tokenizer.sep,), (tokenizer.sep,))
    pad = tokenizer.eos
    end = () if tokenizer.turn_end == pad else (tokenizer.turn_end,)
    begin = () if tokenizer.begin == pad and not end else (tokenizer.begin,)
    return Frame(tokenizer, causal, pad, begin, tuple(tokenizer.encode("\n")), end)
