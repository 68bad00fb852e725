"""MinHash: what a text becomes before it is compared with others, a row of P numbers.

A text is simplified (lower case, numbers to 0, punctuation to spaces, marks off letters: FineWeb's way) and cut into
shingles, k words or characters or tokens in a row.  The minimum of a random permutation over two sets is the same with
probability J = |A and B| / |A or B| (Broder 1997), so P permutations estimate J with a standard error of
sqrt(J (1 - J) / P).  A permutation is (a x + b) mod 2^64, of which the upper 32 bits are kept (Dietzfelbinger et al.
1997); `modular` is the textbook's, for those who must have it.
"""

import unicodedata
from functools import cache

import numpy as np
import pyarrow as pa

from bloomery.core.kernels import needed
from bloomery.curate.scan import buffers
from bloomery.text.tokenizer import Tokenizer

POINTS = ".,\u060c\u066b\u2396\u2397\u2398"     # decimal marks of the world
WITHOUT_SPACES = ((0xE00, 0xFFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF),
                  (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))   # Thai to ideographs
HIGHEST, LAST = 0x20000, 0xE0000            # from here on ideographs; from here on nothing a word is made of


def units_of(column: pa.Array, unit: str, tokenizer: Tokenizer | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of what shingles are made of, text after text, and where each text begins, (N+1,)."""
    if tokenizer is not None:
        ids = tokenizer.encode_batch(column.to_pylist())
        flat = np.fromiter((one for text in ids for one in text), np.uint64, sum(map(len, ids)))
        return mixed(flat), np.cumsum([0, *map(len, ids)])
    data, offsets = buffers(column)
    size = int(offsets[-1] - offsets[0])
    out = np.empty(size if unit == "character" else size // 2 + len(column), np.uint64)
    starts = np.zeros(len(column) + 1, np.int64)
    count = needed("curate/minhash").units(data, offsets, folding(), unit == "character", out, starts)
    return out[:count], starts


@cache
def folding() -> np.ndarray:
    """(0x110000,) what each code point is to a shingle: a break, a digit, nothing, or the letter it is folded to.

    Letters that come apart into several (Korean syllables) stay whole.  Where words have no spaces between them, each
    character is a word.
    """
    loops = needed("curate/minhash")
    table = np.arange(0x110000, dtype=np.int32)
    for code in range(HIGHEST):
        character = chr(code)
        kind = unicodedata.category(character)
        lower = character.lower()
        letters = [c for c in unicodedata.normalize("NFD", lower) if unicodedata.category(c) != "Mn"]
        table[code] = loops.POINT if character in POINTS else loops.DIGIT if kind == "Nd" else \
            loops.SKIP if kind == "Cf" or not letters else loops.BREAK if kind[0] in "CPSZ" else \
            ord(letters[0]) if len(letters) == 1 else ord(lower[0])
    for first, last in WITHOUT_SPACES:
        part = table[first:last + 1]
        part[part > loops.SKIP] |= loops.ALONE
    table[LAST:] = loops.SKIP
    return table


def permutations(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(P,) a, odd, and b of (a x + b) mod 2^64: the first of a counter's hashes, so that more extend fewer."""
    drawn = mixed(np.arange(2 * count, dtype=np.uint64) + mixed(np.array([seed], np.uint64)))
    return drawn[::2] | np.uint64(1), drawn[1::2]


def mixed(x: np.ndarray) -> np.ndarray:
    """splitmix64 of many numbers (Steele, Lea & Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def signatures(units: np.ndarray, starts: np.ndarray, k: int,
               drawn: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(N, P) uint32 signatures of texts' shingles, and (N,) a hash of what each text says."""
    out, key = np.empty((len(starts) - 1, len(drawn[0])), np.uint32), np.empty(len(starts) - 1, np.uint64)
    needed("curate/minhash").signatures(units, starts, k, *drawn, out, key)
    return out, key


def modular(values: np.ndarray, a: np.ndarray, b: np.ndarray, prime: int) -> np.ndarray:
    """(P,) min of (a x + b) mod p over a set, in whole numbers of any size: Carter & Wegman 1979, the textbook's way.

    In 64 bits a x overflows from p = 2^32 on, and what is left is no permutation.
    """
    times, plus = (np.asarray(each, dtype=object)[:, None] for each in (a, b))
    return ((times * np.asarray(values, dtype=object) + plus) % prime).min(axis=1)
