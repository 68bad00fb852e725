"""Case `curate-scaling`: documents against time, from ten thousand to a million; nothing is compared.

    python -m benchmarks.curate_scaling DATA DOCUMENTS

generates documents (sentences of real pages drawn at random, about 1,000 characters), curates them with the stage's own
default steps and n-gram rules, from Parquet to Parquet, and prints one JSON line.  Gate: the slope of log time over log
documents is at most 1.05, over all sizes and between the last two, where what is spent once no longer helps.
"""

import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.curate import FILES, texts
from benchmarks.harness import PASSED, Options, Row, fresh
from benchmarks.machine import status

SIZES, QUICK = (10_000, 31_623, 100_000, 316_228, 1_000_000), (1_000, 3_162, 10_000)
SLOPE, SENTENCES, ROWS = 1.05, (5, 15), 10_000
SENTENCE = re.compile(r"[^.!?\n]{20,300}[.!?]")


def documents(data: Path, count: int) -> Iterator[str]:
    """Documents of sentences, a few of them to a line, which nobody wrote so."""
    pool = [match.strip() for text in texts(data, 4) for match in SENTENCE.findall(text)]
    drawn = random.Random(0)
    for number in range(count):
        found = drawn.choices(pool, k=drawn.randint(*SENTENCES))
        yield f"{number}. " + "".join(sentence + drawn.choice(("\n", " ", " ")) for sentence in found)


def measure(data: Path, count: int) -> dict:
    import pyarrow as pa
    from pyarrow import parquet

    from bloomery.curate.repetition import TABLE_A1
    from bloomery.curate.run import Config, run

    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "documents.parquet", Path(folder) / "out"
        out.mkdir()
        with parquet.ParquetWriter(source, pa.schema([("id", pa.string()), ("text", pa.large_string())])) as writer:
            found, size, number = documents(data, count), 0, 0
            while rows := list(islice(found, ROWS)):
                names = [str(number + i) for i in range(len(rows))]
                writer.write_table(pa.table({"id": names, "text": pa.array(rows, pa.large_string())}))
                size, number = size + sum(len(text.encode()) for text in rows), number + len(rows)
        start = time.perf_counter()
        metrics = run(Config(source=str(source), repetition=TABLE_A1), out)
        seconds = time.perf_counter() - start
    return {"documents": count, "bytes": size, "seconds": seconds, "kept": metrics["documents_kept"],
            "peak_bytes": status("VmHWM")}


def run(options: Options) -> Iterator[Row]:
    if not (options.data / FILES[0]).is_file():
        yield Row("curate-scaling", f"not run: no {FILES[0]} in {options.data}")
        return
    sizes = QUICK if options.quick else SIZES
    fresh(options, "curate_scaling", str(options.data), str(sizes[0]))                  # compiles what is compiled
    found = [fresh(options, "curate_scaling", str(options.data), str(size)) for size in sizes]
    count, seconds = (np.log([one[name] for one in found]) for name in ("documents", "seconds"))
    slope, last = float(np.polyfit(count, seconds, 1)[0]), float(np.diff(seconds)[-1] / np.diff(count)[-1])
    gate = PASSED if max(slope, last) <= SLOPE else f"failed: a slope of {max(slope, last):.3f} is above {SLOPE}"
    yield Row("documents against time", gate, ours=found[-1]["documents"] / found[-1]["seconds"], unit="documents/s",
              details={"slope": round(slope, 3), "slope of the last two": round(last, 3),
                       "seconds": {one["documents"]: round(one["seconds"], 2) for one in found},
                       "kept": {one["documents"]: one["kept"] for one in found},
                       "megabytes a second": round(found[-1]["bytes"] / found[-1]["seconds"] / 1e6, 1),
                       "peak megabytes": {one["documents"]: one["peak_bytes"] // 10**6 for one in found}})


if __name__ == "__main__":
    folder, asked = sys.argv[1:]
    sys.stdout.write("\n" + json.dumps(measure(Path(folder), int(asked))) + "\n")
