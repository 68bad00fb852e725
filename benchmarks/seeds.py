"""A recipe with several seeds of some of its stages, as one table: how good a model was before and is after.

    python -m benchmarks.seeds recipes/arithmetic.toml grpo rloo ppo reinforce --before sft --seeds 0 1 2

Every seed is a run of the recipe in the same folder, so that all stages before those that are named are made once and
found again; what a seed has made is found again too.  What is compared is a `--metric` that the recipe measures of the
stages, in its evaluation or as they train (`val_reward`).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from statistics import fmean


def measured(recipe: str, stages: Sequence[str], seed: int) -> dict[str, float]:
    """The metrics of a run in which these stages have this seed."""
    given = [word for stage in stages for word in ("--set", f"{stage}.seed={seed}")]
    ended = subprocess.run([sys.executable, "-m", "bloomery.cli", "run", recipe, *given, "--json"], check=True,
                           stdout=subprocess.PIPE, text=True)
    return json.loads(ended.stdout)["metrics"]


def rows(runs: Sequence[dict[str, float]], stages: Sequence[str], *, before: str, metric: str) -> Iterator[list[str]]:
    """The table's lines: of each stage the metric before, if it was measured, and its mean, least and most."""
    yield ["", "before", "mean", "least", "most"]
    begun = runs[0].get(f"{before}.{metric}")
    for stage in stages:
        after = [run[f"{stage}.{metric}"] for run in runs]
        yield [stage, "" if begun is None else f"{begun:.1%}",
               *(f"{value:.1%}" for value in (fmean(after), min(after), max(after)))]


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description="a recipe with several seeds")
    parser.add_argument("recipe")
    parser.add_argument("stages", nargs="+", help="those that get another seed")
    parser.add_argument("--before", default="sft", help="the model they begin from")
    parser.add_argument("--metric", default="exact_match", help="what is compared")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args(words)
    runs = [measured(given.recipe, given.stages, seed) for seed in given.seeds]
    missing = [stage for stage in given.stages if f"{stage}.{given.metric}" not in runs[0]]
    if missing:
        known = sorted({key.partition(".")[2] for key in runs[0] if key.startswith(f"{missing[0]}.")})
        parser.error(f"{given.metric} was not measured of {', '.join(missing)}; there are {', '.join(known)}")
    for row in rows(runs, given.stages, before=given.before, metric=given.metric):
        sys.stdout.write(f"| {' | '.join(row)} |\n" + ("|---" * len(row) + "|\n") * (not row[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
