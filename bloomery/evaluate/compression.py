"""What text costs without a network: general compressors and n-grams, in bits a byte or by the word.

Perplexity a word is exp(nats of the text / words in it), whatever the pieces a model reads: words are what stands
between spaces, and a line end is a word of its own, as WikiText counts them (Merity et al. 2016).
"""

import lzma
import re
from collections import defaultdict
from itertools import count

import pyarrow as pa

from bloomery.classic.ngram import Ngram
from bloomery.losses.token import perplexity

UNKNOWN = "<unk>"       # how WikiText writes a rare word


def compressor_bits_per_byte(documents: list[bytes]) -> dict[str, float]:
    """`xz -9` and `zstd -19` of the documents joined by newlines, no training text given."""
    joined = b"\n".join(documents)
    sizes = {"xz": len(lzma.compress(joined, preset=9)),
             "zstd": len(pa.Codec("zstd", compression_level=19).compress(joined, asbytes=True))}
    return {name: 8 * size / len(joined) for name, size in sizes.items()}


def ngram_bits_per_byte(train: list[bytes], held_out: list[bytes], *, order: int = 5) -> float:
    """Interpolated Kneser-Ney of bytes, counted on the text the model was trained on."""
    nats = Ngram(order).fit(train).nats(held_out)
    return nats / 0.6931471805599453 / sum(map(len, held_out))


def words(text: str) -> list[str]:
    return re.findall(r"\S+|\n", text)


def ngram_word_perplexity(train: list[str], held_out: list[str], *, order: int = 5) -> float:
    """Interpolated Kneser-Ney of words over those of the training text; others count as unknown."""
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    counted = [[numbers[word] for word in words(text)] for text in train]
    unknown = numbers[UNKNOWN]
    asked = [[numbers.get(word, unknown) for word in words(text)] for text in held_out]
    return perplexity(Ngram(order, len(numbers)).fit(counted).nats(asked), sum(map(len, asked)))
