"""Cases `bpe-train` and `encode`: a vocabulary from text, and text into ids, against tokenizers and tiktoken.

    python -m benchmarks.vocabulary CASE SIDE DATA THREADS

runs one side in this process and prints one JSON line.  `bpe-train` learns 8,192 ids from WikiText-2's training lines:
ours counts words and merges by 64-bit counts, the library does the whole.  Gate: both need as many tokens for held-out
lines to within 0.1 %, since they part only where two pairs are equally common.  `encode` reads the same lines with
GPT-2's own vocabulary; gate: every id is the same.  A side's time is its fastest of three; the first also compiles.
"""

import gzip
import json
import resource
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

from benchmarks.harness import PASSED, Options, Row, compared, fresh, turns

WIKITEXT, GPT2 = Path("wikitext-2"), Path("tokenizers")
SIZE, QUICK, TRIES, CLOSE = 8192, 1000, 3, 1e-3
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"        # GPT-2's


def lines(data: Path, split: str) -> list[str]:
    with gzip.open(data / WIKITEXT / f"wiki.{split}.tokens.gz", "rt", encoding="utf-8") as file:
        return file.read().splitlines(keepends=True)


# --- learning -----------------------------------------------------------------------------------------------------

def learn_ours(texts: list[str], size: int):
    from bloomery.text.bpe import bpe

    return bpe(texts, vocabulary=size).encode_batch


def learn_library(texts: list[str], size: int):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, show_progress=False, special_tokens=list("\0\1\2"),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return lambda probe: [one.ids for one in made.encode_batch(probe)]


# --- encoding -----------------------------------------------------------------------------------------------------

def gpt2(data: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Its vocabulary and its merges."""
    with gzip.open(data / GPT2 / "gpt2_vocab.json.gz", "rt", encoding="utf-8") as file:
        vocabulary = json.load(file)
    with gzip.open(data / GPT2 / "gpt2_merges.txt.gz", "rt", encoding="utf-8") as file:
        pairs = [tuple(line.split()) for line in file.read().splitlines() if not line.startswith("#version")]
    return vocabulary, [pair for pair in pairs if len(pair) == 2]


def backend(data: Path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    made = Tokenizer(models.BPE(*gpt2(data)))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>"])
    return made


def encode_ours(data: Path, threads: int) -> Callable[[list[str]], list[list[int]]]:
    from bloomery.text.tokenizer import Tokenizer

    return Tokenizer(backend(data), {"eos_token": "<|endoftext|>"}).encode_batch


def encode_library(data: Path, threads: int) -> Callable[[list[str]], list[list[int]]]:
    made = backend(data)
    return lambda texts: [one.ids for one in made.encode_batch(texts, add_special_tokens=False)]


def encode_tiktoken(data: Path, threads: int) -> Callable[[list[str]], list[list[int]]]:
    import tiktoken

    vocabulary, _ = gpt2(data)
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unseen = [byte for byte in range(256) if byte not in seen]
    byte = {chr(one): one for one in seen} | {chr(256 + place): one for place, one in enumerate(unseen)}
    ranks = {bytes(map(byte.__getitem__, piece)): i for piece, i in vocabulary.items() if piece != "<|endoftext|>"}
    made = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})
    return lambda texts: made.encode_ordinary_batch(texts, num_threads=threads)


LEARN = {"ours": learn_ours, "tokenizers": learn_library}
ENCODE = {"ours": encode_ours, "tokenizers": encode_library, "tiktoken": encode_tiktoken}


def fastest(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds of the fastest of three tries, and what the last one gave."""
    took, found = [], None
    for _ in range(TRIES):
        start = time.perf_counter()
        found = work()
        took.append(time.perf_counter() - start)
    return min(took), found


def measure(case: str, side: str, data: Path, threads: int, size: int) -> dict:
    texts = lines(data, "train")
    if case == "bpe-train":
        seconds, encode = fastest(lambda: LEARN[side](texts, size))
        told = {"tokens": sum(map(len, encode(lines(data, "valid"))))}
    else:
        encode = ENCODE[side](data, threads)
        seconds, ids = fastest(lambda: encode(texts))
        told = {"tokens": sum(map(len, ids)), "ids": crc32(array("q", [one for row in ids for one in row]).tobytes())}
    bytes_ = sum(len(text.encode()) for text in texts)
    return {"seconds": seconds, "mb": bytes_ / 1e6, "mb_s": bytes_ / 1e6 / seconds, **told,
            "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def same(case: str, ours: dict, peer: dict) -> str:
    if case == "encode":
        return PASSED if ours["ids"] == peer["ids"] else "failed: the ids differ"
    apart = abs(ours["tokens"] / peer["tokens"] - 1)
    return PASSED if apart <= CLOSE else f"failed: {apart:.2%} apart in tokens of held-out text"


def rows(case: str, peers: tuple[str, ...], options: Options) -> Iterator[Row]:
    if not (options.data / WIKITEXT).is_dir() or not (options.data / GPT2).is_dir():
        yield Row(case, f"not run: no {WIKITEXT} or no {GPT2} in {options.data}")
        return
    size = QUICK if options.quick else SIZE
    for peer in peers:
        def side(name: str) -> dict:
            return fresh(options, "vocabulary", case, name, str(options.data), str(options.threads), str(size),
                         peer=name != "ours")

        pairs = turns(lambda s=side: s("ours"), lambda s=side, n=peer: s(n), options.pairs)
        missing = any("not_run" in other for _, other in pairs)
        mine, other = pairs[0]
        details = {} if missing else {"mb_s": round(mine["mb_s"], 1), "peer_mb_s": round(other["mb_s"], 1),
                                      "tokens": mine["tokens"], "peer_tokens": other["tokens"],
                                      "peak_gb": round(mine["peak_gb"], 2), "peer_peak_gb": round(other["peak_gb"], 2)}
        yield compared(f"{peer}, {mine['mb']:.0f} MB", pairs, key="seconds", unit="s", less=True,
                       gate=PASSED if missing else same(case, mine, other), details=details)


def train(options: Options) -> Iterator[Row]:
    yield from rows("bpe-train", ("tokenizers",), options)


def encode(options: Options) -> Iterator[Row]:
    yield from rows("encode", ("tokenizers", "tiktoken"), options)


if __name__ == "__main__":
    asked, name, folder, count, wanted = sys.argv[1:]
    sys.stdout.write(json.dumps(measure(asked, name, Path(folder), int(count), int(wanted))) + "\n")
