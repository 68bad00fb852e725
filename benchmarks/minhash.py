"""Case `minhash`: which texts are near duplicates, against datatrove, datasketch and rensa, from texts to an answer.

    python -m benchmarks.minhash SIDE DATA PASSAGES

runs one side in this process and prints one JSON line.  Texts are passages of 400 words of books, in memory, and for
two in five of them a copy in which a run of words is replaced.  All sides take FineWeb's parameters, word 5-grams and
112 permutations in 14 bands of 8, and take candidates for duplicates; ours has a row in which it verifies them too.
datatrove simplifies, splits (spaCy) and counts as it always does; the other two are given shingles, made by a few
lines of Python on the clock, as their users make them: `times_faster_sketch` leaves their shingles out, and ours in.

Gate: each side finds as many of the copies as 1 - (1 - J^8)^14 says of each on average, to 0.01 or three standard
errors (where candidates are verified: of those with J >= 0.7), and one in a hundred at most of all texts goes that
nobody copied.  A side's time is its fastest of two.
"""

import gzip
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import PASSED, Options, Row, compared, fresh, turns

WORDS, K, BANDS, ROWS, SIMILAR = 400, 5, 14, 8, 0.7
EVERY, TRIES = 3, 2                     # of which passages there is a copy; tries a side
CLOSE, STRAY = 0.01, 0.01               # recall from theory; passages found alike that nobody copied
PASSAGES, FEW, SLOW = 10_000, 1000, 2000        # those of datatrove, which takes minutes for more: it is linear
PEERS = ("datatrove", "datasketch", "rensa")
LEFT_OUT = "near_dup_editions"          # duplicates of a book that nobody planted


def texts(data: Path, count: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Passages, then copies; and pairs of a passage with its copy."""
    found: list[str] = []
    for path in sorted((data / "books").rglob("*.gz")):
        if LEFT_OUT in path.parts or len(found) >= count:
            continue
        words = gzip.decompress(path.read_bytes()).decode("utf-8", "replace").split(" ")
        found += [" ".join(words[at:at + WORDS]) for at in range(0, len(words) - WORDS, WORDS)]
    found, pairs, chance = found[:count], [], random.Random(0)
    vocabulary = " ".join(found[::50]).split()
    for place in range(0, len(found), EVERY):
        words = found[place].split()
        size = chance.randrange(1, len(words) // 3)
        at = chance.randrange(len(words) - size)
        words[at:at + size] = chance.choices(vocabulary, k=size)
        pairs.append((place, len(found)))
        found.append(" ".join(words))
    return found, pairs


def shingles(text: str) -> set[str]:
    """As a user of datasketch or rensa writes it."""
    words = re.sub(r"\d+([.,]\d+)?", "0", text.lower())
    words = re.sub(r"[\W_]+", " ", words).split()
    return {" ".join(words[at:at + K]) for at in range(max(len(words) - K, 0) + 1)}


def ours(found: list[str], *, verify: str = "none") -> tuple[set[int], float]:
    """Who goes, and what the shingles took apart from the rest, which is nothing."""
    import pyarrow as pa

    from bloomery.curate.minhash import MinHash, NearDuplicates
    from bloomery.curate.step import decide_alone

    linkage = "chain" if verify == "none" else "star"
    step = NearDuplicates(MinHash(verify=verify, linkage=linkage, similarity=SIMILAR))
    names = pa.array([""] * len(found))
    batch = pa.RecordBatch.from_arrays([names, pa.array(found, pa.large_string()), names], ["id", "text", "source"])
    return {row for row, reason in enumerate(decide_alone(step, [batch]).reasons) if reason}, 0.0


def datasketch(found: list[str]) -> tuple[set[int], float]:
    from datasketch import MinHash, MinHashLSH

    start = time.perf_counter()
    sets = [[one.encode() for one in shingles(text)] for text in found]
    made = time.perf_counter() - start
    lsh, gone = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS)), set()
    for row, signature in enumerate(MinHash.generator(sets, num_perm=BANDS * ROWS)):
        if lsh.query(signature):
            gone.add(row)
        lsh.insert(row, signature)
    return gone, made


def rensa(found: list[str]) -> tuple[set[int], float]:
    from rensa import RMinHash, RMinHashLSH

    start = time.perf_counter()
    sets = [list(shingles(text)) for text in found]
    made = time.perf_counter() - start
    matrix = RMinHash.digest_matrix_from_token_sets(sets, BANDS * ROWS, 1)
    index = RMinHashLSH(SIMILAR, BANDS * ROWS, BANDS)
    flags = index.query_duplicate_flags_matrix_one_shot(matrix)
    return {row for row, flag in enumerate(flags) if flag}, made


def datatrove(found: list[str]) -> tuple[set[int], float]:
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupSignature,
    )
    from xxhash import xxh64_intdigest

    with tempfile.TemporaryDirectory() as folder:
        config = MinhashConfig(n_grams=K, num_buckets=BANDS, hashes_per_bucket=ROWS)
        documents = (Document(text=text, id=str(row)) for row, text in enumerate(found))
        signing = MinhashDedupSignature(f"{folder}/signatures", config)
        signing._hash_func = lambda shingle: xxh64_intdigest(shingle.encode())      # its own; xxhash 4 refuses text
        signing.run(documents, 0, 1)
        for bucket in range(BANDS):
            MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config).run(None, bucket, BANDS)
        MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config).run(None, 0, 1)
        removed = b"".join(path.read_bytes() for path in sorted(Path(folder, "remove").glob("*.remove")))
    return {int.from_bytes(removed[at:at + 4], "little") for at in range(0, len(removed), 4)}, 0.0


LEAST = {"ours, verified": SIMILAR}.get      # how alike duplicates must be; candidates need not be
SIDES: dict[str, Callable[[list[str]], tuple[set[int], float]]] = {
    "ours": ours, "ours, verified": lambda found: ours(found, verify="exact"), "datatrove": datatrove,
    "datasketch": datasketch, "rensa": rensa}


def measure(side: str, data: Path, count: int) -> dict:
    """Seconds of the fastest try, what theory promises, what was found of it, and who was found besides."""
    found, pairs = texts(data, count)
    SIDES[side](found[:50])                                     # compiles what is compiled, loads what is loaded
    tries = []
    for _ in range(TRIES):
        start = time.perf_counter()
        gone, made = SIDES[side](found)
        tries.append((time.perf_counter() - start, made))
    seconds, made = min(tries)
    sets = ((shingles(found[one]), shingles(found[two])) for one, two in pairs)
    likeness = [len(a & b) / len(a | b) for a, b in sets]
    chances = [1 - (1 - j**ROWS)**BANDS for j in likeness if j >= LEAST(side, 0)]
    copied = {row for pair in pairs for row in pair}
    return {"seconds": seconds, "sketch": seconds - made, "documents": len(found), "pairs": len(pairs),
            "megabytes": sum(map(len, found)) / 1e6,
            "theory": sum(chances) / len(pairs), "error": sum(p * (1 - p) for p in chances)**0.5 / len(pairs),
            "recall": sum(bool(gone & set(pair)) for pair in pairs) / len(pairs),
            "stray": len(gone - copied) / len(found)}


def honest(side: dict) -> str:
    """The gate of one side."""
    if side["stray"] > STRAY:
        return f"failed: {side['stray']:.1%} of all texts were found alike and are not"
    if abs(side["recall"] - side["theory"]) > max(CLOSE, 3 * side["error"]):
        return f"failed: a recall of {side['recall']:.3f}, theory says {side['theory']:.3f}"
    return PASSED


def run(options: Options) -> Iterator[Row]:
    if not (options.data / "books").is_dir():
        yield Row("minhash", f"not run: no books in {options.data}")
        return
    for mine, peer in [("ours", peer) for peer in PEERS] + [("ours, verified", "rensa")]:
        count = FEW if options.quick else SLOW if peer == "datatrove" else PASSAGES

        def side(name: str, count: int = count) -> dict:
            return fresh(options, "minhash", name, str(options.data), str(count), peer=name in PEERS)

        pairs = turns(lambda m=mine: side(m), lambda p=peer: side(p), options.pairs)
        missing = any("not_run" in other for _, other in pairs)
        a, b = pairs[0]
        details = {"documents": a["documents"], "recall": round(a["recall"], 4), "theory": round(a["theory"], 4),
                   "documents_a_second": round(a["documents"] / a["seconds"])} | ({} if missing else {
                       "peer_recall": round(b["recall"], 4), "peer_documents_a_second": round(
                           b["documents"] / b["seconds"]),
                       "times_faster_sketch": round(min(two["sketch"] / one["seconds"] for one, two in pairs), 2)})
        gate = PASSED if missing else next((g for g in map(honest, (a, b)) if g != PASSED), PASSED)
        name = peer if mine == "ours" else f"{peer}, ours verified"
        yield compared(name, pairs, key="seconds", unit="s", less=True, gate=gate, details=details)


if __name__ == "__main__":
    name, folder, size = sys.argv[1:]
    sys.stdout.write("\n" + json.dumps(measure(name, Path(folder), int(size))) + "\n")
