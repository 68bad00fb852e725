"""Byte-pair merges learned from word counts: the commonest pair of neighbours becomes one symbol, again and again.

Sennrich et al. 2016, algorithm 1, on bytes.  Counts are 64-bit (a corpus of a terabyte has pairs that 32 bits cannot
count) and come from a stream: the distinct words of a corpus are few, and where they are not, sorted runs of them go to
disk and come back merged, so that memory is bounded by `most` words whatever the corpus.  Of pairs that are equally
common the lesser in bytes is merged first, so the merges are a function of the counts alone.

What makes a word is GPT-2's pattern (Radford et al. 2019).  A text is first cut at white space, which is fast, and only
distinct pieces see the pattern.  With numba the loop is compiled (`bpe_kernel.py`); what stands here defines it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge, nlargest
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from bloomery.core.errors import InputError
from bloomery.core.kernels import kernel
from bloomery.text.encode import BYTES, LETTERS
from bloomery.text.tokenizer import CONTROL, SMALLEST, Tokenizer

SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"          # Unicode's White_Space
PIECE = re.compile(rf" ?[^{SPACE}]+|[{SPACE}]+(?![^{SPACE}])|[{SPACE}]+")
MOST = 1 << 21                          # distinct words held at once, about 300 MB of them

Pair = tuple[bytes, bytes]


def bpe(texts: Iterable[str], *, vocabulary: int, reserved: Sequence[str] = ()) -> Tokenizer:
    """Byte-level BPE with `vocabulary` ids: control tokens and reserved ones, the bytes, then what merges make."""
    names = [*CONTROL, *reserved]
    if vocabulary < SMALLEST + len(reserved):
        raise InputError(f"a vocabulary of {vocabulary} is too small",
                         why=f"256 bytes and {len(names)} control tokens need {256 + len(names)}")
    pairs = [tuple("".join(map(LETTERS.__getitem__, part)) for part in pair)
             for pair in learn(word_counts(texts), vocabulary - 256 - len(names))]
    pieces = dict.fromkeys([*names, *sorted(LETTERS.values()), *map("".join, pairs)])
    backend = Backend(models.BPE({piece: i for i, piece in enumerate(pieces)}, pairs))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(names)
    return Tokenizer(backend)


def word_counts(texts: Iterable[str], *, most: int = MOST) -> dict[bytes, int]:
    """How often each word of the texts occurs; of more than `most` words the commonest, ties by bytes."""
    pieces: Counter[str] = Counter()
    with TemporaryDirectory(prefix="bloomery-words-") as folder:
        runs: list[Path] = []
        for text in texts:
            pieces.update(PIECE.findall(text))
            if len(pieces) > most:
                runs.append(spilled(split(pieces), Path(folder) / f"{len(runs):06}"))
                pieces.clear()
        if not runs:
            words = split(pieces)
            return dict(sorted(words.items())) if len(words) <= most else commonest(words.items(), most)
        runs.append(spilled(split(pieces), Path(folder) / f"{len(runs):06}"))
        read = merge(*map(spelled, runs), key=itemgetter(0))
        return commonest(((word, sum(count for _, count in same)) for word, same in groupby(read, itemgetter(0))), most)


def split(pieces: Counter[str]) -> Counter[bytes]:
    """The words of pieces between white space, as bytes."""
    splitter, found = pre_tokenizers.ByteLevel(add_prefix_space=False), Counter()
    for piece, count in pieces.items():
        for word, _ in splitter.pre_tokenize_str(piece):
            found[bytes(map(BYTES.__getitem__, word))] += count
    return found


def spilled(words: Counter[bytes], path: Path) -> Path:
    """The words in order, one a line; hexadecimal digits sort as bytes do."""
    path.write_text("".join(f"{word.hex()} {words[word]}\n" for word in sorted(words)), encoding="ascii")
    return path


def spelled(path: Path) -> Iterator[tuple[bytes, int]]:
    with open(path, encoding="ascii") as lines:
        for line in lines:
            word, _, count = line.partition(" ")
            yield bytes.fromhex(word), int(count)


def commonest(words: Iterable[tuple[bytes, int]], most: int) -> dict[bytes, int]:
    """At most `most` words, in the order of their bytes."""
    kept = nlargest(most, words, key=lambda pair: (pair[1], tuple(255 - byte for byte in pair[0])))
    return dict(sorted(kept))


def learn(words: dict[bytes, int], merges: int) -> list[Pair]:
    """The first `merges` merges of these words, fewer where no pair is left."""
    if loops := kernel("text/bpe"):
        return compiled(loops, words, merges)
    symbols = [[bytes([byte]) for byte in word] for word in words]
    weights, counts, places = list(words.values()), Counter(), {}
    for word, own in enumerate(symbols):
        for pair in zip(own, own[1:]):
            counts[pair] += weights[word]
            places.setdefault(pair, set()).add(word)
    found: list[Pair] = []
    while len(found) < merges and counts:
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[best] <= 0:
            break
        found.append(best)
        for word in sorted(places.pop(best)):
            old, new = symbols[word], merged(symbols[word], best)
            for pair in zip(old, old[1:]):
                counts[pair] -= weights[word]
            for pair in zip(new, new[1:]):
                counts[pair] += weights[word]
                places.setdefault(pair, set()).add(word)
            symbols[word] = new
        del counts[best]
    return found


def merged(symbols: list[bytes], pair: Pair) -> list[bytes]:
    """The symbols with each occurrence of the pair, from the left, as one."""
    found, place = [], 0
    while place < len(symbols):
        both = tuple(symbols[place:place + 2]) == pair
        found.append(b"".join(pair) if both else symbols[place])
        place += 1 + both
    return found


def compiled(loops: ModuleType, words: dict[bytes, int], merges: int) -> list[Pair]:
    """The same by the kernel."""
    data = np.frombuffer(b"".join(words), np.uint8).astype(np.int64)
    starts = np.cumsum([0, *map(len, words)])
    pairs = loops.merges(data, starts, np.array(list(words.values()), np.int64), merges)
    known, found = [bytes([byte]) for byte in range(256)], []
    for left, right in pairs.tolist():
        found.append((known[left], known[right]))
        known.append(known[left] + known[right])
    return found
