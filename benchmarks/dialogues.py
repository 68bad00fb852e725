"""Case `dialogues`: what DPO makes of people's preferences (hh-rlhf), ours beside TRL's from the same fine-tuned model.

Stages up to `sft` are those of recipes/preferences.toml, run where they have not been.  Both sides then learn from the
same ids in the same order for one epoch, 32 pairs a step, one learning rate, bf16.  Held-out pairs are scored alike, by
how often a policy's implied reward is higher for the chosen answer.  Gate: Wilson's interval of ours reaches as high as
TRL's accuracy.  Ratio: pairs a second, the reference's pass included.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.harness import PASSED, ROOT, Broken, Options, Row, compared, fresh
from benchmarks.preferences import TUNED
from bloomery.align.pairs import Items, render_pairs
from bloomery.align.reference import score_pairs
from bloomery.core.files import Quarantine
from bloomery.core.intervals import wilson
from bloomery.data.formats import preferences
from bloomery.data.stream import samples
from bloomery.model.store import load_model
from bloomery.text.chat import load_renderer

RECIPE = ROOT / "recipes" / "preferences.toml"
ROWS = 32


def made(options: Options) -> tuple[Path, Path]:
    """The folders of the fine-tuned model and of the pairs."""
    environment = os.environ | {"BLOOMERY_DATA": str(options.data), "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run([sys.executable, "-m", "bloomery.cli", "run", RECIPE, "--only", "sft", "--json"], cwd=ROOT,
                          env=environment, capture_output=True, text=True)
    if done.returncode:
        raise Broken(f"{RECIPE.name} as far as sft\n{done.stderr[-2000:]}")
    stages = json.loads(done.stdout)["stages"]
    return tuple(ROOT / "runs" / RECIPE.stem / stages[name]["folder"] for name in ("sft", "pairs"))


def right(base: torch.Tensor, folder: Path, held_out: Items) -> int:
    """How many held-out pairs a model's implied reward puts the right way round; `base` (P, 2) is the reference's."""
    reward = score_pairs(load_model(folder), held_out, 8192) - base
    return int((reward[:, 0] > reward[:, 1]).sum())


def run(options: Options) -> Iterator[Row]:
    sft, data = made(options)
    renderer, context = load_renderer(sft), load_model(sft).config.context
    files = [str(data / f"preferences{end}.jsonl") for end in ("", "_heldout")]
    learned, held_out = (render_pairs(preferences(file, Quarantine()), renderer, context, where=file)[0]
                         for file in files)
    if options.quick:
        learned, held_out = learned[:3 * ROWS], held_out[:20]
    steps = len(learned) // ROWS
    learned = learned[:steps * ROWS]
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "pairs.json"
        file.write_text(json.dumps([(pair.prompt, pair.chosen, pair.rejected) for pair in learned]))
        spec = TUNED | {"task": "dpo", "folder": str(sft), "file": str(file), "end": renderer.end, "rows": ROWS,
                        "order": [samples(step, ROWS, len(learned), 0).tolist() for step in range(steps)]}
        both = [fresh(options, "preferring", which, json.dumps(spec | {"save": f"{place}/{which}"}),
                      peer=which == "trl") for which in ("ours", "trl")]
        if "not_run" in both[1]:
            yield Row("dialogues", f"not run: {both[1]['not_run']}", unit="pairs/s")
            return
        base = score_pairs(load_model(sft), held_out, 8192)
        found = {which: right(base, Path(place) / which, held_out) for which in ("ours", "trl")}
    shares = {which: count / len(held_out) for which, count in found.items()}
    intervals = {which: wilson(count, len(held_out)) for which, count in found.items()}
    gate = PASSED if intervals["ours"][1] >= shares["trl"] else \
        f"failed: {shares['ours']:.1%} of held-out pairs against {shares['trl']:.1%}"
    yield compared("dialogues", [(both[0], both[1])], gate=gate, key="rate 1", unit="pairs/s", details={
        "steps": steps, "held out": len(held_out), "accuracy": {name: round(each, 4) for name, each in shares.items()},
        "intervals": {name: [round(end, 4) for end in each] for name, each in intervals.items()}})
