"""Case `reward` (B7): a reward model from pairs against TRL's RewardTrainer, 8 pairs a step, bf16; else as `dpo`.

Both sides start from one folder with a trunk and a head of one number, drawn once.  Beside losses and gradient norms
the rewards must be equal: their mean, and the margin of chosen over rejected.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.generate import small_model
from benchmarks.harness import Options, Row
from benchmarks.preferences import SIZES, compare
from benchmarks.preferring import PAD
from benchmarks.sft import export
from bloomery.model.scalar import ScalarModel, save_scalar
from bloomery.model.store import load_model


def scored(folder: Path, out: Path) -> Path:
    """The model in `folder` with a head of one number, as a folder both sides read."""
    save_scalar(ScalarModel(load_model(folder), seed=1, pad=PAD), out)
    return out


def run(options: Options) -> Iterator[Row]:
    config = small_model(options, context=2048)
    with tempfile.TemporaryDirectory() as place:
        folder = scored(export(config, Path(place) / "base"), Path(place) / "scored")
        for name, size in SIZES.items():
            yield from compare(f"reward, {name}", "reward", size, folder, config, options)
