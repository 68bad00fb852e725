"""How two programs are compared so that the ratio can be believed.

    gate     both do the same work, shown by the same numbers; without that there is no ratio
    turns    every measurement is a process of its own, in the order A B B A A B ..., with the same threads and cores
    ratio    the median of paired ratios, with their quartiles; above 1 always means that ours is better
    limit    nobody beats physics: ratio <= floor(peer) / floor(ours) / MFU(peer), else the measurement is wrong

A side is a module run as `python -m benchmarks.<module> ...`; the last line it prints is one JSON object.  A peer that
is not installed is `not run`; there are no stored numbers.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.machine import cores

ROOT = Path(__file__).parents[1]
WARMUP = 3                              # steps a side does before its clock starts
PASSED = "passed"
LOSS, NORM = 1e-4, 1e-3                 # relative differences allowed a step in fp32
FIGURE = 1e-3                           # of anything else a step says, as a share of its usual size
LOW_PRECISION = 1.25                    # our deviation from fp32 as a multiple of the peer's
MISSING = ("ModuleNotFoundError", "ImportError")


class Broken(Exception):
    """A side that did not come to an end, with the last of what it said."""


@dataclass(frozen=True)
class Options:
    """What a person can say about a comparison."""

    pairs: int = 5
    quick: bool = False
    threads: int = field(default_factory=lambda: len(cores()))
    peers: str = sys.executable         # the interpreter peers are installed for
    nanogpt: Path | None = None
    data: Path = ROOT.parent / "shared" / "data"


@dataclass(frozen=True)
class Row:
    """One line of a comparison. `gate` is "passed", or begins with "failed" or "not run" and says why."""

    name: str
    gate: str = PASSED
    ratio: float | None = None
    low: float | None = None            # quartiles of the paired ratios
    high: float | None = None
    ours: float | None = None
    peer: float | None = None
    unit: str = ""
    floor: float | None = None          # floor(peer) / floor(ours): work the peer cannot leave out over work we cannot
    details: dict = field(default_factory=dict)

    def record(self) -> dict:
        return asdict(self)


Side = Callable[[], dict]


def fresh(options: Options, module: str, *arguments: str, peer: bool = False, cwd: Path = ROOT) -> dict:
    """Run one side in a process of its own; its answer, with `cold` seconds from start to end.

    A peer that cannot be imported answers {"not_run": why}. Raises `Broken` for any other failure.
    """
    python = options.peers if peer else sys.executable
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false",
                                "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    done = subprocess.run([python, "-m", f"benchmarks.{module}", *map(str, arguments)], cwd=cwd, env=environment,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    cold = time.perf_counter() - start
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode and peer and last.startswith(MISSING):
        return {"not_run": last.partition(": ")[2]}
    if done.returncode:
        raise Broken(f"{module} {' '.join(map(str, arguments))} ended with {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"cold": cold}


def turns(ours: Side, peer: Side, pairs: int) -> list[tuple[dict, dict]]:
    """`pairs` measurements of both sides, A B B A A B ...: what drifts on the machine falls on both alike."""
    out = []
    for pair in range(pairs):
        sides = [ours, peer] if pair % 2 == 0 else [peer, ours]
        first, second = sides[0](), sides[1]()
        out.append((first, second) if pair % 2 == 0 else (second, first))
    return out


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile; of one value, that value."""
    if len(values) < 2:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def compared(name: str, measured: list[tuple[dict, dict]], *, gate: str, key: str, unit: str, less: bool = False,
             floor: float | None = None, peer_mfu: float | None = None, details: dict | None = None) -> Row:
    """The row of paired measurements of `key`; `less` where the smaller number is the better.

    A gate that has not passed leaves no ratio; neither does a ratio above what the hardware allows.
    """
    missing = next((side["not_run"] for pair in measured for side in pair if "not_run" in side), None)
    if missing:
        return Row(name, f"not run: {missing}", unit=unit, floor=floor, details=details or {})
    ours, peers = ([side[key] for side in sides] for sides in zip(*measured, strict=True))
    cold = [round(statistics.median(side["cold"] for side in sides), 2) for sides in zip(*measured, strict=True)]
    row = Row(name, gate, ours=statistics.median(ours), peer=statistics.median(peers), unit=unit, floor=floor,
              details={"pairs": len(measured), "cold_seconds": cold} | (details or {}))
    if gate != PASSED:
        return row
    low, ratio, high = quartiles([b / a if less else a / b for a, b in zip(ours, peers, strict=True)])
    limit = floor / peer_mfu if floor and peer_mfu else float("inf")
    if ratio > limit:
        why = f"failed: a ratio of {ratio:.3g} is above {limit:.3g}, all that the peer's MFU of {peer_mfu:.2f} leaves"
        return Row(**row.record() | {"gate": why})
    return Row(**row.record() | {"ratio": ratio, "low": low, "high": high})


def equal_steps(ours: dict, peer: dict, *, loss: float = LOSS, norm: float = NORM) -> str:
    """The gate in fp32: losses and gradient norms of every step agree. Sides without norms are held to losses."""
    for key, limit in (("losses", loss), ("grad_norms", norm)):
        pairs = list(zip(ours.get(key, []), peer.get(key, []), strict=True))
        if not pairs and key == "losses":
            return "failed: no steps to compare"
        for step, (a, b) in enumerate(pairs):
            if not abs(a - b) <= limit * abs(b):                # so written, nan fails
                name = key.replace("_", " ")
                return f"failed: {name} of step {step} are {a:.6g} and {b:.6g}, not within {limit:.0e}"
    return PASSED


def equal_figures(ours: dict, peer: dict, *, limit: float = FIGURE) -> str:
    """The same gate of what a side says beside them in `figures`, name -> one value a step."""
    for name, theirs in peer["figures"].items():
        size = statistics.fmean(value**2 for value in theirs) ** 0.5
        for step, (a, b) in enumerate(zip(ours["figures"][name], theirs, strict=True)):
            if not abs(a - b) <= limit * size:
                return f"failed: {name} of step {step} are {a:.6g} and {b:.6g}, not within {limit:.0e}"
    return PASSED


def deviation(run: dict, reference: dict) -> float:
    """Root mean square of the relative differences of two loss curves."""
    pairs = zip(run["losses"], reference["losses"], strict=True)
    return statistics.fmean((a / b - 1) ** 2 for a, b in pairs) ** 0.5


def low_precision(ours: dict, peer: dict, reference: dict) -> str:
    """The gate in bf16: we are not further from the fp32 curve than the peer is, with a quarter to spare.

    What two sides may differ by in fp32 is no deviation.
    """
    mine, theirs = deviation(ours, reference), deviation(peer, reference)
    if mine <= max(LOW_PRECISION * theirs, LOSS):
        return PASSED
    return f"failed: bf16 is {mine:.1e} away from fp32, the peer's {theirs:.1e}"


def first_failure(*gates: str) -> str:
    return next((gate for gate in gates if gate != PASSED), PASSED)
