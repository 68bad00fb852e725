"""Many texts to ids at once, compiled: the ids of the `tokenizers` library, six times as fast.

For byte-level BPE that splits words by GPT-2's pattern, as ours and many others do:

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+        Radford et al. 2019

What a letter, a number and a space is, the library itself is asked, whose Unicode is not the interpreter's.  Before it
is trusted, an encoder reads what is awkward and pieces of its own vocabulary, and must give the library's ids.
"""

import json
from functools import cache

import numpy as np
from tokenizers import Regex, normalizers
from tokenizers import Tokenizer as Backend

from bloomery.core.kernels import kernel
from bloomery.core.metrics import say

PLAIN = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
UNLIKE = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
          "ignore_merges")                                      # what our merging knows nothing of
SLOTS = 17                                                      # bits of how many words are remembered, at most
PROBES = 500                                                    # pieces of the vocabulary an encoder is tried on
AWKWARD = (
    "", " ", "  ", "\n\n", " \n", "a", " a", "  a  b", "a \n b\t\tc \r\n\r\n", "\xa0a\u2028 \u3000b\u1680\u200b c\x85",
    "it's I'LL we'll they've you're I'm he'd 'tis 'S ''s ' s'", "!'s ?!'ll x''y 's", "x²½Ⅳ٣४ 12,345.67e-8 ১২৩",
    "Größe naïve E\u0301 \u0345 한국어 東京都 ไทยแลนด์ हिन्दी العربية עברית", "👩\u200d👩\u200d👧 🏳\ufe0f 🙂🙂 \u20e3",
    "\x00\x01\x1c\x1f\x7f\ufeff\ud7ff\ue000\ufffd\uffff\U00010000\U0010ffff", "<|endoftext|><|im_start|> [CLS]</s>",
    "a" * 300 + " " * 300 + "ab" * 99, *("".join(map(chr, range(*bounds))) for bounds in (
        (0x250,), (0x250, 0x2FFF, 7), (0x1F000, 0x1FAFF, 5))))


class Encoder:
    """The compiled encoder of a vocabulary: texts to lists of ids."""

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]):
        self.byte_ids = np.array([vocabulary[LETTERS[byte]] for byte in range(256)], np.int32)
        pairs = np.array([(vocabulary[a], vocabulary[b]) for a, b in merges], np.int64).reshape(-1, 2)
        made = np.array([vocabulary[a + b] for a, b in merges], np.int64)
        self.keys = np.full(1 << (2 * len(pairs) + 2).bit_length(), -1, np.int64)
        self.values = np.empty_like(self.keys)
        kernel("text/encode").fill(pairs, made, self.keys, self.values)

    def __call__(self, texts: list[str]) -> list[list[int]]:
        encoded = [text.encode() for text in texts]
        data, edges = np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([0, *map(len, encoded)])
        slots = np.zeros((1 << min(SLOTS, max(4, (len(data) // 8).bit_length())), 4), np.int64)
        out, ends = np.empty(len(data), np.int32), np.zeros(len(texts) + 1, np.int64)
        kernel("text/encode").encode(data, edges, kinds(), self.byte_ids, self.keys, self.values, slots, out, ends[1:])
        ids, ends = out[:ends[-1]].tolist(), ends.tolist()
        return [ids[first:last] for first, last in zip(ends, ends[1:])]


@cache
def kinds() -> np.ndarray:
    """The kind of every code point, (0x110000,): by the library 1 a letter, 2 a number, 3 white space; 0.3 seconds."""
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    told = normalizers.Sequence([normalizers.Replace(Regex(pattern), chr(kind)) for kind, pattern in enumerate(
        (r"[^\s\p{L}\p{N}]", r"\p{L}", r"\p{N}", r"\s"))]).normalize_str("".join(map(chr, points)))
    table = np.zeros(0x110000, np.uint8)
    table[points] = np.frombuffer(told.encode(), np.uint8)
    table.flags.writeable = False                               # threads share it
    return table


def encoder(backend: Backend) -> Encoder | None:
    """The compiled encoder of the library's tokenizer, whose control tokens are text.

    None without numba, for a tokenizer of another kind, and, said aloud, where a single id differs.
    """
    told = json.loads(backend.to_str())
    model, splitter = told["model"], told["pre_tokenizer"] or {}
    plain = model["type"] == "BPE" and told["normalizer"] is None and not any(map(model.get, UNLIKE)) and \
        PLAIN.items() <= splitter.items() and all(token["special"] for token in told["added_tokens"])
    if not plain or not set(BYTES) <= set(model["vocab"]) or not kernel("text/encode"):
        return None
    made = Encoder(model["vocab"], [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]])
    ids = range(0, len(model["vocab"]), len(model["vocab"]) // PROBES + 1)
    probes = [*AWKWARD, *(backend.decode([i], skip_special_tokens=False) for i in ids)]
    expected = [found.ids for found in backend.encode_batch_fast(probes, add_special_tokens=False)]
    for text, ours, theirs in zip(probes, made(probes), expected, strict=True):
        if ours != theirs:
            say(f"warning: the compiled encoder reads {text[:40]!r} otherwise than tokenizers does; it is not used")
            return None
    return made


def letters() -> dict[int, str]:
    """GPT-2's letter for each byte: itself where it can be seen, else one from 256 on in order."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + place) for place, byte in enumerate(unseen)}


LETTERS = letters()
BYTES = {letter: byte for byte, letter in LETTERS.items()}
