"""Case `rloo`: RLOO of all weights against TRL's RLOOTrainer, prompts of 128 tokens; else as `grpo`.

TRL reads what it has drawn once more before it learns; with one update a rollout we need not: what is read while
learning is the same.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.generate import small_model
from benchmarks.grpo import compare
from benchmarks.harness import Options, Row
from benchmarks.sft import export

PROMPT = 128                                                    # tokens


def run(options: Options) -> Iterator[Row]:
    config = small_model(options, context=1024)
    with tempfile.TemporaryDirectory() as place:
        folder = export(config, Path(place) / "model")
        yield from compare(f"rloo, P{PROMPT}", "rloo", PROMPT, config, folder, options)
