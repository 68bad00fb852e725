"""Words as numbers and back, with the three symbols that open, close and replace.

0 is `<unk>`, any word not known; 1 is `<s>`, which opens a sentence and is never predicted; 2 is `</s>`, which is.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, count, repeat

import numpy as np

UNKNOWN, START, END = 0, 1, 2
SPECIAL = ("<unk>", "<s>", "</s>")


class Lexicon:
    """`words[number]`, and `ids` of sentences of words."""

    def __init__(self, words: Iterable[str]):
        self.words = [*SPECIAL, *(word for word in words if word not in SPECIAL)]
        self.numbers = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def counted(cls, sentences: Iterable[Sequence[str]]) -> tuple["Lexicon", list[np.ndarray]]:
        """The words of sentences in the order they come, and the sentences as numbers between `<s>` and `</s>`."""
        numbers: defaultdict[str, int] = defaultdict(count().__next__)
        special = [numbers[word] for word in SPECIAL]
        ids = [np.fromiter(chain(special[1:2], map(numbers.__getitem__, sentence), special[2:]), np.int32,
                           len(sentence) + 2) for sentence in sentences]
        return cls(numbers), ids

    def __len__(self) -> int:
        return len(self.words)

    @property
    def predictable(self) -> int:
        """How many symbols can come next: all but `<s>`."""
        return len(self.words) - 1

    def ids(self, sentence: Sequence[str]) -> np.ndarray:
        """One sentence as numbers between `<s>` and `</s>`."""
        inner = map(self.numbers.get, sentence, repeat(UNKNOWN))
        return np.fromiter(chain((START,), inner, (END,)), np.int32, len(sentence) + 2)

    def sentence(self, ids: Iterable[int]) -> list[str]:
        """Words of numbers, without what opens and closes."""
        return [self.words[number] for number in ids if number not in (START, END)]
