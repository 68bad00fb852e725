"""Case `dpo` (B6): direct preference optimisation of all weights against TRL's DPOTrainer, 8 pairs a step, bf16.

    P256 C96, P64 C192          means of log-normal lengths, prompts and answers, coefficient of variation 0.5
    ..., 3 epochs               the reference's pass once, then three times the steps
    slope in P                  by how much a token of the prompt makes a pair longer, P = 64 .. 512, C = 96

Width 512, 8 layers, 16,384 tied ids; beta 0.1; pairs a second hold the reference's pass.  What else is done is in
`preferences.py`, for cases `reward`, `kto` and `orpo` too.
"""

import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.generate import small_model
from benchmarks.harness import PASSED, Options, Row, compared, fresh, turns
from benchmarks.preferences import SIZES, TUNED, compare, work
from benchmarks.scaling import slope
from benchmarks.sft import export

PROMPTS, ANSWER = (64, 128, 256, 512), 96                       # tokens, of the slope


def growth(folder: Path, options: Options) -> Row:
    """How much longer a pair takes for a token of its prompt: a straight line through equal prompts of each length."""
    scale, rows = (8, 2) if options.quick else (1, 4)

    def sweep(which: str) -> dict:
        points, cold = [], 0.0
        for prompt in PROMPTS:
            spec = work(prompt // scale, ANSWER // scale, steps=5, rows=rows, spread=0.0) | TUNED | {
                "task": "dpo", "folder": str(folder)}
            said = fresh(options, "preferring", which, json.dumps(spec), peer=which != "ours")
            if "not_run" in said:
                return said
            points.append((prompt // scale, 1 / said["rate 1"]))
            cold += said["cold"]
        return {"slope": 1e3 * statistics.linear_regression(*zip(*points, strict=True)).slope, "points": points,
                "log": slope(points)[0], "cold": cold}

    pairs = turns(lambda: sweep("ours"), lambda: sweep("trl"), options.pairs)
    sides = list(zip(*pairs, strict=True))
    if any("not_run" in each for each in sides[1]):
        return compared("slope in P", pairs, gate=PASSED, key="slope", unit="ms a token", less=True)
    details = {"seconds_a_pair": [side[0]["points"] for side in sides],
               "slope_of_logarithms": [round(statistics.median(each["log"] for each in side), 3) for side in sides]}
    return compared("slope in P", pairs, gate=PASSED, key="slope", unit="ms a token", less=True, details=details)


def run(options: Options) -> Iterator[Row]:
    config = small_model(options, context=2048)
    with tempfile.TemporaryDirectory() as place:
        folder = export(config, Path(place))
        for name, size in SIZES.items():
            yield from compare(name, "dpo", size, folder, config, options)
        yield growth(folder, options)
