"""Case `best-of-n` (B11): 16 samples of one prompt against `generate(num_return_sequences=16)`, in bf16.

Prompts of 512 tokens, answers of 64, temperature 1 without filters, one prompt at a time; the model of `generate`.  The
peer reads the prompt 16 times: floor ratio = (N P + N C) / (P + N C) = 6.  Rows: completions a second, and seconds to
the first token.  Gate: that of `generate` for greedy answers of these lengths, and in fp32 what we sampled has the
log-probabilities that the peer gives it, 1e-4, and the samples differ from one another.
"""

import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.generate import CACHES, close, export, flat, gate, judged, small_model
from benchmarks.harness import PASSED, Options, Row, compared, first_failure, fresh, turns
from benchmarks.machine import peak


def distinct(said: dict) -> str:
    for samples in said["done"]:
        if len({tuple(one["ids"]) for one in samples}) < len(samples):
            return "failed: two samples of a prompt are the same"
    return PASSED


def run(options: Options) -> Iterator[Row]:
    samples, prompt, new, count = (4, 64, 8, 1) if options.quick else (16, 512, 64, 3)
    config = small_model(options, context=prompt + 2 * new)
    with tempfile.TemporaryDirectory() as place:
        folder = export(config, Path(place) / "model")
        one = {"folder": str(folder), "prompts": [prompt] * count, "new": [new] * count, "rows": 1, "grouped": False}

        def side(name: str, **more: object) -> dict:
            asked = one | {"n": samples, "temperature": 1.0, "precision": "bf16", "cache": "dynamic"} | more
            return fresh(options, "generation", name, json.dumps(asked), peer=name != "ours")

        verdict, details = gate(lambda name, **more: side(name, **{"n": 1, "temperature": 0} | more), one, folder)
        if verdict.startswith("not run"):
            yield Row("completions", verdict)
            return
        sampled = side("ours", precision="fp32", gate=True)
        verdict = first_failure(verdict, distinct(sampled),
                                close(flat(sampled, "logps"), judged(side, sampled, folder)["logps"]))
        tuned = max(CACHES, key=lambda cache: side("transformers", cache=cache)["completions"])
        flops = 2 * (config.parameters() - config.tables()) * samples * (prompt + new) * count
        best = peak("bfloat16")
        for kind, cache in {"": tuned, ", default": CACHES[0]}.items():
            if kind and cache == tuned:
                continue
            pairs = turns(lambda: side("ours"), lambda c=cache: side("transformers", cache=c), options.pairs)
            seconds = statistics.median(peer["seconds"] for _, peer in pairs)
            yield compared(f"completions{kind}", pairs, gate=verdict, key="completions", unit="completions/s",
                           floor=samples * (prompt + new) / (prompt + samples * new),
                           peer_mfu=flops / seconds / best, details={"cache": cache} | details)
            yield compared(f"first token{kind}", pairs, gate=verdict, key="first", unit="seconds", less=True,
                           floor=float(samples), details={"cache": cache})
