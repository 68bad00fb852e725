"""Case `mlm`: masked language modelling against the Hugging Face Trainer with its collator, 32 texts a step, bf16.

BERT of width 512, 8 layers, 16,384 tied ids; texts of log-normal lengths, mean 120 tokens, coefficient of variation
0.8, 512 at most.  Both sides start from the same exported folder, without dropout, and read the same texts in the same
order.  Gate: with the same masks losses and gradient norms of 8 steps agree in fp32, and in bf16 we are no further from
the fp32 losses of 24 steps than the Trainer, a quarter to spare.  On the clock each side draws its own masks.  The
tuned peer has fused AdamW, nothing logged, and the fastest of 0 or 1 loader processes and of texts as they come or
grouped by length; `default` is the Trainer as it comes, but in bf16.

    floor = sum over texts of 6 N_body T + 12 L H E T^2 + 6 D V (scored positions)       FLOPs

where T is a length of ours and the longest of its batch for the peer, whose head reads every position.
"""

import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.generate import export, lengths
from benchmarks.harness import Options, Row, compared, equal_steps, first_failure, fresh, low_precision, turns
from benchmarks.machine import peak
from benchmarks.masking import SHARE
from benchmarks.sft import LOUD, useful
from benchmarks.tuning import timed
from bloomery.model.config import ModelConfig
from bloomery.model.presets import BERT

GATE, GATE_BF16 = 8, 24                 # steps
MEAN, SPREAD, CONTEXT = 120, 0.8, 512


def shape(*, quick: bool) -> ModelConfig:
    size = {"depth": 2, "width": 64, "hidden": 256, "heads": 2} if quick else \
        {"depth": 8, "width": 512, "hidden": 2048, "heads": 8}
    return ModelConfig(vocabulary=16_384, context=CONTEXT, kv_heads=size["heads"],
                       head_width=size["width"] // size["heads"], **size, **BERT)


def work(*, steps: int, rows: int, quick: bool) -> dict:
    """Lengths of the texts of so many steps, as examples that have no completion."""
    scale = 8 if quick else 1
    drawn = lengths(steps * rows, mean=MEAN / scale, spread=SPREAD, least=8, most=CONTEXT // scale, seed=1)
    return {"prompts": drawn, "completions": [0] * len(drawn), "rows": rows}


def floor(config: ModelConfig, spec: dict, *, padded: bool) -> float:
    """FLOPs a useful token that cannot be left out."""
    head = config.vocabulary * config.width
    body = config.parameters() - config.tables() - head
    total, counted = 0.0, 0
    for step in timed(spec):
        sizes = [spec["prompts"][i] for i in step]
        counted += sum(sizes)
        sizes = [max(sizes)] * len(sizes) if padded else sizes
        tokens, squares = sum(sizes), sum(size**2 for size in sizes)
        total += 6 * tokens * (body + head * (1 if padded else SHARE))
        total += 12 * config.depth * config.heads * config.head_width * squares
    return total / counted


def run(options: Options) -> Iterator[Row]:
    config, quick = shape(quick=options.quick), options.quick
    with tempfile.TemporaryDirectory() as place:
        common = {"folder": str(export(config, Path(place), loud=LOUD, dtype=torch.float32)), "precision": "bf16",
                  "tuned": True, "workers": 0, "grouped": False}

        def side(which: str, **more: object) -> dict:
            return fresh(options, "masking", which, json.dumps(common | more), peer=which != "ours")

        few = work(steps=3 if quick else GATE, rows=4, quick=quick) | {"given": True, "gate": True}
        many = work(steps=GATE_BF16, rows=4, quick=quick) | {"given": True}
        reference = side("trainer", precision="fp32", **few)
        if "not_run" in reference:
            yield from (Row(name, f"not run: {reference['not_run']}") for name in ("mlm", "mlm, default"))
            return
        verdict = first_failure(equal_steps(side("ours", precision="fp32", **few), reference), low_precision(
            side("ours", **many), side("trainer", **many), side("trainer", precision="fp32", **many)))
        spec = work(steps=5 if quick else 13, rows=4 if quick else 32, quick=quick)
        tried = [{"workers": count, "grouped": grouped} for grouped in (False, True) for count in (0, 1)]
        best = max(tried[:1] if quick else tried, key=lambda chosen: side("trainer", **spec | chosen)["rate"])
        flops, least = peak("bfloat16"), floor(config, spec, padded=False)
        for name, chosen in (("mlm", best), ("mlm, default", {"tuned": False})):
            pairs = turns(lambda: side("ours", **spec), lambda c=chosen: side("trainer", **spec | c), options.pairs)
            theirs = floor(config, common | spec | chosen, padded=True)
            mfu = [needed * statistics.median(each["rate"] for each in sides) / flops
                   for needed, sides in zip((least, theirs), zip(*pairs, strict=True), strict=True)]
            yield compared(name, pairs, gate=verdict, key="rate", unit="tokens/s", floor=theirs / least,
                           peer_mfu=mfu[1], details={
                               "mfu_ours": round(mfu[0], 3), "mfu_peer": round(mfu[1], 3), "trainer": chosen,
                               "useful share of the peer's tokens": round(useful(common | spec | chosen), 3)})
