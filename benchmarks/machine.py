"""What a measurement ran on: processor, threads, load, versions, the fastest matrix product and the memory's speed.

Peak and bandwidth are what both sides are held against: floor and MFU are worth as much as they are, so they are
measured in the same run and never taken from a table.
"""

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

QUIET = 0.3                             # 1-minute load above which nothing is measured
SIZES = (512, 1024, 2048, 4096)         # cubes tried for the peak
STAMPED = ("torch", "numpy", "transformers", "accelerate", "trl", "peft", "datasets", "tokenizers", "safetensors",
           "fastapi", "uvicorn", "bm25s", "xllamacpp", "vllm", "datatrove", "spacy", "numba", "pyarrow", "datasketch",
           "rensa", "pydivsufsort")


def peak(dtype: str, *, sizes: tuple[int, ...] = SIZES, seconds: float = 0.3) -> float:
    """FLOP/s of the best square matrix product in `dtype` ("float32" or "bfloat16") with the threads there are."""
    import torch  # the machinery of a comparison works without it

    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
        out = torch.mm(a, b)
        tries, end = 0, time.perf_counter() + seconds
        while (start := time.perf_counter()) < end or tries < 3:
            torch.mm(a, b, out=out)
            best, tries = max(best, 2 * size**3 / (time.perf_counter() - start)), tries + 1
    return best


def bandwidth(size: int, *, seconds: float = 0.3) -> tuple[float, float]:
    """Bytes copied a second, and bytes that can be read at most, of `size` bytes with the threads there are.

    What is copied is read and written: twice as much as is counted, so nobody reads less than that.
    """
    import torch  # as above

    source, target = torch.zeros(size // 4), torch.ones(size // 4)
    best = []
    for work in (lambda: target.copy_(source), source.sum):
        tries, end = [], time.perf_counter() + seconds
        while (start := time.perf_counter()) < end or len(tries) < 3:
            work()
            tries.append(size / (time.perf_counter() - start))
        best.append(max(tries))
    copied, read = best
    return copied, max(2 * copied, read)


def status(field: str, file: str = "/proc/self/status") -> int:
    """A line of a /proc file, in bytes."""
    return next(int(line.split()[1]) * 1024 for line in Path(file).read_text().splitlines() if line.startswith(field))


def load() -> float:
    """Programs that wanted a processor in the last minute, on average."""
    return os.getloadavg()[0]


def cores() -> list[int]:
    """The processors this process may use; a side inherits them."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def describe(threads: int) -> dict:
    """What a reader needs to judge the numbers; names nobody."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    return {"processor": model, "cores": len(cores()), "threads": threads, "load": round(load(), 2),
            "bf16": sorted(flags & {"avx512_bf16", "amx_bf16"}), "system": platform.system(),
            "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)}


def installed() -> dict[str, str]:
    """Versions of what a comparison may rest on, as far as it is there."""
    found = {"python": platform.python_version()}
    for name in STAMPED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def versions(peers: str) -> dict[str, str]:
    """What our side runs with and, where that is another interpreter, what the peers run with."""
    ours = installed()
    if peers == sys.executable:
        return ours
    root = Path(__file__).parents[1]
    answer = subprocess.run([peers, "-m", "benchmarks.machine"], capture_output=True, text=True, cwd=root, check=True)
    return ours | {f"peer {name}": found for name, found in json.loads(answer.stdout).items()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(installed()) + "\n")
