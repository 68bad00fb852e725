"""Case `pretrain` (B3): a step of pretraining against the Hugging Face Trainer, 8 packed rows of 512 tokens, bf16.

Width 512, 8 layers, 16,384 tied ids.  Both sides start from the same exported folder and read the same ids.  Gate: in
fp32 the losses and gradient norms of 24 steps of 2 rows agree; in bf16 we are no further from the fp32 losses than the
Trainer, a quarter to spare (over 8 steps that would be decided by chance: a few roundings of 1e-5).
`tuned` has fused AdamW, nothing logged, and whichever of 0 or 1 loader processes is the faster here; `default` is the
Trainer as it comes, but in bf16.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Options, Row, compared, equal_steps, first_failure, fresh, low_precision, turns
from benchmarks.machine import peak
from bloomery.model.presets import sized
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer

GATE = {"steps": 24, "rows": 2, "gate": True}


def run(options: Options) -> Iterator[Row]:
    config = sized(2 if options.quick else 8, vocabulary=16_384, context=512, width=512, hidden=1376)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Transformer(config, seed=0), Path(folder))
        spec = {"folder": folder, "rows": 2 if options.quick else 8, "tokens": 512, "workers": 0, "tuned": True}

        def side(name: str, *, precision: str = "bf16", **more: object) -> dict:
            asked = spec | {"precision": precision, "steps": 6 if options.quick else 13} | more
            return fresh(options, "training", name, json.dumps(asked), peer=name == "trainer")

        def gate(name: str, precision: str) -> dict:
            return side(name, precision=precision, **GATE)

        reference = gate("trainer", "fp32")
        if "not_run" in reference:
            yield from (Row(f"pretrain, {kind}", f"not run: {reference['not_run']}") for kind in ("tuned", "default"))
            return
        verdict = first_failure(equal_steps(gate("ours", "fp32"), reference),
                                low_precision(gate("ours", "bf16"), gate("trainer", "bf16"), reference))
        workers = min((0, 1), key=lambda count: side("trainer", workers=count)["seconds"])
        best = peak("bfloat16")
        flops = 6 * config.parameters() + 6 * config.depth * config.heads * config.head_width * config.context
        for kind, tuned in (("tuned", True), ("default", False)):
            pairs = turns(lambda: side("ours"), lambda t=tuned: side("trainer", tuned=t, workers=workers * t),
                          options.pairs)
            rates = [[each["rate"] for each in sides] for sides in zip(*pairs, strict=True)]
            mfu = [flops * sorted(rate)[len(rate) // 2] / best for rate in rates]
            yield compared(f"pretrain, {kind}", pairs, gate=verdict, key="rate", unit="tokens/s", floor=1.0,
                           peer_mfu=mfu[1], details={"mfu_ours": round(mfu[0], 3), "mfu_peer": round(mfu[1], 3),
                                                     "loader_processes": workers * tuned})
