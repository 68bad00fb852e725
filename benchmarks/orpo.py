"""Case `orpo`: odds-ratio preference optimisation against TRL's ORPOTrainer, 8 pairs a step, bf16; else as case `dpo`.

There is no reference.  TRL's chosen nll is of the prompt too, so ours is (`nll_on = "all"`), and it is a mean over the
tokens of a batch, ours over those of each pair: where the chosen answers and their prompts are all of one length, as in
the gate, the two are one number.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.generate import small_model
from benchmarks.harness import Options, Row
from benchmarks.preferences import SIZES, compare, work
from benchmarks.sft import GATE_BF16, export


def level(prompt: int, answer: int) -> dict:
    """Work whose prompts and chosen answers are of one length together."""
    spec = work(prompt, answer, steps=GATE_BF16, rows=4)
    whole = max(spec["prompts"]) + answer // 2
    return spec | {"chosen": [whole - each for each in spec["prompts"]]}


def run(options: Options) -> Iterator[Row]:
    config = small_model(options, context=2048)
    with tempfile.TemporaryDirectory() as place:
        folder = export(config, Path(place))
        for name, size in SIZES.items():
            gated = level(*(max(8, length // (32 if options.quick else 4)) for length in size))
            yield from compare(f"orpo, {name}", "orpo", size, folder, config, options, gated=gated)
