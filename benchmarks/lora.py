"""Case `lora` (B5): LoRA of rank 16 on every matrix of every block against TRL with PEFT; else as case `sft`.

The adapter is drawn once, A and B, and written as PEFT's files, from which both sides start: were B zero as it is at
first, half of the gradients would be zero on both sides whatever they did.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.generate import small_model
from benchmarks.harness import Options, Row
from benchmarks.sft import SPREADS, compare, export
from bloomery.model.adapt import AdaptConfig, adapt, trained_weights
from bloomery.model.peft_files import save_adapter
from bloomery.model.store import load_model

RANK = 16


def draw(folder: Path, out: Path, *, rank: int = RANK) -> int:
    """Write an adapter for the model in `folder`; how many weights it has."""
    model = adapt(load_model(folder), AdaptConfig(method="lora", rank=rank, alpha=2 * rank), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in trained_weights(model).values():
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5 / 8)
    save_adapter(model, out, base=str(folder))
    return sum(weight.numel() for weight in trained_weights(model).values())


def run(options: Options) -> Iterator[Row]:
    config = small_model(options, context=1024)
    with tempfile.TemporaryDirectory() as place:
        folder, adapter = export(config, Path(place) / "base"), Path(place) / "adapter"
        weights = draw(folder, adapter)
        for name, spread in SPREADS.items():
            yield from compare(f"lora, {name}", spread, config, folder, options, adapter=adapter, weights=weights)
