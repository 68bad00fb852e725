"""Run one comparison: `python -m benchmarks CASE [--quick] [--json]`.

A table for people goes to stderr; the last line of stdout is JSON: {"case", "rows", "versions", "machine"}.
Exit codes: 0 done, 1 failed, 2 usage, 3 a gate failed.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import (
    best_of_n,
    bm25,
    checkpoint,
    curate,
    curate_scaling,
    dialogues,
    dpo,
    generate,
    grpo,
    kto,
    lora,
    losses,
    mfu,
    minhash,
    mlm,
    ngram,
    orpo,
    pretrain,
    reward,
    rloo,
    scaling,
    seq2seq,
    serve,
    sft,
    shakespeare,
    substring,
    vocabulary,
)
from benchmarks.harness import Broken, Options, Row
from benchmarks.machine import QUIET, cores, describe, load, peak, versions

FAILED, USAGE, GATE = 1, 2, 3
Case = Callable[[Options], Iterator[Row]]


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description="Compare with other tools, in one run.")
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--quick", action="store_true", help="a smoke test: two pairs, small sizes; not a result")
    parser.add_argument("--json", action="store_true", help="nothing but the JSON line")
    parser.add_argument("--pairs", type=int, help="measurements of each side (5; with --quick 2)")
    parser.add_argument("--threads", type=int, default=len(cores()), help="threads of either side")
    parser.add_argument("--peers", default=sys.executable, type=os.path.abspath,
                        help="Python interpreter the peers are installed for")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT (case shakespeare)")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BLOOMERY_DATA", Options.data)),
                        help="folder of public texts; default BLOOMERY_DATA")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="wait so long for a quiet machine")
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine; the result says so")
    known = parser.parse_args(given)
    if known.threads < 1 or (known.pairs is not None and known.pairs < 1):
        parser.error("--pairs and --threads must be at least 1")
    return known


def quiet(wait: float, *, poll: float = 5.0) -> bool:
    """Whether the 1-minute load is low enough to measure, after waiting for it for `wait` seconds at most."""
    end = time.monotonic() + wait
    while (busy := load() > QUIET) and time.monotonic() < end:
        time.sleep(min(poll, max(end - time.monotonic(), 0)))
    return not busy


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def table(rows: list[Row], about: dict) -> str:
    """The rows as people read them, and under them what a row is made of."""
    lines = [f"{'':24}{'ratio':>8} {'quartiles':>17} {'ours':>10} {'peer':>10}  unit"]
    for row in rows:
        spread = f"{shown(row.low)} .. {shown(row.high)}"
        lines.append(f"{row.name:24}{shown(row.ratio):>8} {spread:>17} {shown(row.ours):>10} {shown(row.peer):>10}  "
                     f"{row.unit}{'' if row.gate == 'passed' else '   ' + row.gate}")
        lines += [f"    {key} {value if isinstance(value, str) else json.dumps(value)}"
                  for key, value in ({"floor ratio": shown(row.floor)} | row.details).items()]
    return "\n".join([*lines, json.dumps(about)])


def main(given: list[str]) -> int:
    asked = arguments(given)
    if not quiet(asked.wait) and not asked.busy:
        sys.stderr.write(f"error: the machine is busy: its load is {load():.2f}, measuring needs {QUIET} or less\n"
                         "try:   end other programs, --wait 600, or --busy for a result that is marked as such\n")
        return FAILED
    options = Options(asked.pairs or (2 if asked.quick else Options.pairs), asked.quick, asked.threads, asked.peers,
                      asked.nanogpt and asked.nanogpt.resolve(), asked.data.resolve())
    torch.set_num_threads(asked.threads)                        # for peaks measured in this process
    about = describe(asked.threads) | {"busy": load() > QUIET, "quick": asked.quick}
    rows: list[Row] = []
    try:
        for row in CASES[asked.case](options):
            rows.append(row)
            if not asked.json:
                sys.stderr.write(f"{row.name}: {shown(row.ratio)}  {row.gate}\n")
    except Broken as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED
    if any(row.ratio for row in rows):
        about["peak_gflops"] = {dtype: round(peak(dtype) / 1e9) for dtype in ("float32", "bfloat16")}
    if not asked.json:
        sys.stderr.write(table(rows, about) + "\n")
    sys.stdout.write(json.dumps({"case": asked.case, "rows": [row.record() for row in rows],
                                 "versions": versions(asked.peers), "machine": about}) + "\n")
    return GATE if any(row.gate.startswith("failed") for row in rows) else 0


CASES: dict[str, Case] = {"shakespeare": shakespeare.run, "mfu": mfu.run, "pretrain": pretrain.run,
                          "mlm": mlm.run, "seq2seq": seq2seq.run,
                          "loss-memory": losses.run, "checkpoint": checkpoint.run, "scaling": scaling.run,
                          "sft": sft.run, "lora": lora.run, "dpo": dpo.run, "reward": reward.run, "kto": kto.run,
                          "orpo": orpo.run, "dialogues": dialogues.run, "grpo": grpo.run, "rloo": rloo.run,
                          "generate": generate.run,
                          "best-of-n": best_of_n.run, "serve": serve.run, "bm25": bm25.run, "curate": curate.run,
                          "bpe-train": vocabulary.train, "encode": vocabulary.encode,
                          "curate-scaling": curate_scaling.run, "ngram": ngram.run,
                          "minhash": minhash.run, "substring": substring.run}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
