"""Case `substring`: finding every passage of 200 bytes that stands twice in 30 MB of text.

    python -m benchmarks.substring SIDE DATA BYTES

runs one side in this process and prints one JSON line.  Texts are books, an encyclopedia and newswire, cut into
documents of 5,000 bytes.  There is no peer to install: the rows are held against their floor, the suffix array alone
(divsufsort), which is the larger part of the first and no part of the second; so their ratios are below 1.  Gate: both
of our methods mark the same places, and what they mark is not nothing.  A side's time is its fastest of two.
"""

import gzip
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.harness import PASSED, Options, Row, compared, fresh, turns

N, DOCUMENT, TRIES = 200, 5000, 2
BYTES, FEW = 30_000_000, 2_000_000
ASKED = 10.0                            # seconds that 30 MB should take at most
PLACES = "books/**/*.gz", "wikitext-2/*.train.tokens.gz", "reuters21578/*.jsonl.gz"


def corpus(data: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes, and where each document begins."""
    paths = [path for place in PLACES for path in sorted(data.glob(place))]
    content = b""
    for path in paths:
        content += gzip.decompress(path.read_bytes()) if len(content) < size else b""
    text = np.frombuffer(content[:size], np.uint8).copy()
    return text, np.append(np.arange(0, len(text), DOCUMENT), len(text))


def floor(text: np.ndarray, starts: np.ndarray) -> np.ndarray:
    from pydivsufsort import divsufsort

    return divsufsort(text)


def ours(method: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def find(text: np.ndarray, starts: np.ndarray) -> np.ndarray:
        from bloomery.curate.substring import METHODS

        return METHODS[method](text, starts, N)
    return find


SIDES = {"sorted": ours("sorted"), "windows": ours("windows"), "divsufsort": floor}


def measure(side: str, data: Path, size: int) -> dict:
    """Seconds of the fastest try, and a digest of the places that were marked."""
    text, starts = corpus(data, size)
    SIDES[side](text[:DOCUMENT], starts[:2])                    # compiles what is compiled
    tries = []
    for _ in range(TRIES):
        start = time.perf_counter()
        found = SIDES[side](text, starts)
        tries.append(time.perf_counter() - start)
    return {"seconds": min(tries), "bytes": len(text), "documents": len(starts) - 1,
            "marked": int(found.sum()) if found.dtype == bool else 0, "digest": hashlib.sha256(found).hexdigest()}


def run(options: Options) -> Iterator[Row]:
    if not all(any(options.data.glob(place)) for place in PLACES):
        yield Row("substring", f"not run: not all of {', '.join(PLACES)} are in {options.data}")
        return
    size, marks = FEW if options.quick else BYTES, {}
    for method in ("sorted", "windows"):
        def side(name: str) -> dict:
            return fresh(options, "substring", name, str(options.data), str(size))

        pairs = turns(lambda m=method: side(m), lambda: side("divsufsort"), options.pairs)
        mine = pairs[0][0]
        marks[method] = mine["marked"], mine["digest"]
        same = mine["marked"] > 0 and len(set(marks.values())) == 1
        yield compared(f"{method}, {size // 10**6} MB", pairs, key="seconds", unit="s", less=True,
                       gate=PASSED if same else "failed: the two methods mark different places, or none",
                       details={"documents": mine["documents"], "marked": mine["marked"],
                                "asked_seconds": ASKED * size / BYTES})


if __name__ == "__main__":
    name, folder, most = sys.argv[1:]
    sys.stdout.write(json.dumps(measure(name, Path(folder), int(most))) + "\n")
