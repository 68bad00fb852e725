"""Case `scaling` (B16): how the time of a step grows with the length of rows, their number, and the width.

    log seconds = a + slope log x,  fitted by least squares over a doubling series

The peer is the Hugging Face Trainer in bf16.  Ratio = the peer's slope / ours: above 1, ours grows more slowly.  The
interval of a slope is slope +- 1.96 standard errors over all points of all runs.
"""

import json
import math
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Options, Row, compared, equal_steps, fresh, turns
from bloomery.model.presets import sized
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer

SERIES = {"sequence length": (256, 512, 1024, 2048), "batch": (2, 4, 8, 16), "width": (256, 512, 768, 1024)}
FIXED = {"sequence length": 256, "batch": 8, "width": 256}      # what stands still while another grows
LAYERS, VOCABULARY, CLOSE = 4, 8192, 1e-3


def slope(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Least-squares slope of log y on log x, and its standard error (0 for two points)."""
    x, y = ([math.log(value) for value in axis] for axis in zip(*points, strict=True))
    b, a = statistics.linear_regression(x, y)
    left = sum((v - a - b * u) ** 2 for u, v in zip(x, y, strict=True))
    return b, (left / max(len(x) - 2, 1) / (len(x) * statistics.pvariance(x))) ** 0.5


def sweep(options: Options, side: str, axis: str, folder: Path, *, precision: str = "bf16", steps: int = 7) -> dict:
    """Seconds a step for every value of an axis, each in a process of its own; the slope through them."""
    values = SERIES[axis][:3] if options.quick else SERIES[axis]
    points, losses, cold = [], [], 0.0
    for value in values:
        size = FIXED | {axis: value}
        spec = {"folder": str(folder / str(size["width"])), "rows": size["batch"], "tokens": size["sequence length"],
                "steps": steps, "precision": precision, "tuned": True, "workers": 0}
        run = fresh(options, "training", side, json.dumps(spec), peer=side == "trainer")
        if "not_run" in run:
            return run
        points.append((value, run["seconds"]))
        losses += run["losses"]
        cold += run["cold"]
    return {"slope": slope(points)[0], "points": points, "losses": losses, "cold": cold}


def interval(runs: list[dict]) -> list[float]:
    """slope - 1.96 s.e. and slope + 1.96 s.e. of all points of all runs."""
    middle, error = slope([point for run in runs for point in run["points"]])
    return [round(middle - 1.96 * error, 3), round(middle + 1.96 * error, 3)]


def run(options: Options) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for width in SERIES["width"]:
            config = sized(LAYERS, vocabulary=VOCABULARY, context=2048, width=width)
            save_model(Transformer(config, seed=0), Path(folder) / str(width))
        for axis in SERIES:
            def side(name: str, axis: str = axis) -> dict:
                return sweep(options, name, axis, Path(folder))

            pairs = turns(lambda s=side: s("ours"), lambda s=side: s("trainer"), options.pairs)
            ours, peers = (list(runs) for runs in zip(*pairs, strict=True))
            alone = {"slope_interval_ours": interval(ours), "seconds_ours": ours[0]["points"]}
            if any("not_run" in each for each in peers):
                yield Row(axis, f"not run: {peers[0]['not_run']}", ours=statistics.median(r["slope"] for r in ours),
                          unit="slope", details=alone)
                continue
            gate = equal_steps(ours[0], peers[0], loss=CLOSE)       # both in bf16: close, not equal
            yield compared(axis, pairs, gate=gate, key="slope", unit="slope", less=True,
                           details=alone | {"slope_interval_peer": interval(peers), "seconds_peer": peers[0]["points"]})
