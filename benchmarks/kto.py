"""Case `kto`: rated answers against TRL's KTOTrainer, 8 answers a step, half of them wanted, bf16; else as case `dpo`.

The KL is estimated from each prompt with the answer of the example before it, on both sides: TRL's pairing.  We read a
prompt once for both answers; TRL reads it again, without a gradient.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.generate import small_model
from benchmarks.harness import Options, Row
from benchmarks.preferences import SIZES, compare
from benchmarks.sft import export


def run(options: Options) -> Iterator[Row]:
    config = small_model(options, context=2048)
    with tempfile.TemporaryDirectory() as place:
        folder = export(config, Path(place))
        for name, size in SIZES.items():
            yield from compare(f"kto, {name}", "kto", size, folder, config, options)
