"""Case `sft` (B4): supervised fine-tuning of all weights against TRL's SFTTrainer, 8 examples a step, bf16.

    high, low       coefficients of variation, 0.8 and 0.3, of log-normal lengths: prompts of 160, completions of 120

Width 512, 8 layers, 16,384 tied ids.  Both sides start from the same exported folder, read the same ids in the same
order and train the completions.  Gate: in fp32 losses and gradient norms of 8 steps agree; in bf16 we are no further
from the fp32 losses of 24 steps than TRL, a quarter to spare.  The tuned peer has no checkpointing, fused AdamW,
nothing logged, and the fastest of 0 or 1 loader processes and of examples as they come or grouped by length; `default`
is TRL as it comes, `transformers' forward` our steps around the peer's own trunk.

    floor = sum over examples of 6 N_body T + 6 L H E T^2 + 6 D V (trained positions)       FLOPs

where T is a length of ours and the longest of its batch for the peer, whose head reads every position.  A frozen matrix
has no gradient: 4 in place of 6, and 6 for what is trained beside it.
"""

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import generate
from benchmarks.generate import lengths, small_model
from benchmarks.harness import Options, Row, compared, equal_steps, first_failure, fresh, low_precision, turns
from benchmarks.machine import peak
from benchmarks.tuning import order, timed
from bloomery.model.config import ModelConfig

SPREADS = {"high": 0.8, "low": 0.3}
LOUD = 2.0              # times the first matrices of a block, so that what is read matters to the loss
GATE, GATE_BF16 = 8, 24                 # steps
Side = Callable[..., dict]


def work(spread: float, *, steps: int, rows: int, quick: bool) -> dict:
    """Lengths of the examples of so many steps."""
    scale = 8 if quick else 1

    def drawn(mean: int, seed: int) -> list[int]:
        return lengths(steps * rows, mean=mean / scale, spread=spread, least=4, most=4 * mean // scale, seed=seed)

    return {"prompts": drawn(160, 1), "completions": drawn(120, 2), "rows": rows}


def floor(config: ModelConfig, spec: dict, *, padded: bool, checkpointed: bool = False, adapter: int = 0) -> float:
    """FLOPs a useful token that cannot be left out; `adapter` is the number of weights beside frozen ones.

    Two FLOPs a weight forward, as many for the gradient of what it reads, and for its own unless it is frozen.
    """
    head = config.vocabulary * config.width
    body = config.parameters() - config.tables() - head
    passes = (4 if adapter else 6) + 2 * checkpointed
    total, counted = 0.0, 0
    for step in timed(spec):
        sizes = [spec["prompts"][i] + spec["completions"][i] for i in step]
        counted += sum(sizes)
        scored = len(step) * max(sizes) if padded else sum(spec["completions"][i] for i in step)
        sizes = [max(sizes)] * len(sizes) if padded else sizes
        tokens, squares = sum(sizes), sum(size**2 for size in sizes)
        total += tokens * (passes * body + 6 * adapter) + (4 if adapter else 6) * head * scored
        total += (6 + 2 * checkpointed) * config.depth * config.heads * config.head_width * squares
    return total / counted


def export(config: ModelConfig, folder: Path) -> Path:
    """A folder both sides read, in fp32: both train all of it."""
    return generate.export(config, folder, loud=LOUD, dtype=torch.float32)


def gates(side: Side, spread: float, sides: tuple[str, ...], *, quick: bool) -> dict[str, str]:
    """Whether each of our sides takes the peer's steps; "not run" with the reason where TRL is missing."""
    few = work(spread, steps=3 if quick else GATE, rows=4, quick=quick)
    many = work(spread, steps=GATE_BF16, rows=4, quick=quick)
    reference = side("trl", precision="fp32", gate=True, **few)
    if "not_run" in reference:
        return dict.fromkeys(sides, f"not run: {reference['not_run']}")
    theirs = side("trl", **many), side("trl", precision="fp32", **many)
    return {which: first_failure(equal_steps(side(which, precision="fp32", **few), reference),
                                 low_precision(side(which, **many), *theirs)) for which in sides}


def tuned(side: Side, spec: dict, *, quick: bool) -> dict:
    """TRL's best settings here: the fastest of all of them, each tried once."""
    tried = [{"workers": count, "grouped": grouped} for grouped in (False, True) for count in (0, 1)]
    tried = tried[:1] if quick else tried
    return max(tried, key=lambda chosen: side("trl", **spec | chosen)["rate"])


def compare(name: str, spread: float, config: ModelConfig, folder: Path, options: Options, *,
            adapter: Path | None = None, weights: int = 0, borrow: bool = False) -> Iterator[Row]:
    """The rows of one spread of lengths; `weights` is how many an adapter has."""
    common = {"folder": str(folder), "adapter": adapter and str(adapter), "precision": "bf16", "tuned": True,
              "workers": 0, "grouped": False}
    spec = work(spread, steps=5 if options.quick else 13, rows=4 if options.quick else 8, quick=options.quick)

    def side(which: str, **more: object) -> dict:
        return fresh(options, "tuning", which, json.dumps(common | more), peer=which != "ours")

    verdicts = gates(side, spread, ("ours", "borrowed")[:1 + borrow], quick=options.quick)
    if verdicts["ours"].startswith("not run"):
        yield Row(name, verdicts["ours"], unit="tokens/s")
        return
    best, flops = tuned(side, spec, quick=options.quick), peak("bfloat16")
    least = floor(config, spec, padded=False, adapter=weights)
    against = {name: ("ours", best), f"{name}, default": ("ours", {"tuned": False}),
               f"{name}, transformers' forward": ("borrowed", best)}
    for label, (which, chosen) in against.items():
        if which not in verdicts:
            continue
        pairs = turns(lambda w=which: side(w, **spec), lambda c=chosen: side("trl", **spec | c), options.pairs)
        asked = common | spec | chosen
        theirs = floor(config, asked, padded=True, checkpointed=not asked["tuned"], adapter=weights)
        mfu = [needed * statistics.median(each["rate"] for each in sides) / flops
               for needed, sides in zip((least, theirs), zip(*pairs, strict=True), strict=True)]
        details = {"mfu_ours": round(mfu[0], 3), "mfu_peer": round(mfu[1], 3), "trl": chosen,
                   "useful share of the peer's tokens": round(useful(asked), 3)}
        yield compared(label, pairs, gate=verdicts[which], key="rate", unit="tokens/s", floor=theirs / least,
                       peer_mfu=mfu[1], details=details)


def useful(spec: dict) -> float:
    """The share of a padded batch's tokens that are no padding."""
    sizes = [[spec["prompts"][i] + spec["completions"][i] for i in step] for step in order(spec)]
    return sum(map(sum, sizes)) / sum(len(step) * max(step) for step in sizes)


def run(options: Options) -> Iterator[Row]:
    config = small_model(options, context=1024)
    with tempfile.TemporaryDirectory() as place:
        folder = export(config, Path(place))
        for name, spread in SPREADS.items():
            yield from compare(name, spread, config, folder, options, borrow=True)
