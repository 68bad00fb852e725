"""How learning from preferences is compared with TRL: work, gate, the peer's best settings, floors and rows.

Both sides start from the same exported folder and read the same ids in the same order.  Gate, on lengths of a quarter:
in fp32 losses, gradient norms and the figures of 8 steps agree, as log-probabilities of chosen and rejected answers; in
bf16 we are no further from the fp32 losses of 24 steps than TRL, a quarter to spare.  The tuned peer has no
checkpointing, fused AdamW, nothing logged, and the best of examples as they come or grouped by length, and of a
reference read before or in each step; `default` is TRL as it comes.

    floor = sum over sequences of n (2 N_body T + 2 L H E T^2 + 2 D V (scored positions))       FLOPs

n counts passes: 3 of learning, 1 of the reference, of which one epoch of E bears its part.  T is a length of ours, a
prompt counted once, and the longest of its step for the peer, whose head reads every position.
"""

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.generate import lengths
from benchmarks.harness import (
    Options,
    Row,
    compared,
    equal_figures,
    equal_steps,
    first_failure,
    fresh,
    low_precision,
    turns,
)
from benchmarks.machine import peak
from benchmarks.preferring import EPOCHS, mismatched, order, reads_before, warm
from benchmarks.sft import GATE, GATE_BF16
from bloomery.data.stream import samples
from bloomery.model.config import ModelConfig

SIZES = {"P256 C96": (256, 96), "P64 C192": (64, 192)}          # mean lengths of prompts and of answers
TUNED = {"precision": "bf16", "tuned": True, "workers": 0, "grouped": False, "precompute": True}
DEFAULT = {"tuned": False, "precompute": False}
SPREAD = 0.5            # coefficient of variation
Side = Callable[..., dict]


def work(prompt: int, answer: int, *, steps: int, rows: int, spread: float = SPREAD) -> dict:
    """Lengths of the examples of so many steps with these means, and the order the stages draw them in."""
    count = steps * rows

    def drawn(mean: int, seed: int) -> list[int]:
        return lengths(count, mean=mean, spread=spread, least=4, most=4 * mean, seed=seed)

    return {"prompts": drawn(prompt, 1), "chosen": drawn(answer, 2), "rejected": drawn(answer, 3), "rows": rows,
            "order": [samples(step, rows, count, 0).tolist() for step in range(steps)]}


def ours_read(spec: dict, epochs: int) -> list[list[tuple]]:
    """What we cannot leave out of each step on the clock: (passes, tokens before, tokens, positions scored)."""
    task, once = spec["task"], 1 / epochs                       # the reference's part in one epoch of several
    other, found = mismatched(spec | {"grouped": False}), []
    for step in spec["order"][warm(spec):]:
        read = []
        for i in step:
            prompt, good, bad = (spec[name][i] for name in ("prompts", "chosen", "rejected"))
            if task == "kto":                                   # the mismatched answer is measured, not learned
                also = spec["chosen"][other[i]]
                read += [(3 + once, 0, prompt, 0), (3 + once, prompt, good, good), (1 + once, prompt, also, also)]
            else:
                passes = 3 + once if task == "dpo" else 3
                scored = {"reward": (0, 0, 0), "orpo": (prompt, good, bad)}.get(task, (0, good, bad))
                read += [(passes, 0, prompt, scored[0]), (passes, prompt, good, scored[1]),
                         (passes, prompt, bad, scored[2])]
        found.append(read)
    return found


def peer_reads(spec: dict, epochs: int) -> list[list[tuple]]:
    """The same of TRL: rows as long as the longest of their step, all of their positions scored."""
    task, learning = spec["task"], 3 if spec["tuned"] else 4    # checkpointing is one more pass forward
    once = 1 / epochs if reads_before(spec) else task in ("dpo", "kto")
    other, found = mismatched(spec), []
    for step in order(spec)[warm(spec):]:
        answers = ("chosen",) if task == "kto" else ("chosen", "rejected")
        wide = max(spec["prompts"][i] + spec[name][i] for i in step for name in answers)
        read = [(learning + once, 0, wide, 0 if task == "reward" else wide)] * len(step) * len(answers)
        if task == "kto":
            wide = max(spec["prompts"][i] + spec["chosen"][other[i]] for i in step)
            read += [(1 + once, 0, wide, wide)] * len(step)
        found.append(read)
    return found


def floor(config: ModelConfig, read: list[list[tuple]]) -> float:
    """FLOPs an example that cannot be left out, from what every step reads."""
    head = config.vocabulary * config.width
    body = config.parameters() - config.tables() - head
    attention = config.depth * config.heads * config.head_width
    total = sum(2 * passes * (body * tokens + attention * ((before + tokens) ** 2 - before**2) + head * scored)
                for step in read for passes, before, tokens, scored in step)
    return total / len(read)


def gate(side: Side, spec: dict) -> str:
    """Whether our steps are the peer's; "not run" with the reason where TRL is missing."""
    exact = spec | {"precision": "fp32", "gate": True}
    reference = side("trl", **exact)
    if "not_run" in reference:
        return f"not run: {reference['not_run']}"
    first = [{"losses": run["losses"][:GATE], "grad_norms": run["grad_norms"][:GATE],
              "figures": {name: values[:GATE] for name, values in run["figures"].items()}}
             for run in (side("ours", **exact), reference)]
    return first_failure(equal_steps(*first), equal_figures(*first),
                         low_precision(side("ours", **spec), side("trl", **spec), reference))


def tuned(side: Side, spec: dict, *, quick: bool) -> dict[int, dict]:
    """TRL's best settings here, for every number of epochs: the fastest of all of them, each tried once."""
    before = (True, False) if spec["task"] in ("dpo", "kto") else (False,)
    tried = [{"grouped": grouped, "precompute": early} for grouped in (False, True) for early in before]
    tried = tried[:1] if quick else tried
    rates = [side("trl", **spec | chosen) for chosen in tried]
    return {epochs: tried[max(range(len(tried)), key=lambda i: rates[i][f"rate {epochs}"])] for epochs in EPOCHS}


def compare(name: str, task: str, size: tuple[int, int], folder: Path, config: ModelConfig, options: Options, *,
            gated: dict | None = None) -> Iterator[Row]:
    """The rows of one size; `gated` is the gate's work where it is not that of a quarter of the lengths."""
    quick, rows = options.quick, 4 if options.quick else 8
    common = {"task": task, "folder": str(folder)} | TUNED
    shrunk = [length // (8 if quick else 1) for length in size]
    spec = common | work(*shrunk, steps=4 if quick else 8, rows=rows)
    gated = gated or work(*(max(8, length // 4) for length in shrunk), steps=GATE_BF16, rows=4)
    unit = "ratings/s" if task == "kto" else "pairs/s"

    def side(which: str, **more: object) -> dict:
        return fresh(options, "preferring", which, json.dumps(more), peer=which != "ours")

    verdict = gate(side, common | gated)
    if verdict.startswith("not run"):
        yield Row(name, verdict, unit=unit)
        return
    best, flops, measured = tuned(side, spec, quick=quick), peak("bfloat16"), {}
    against = {name: (1, best[1]), f"{name}, 3 epochs": (3, best[3]),
               f"{name}, default": (1, DEFAULT)}
    for label, (epochs, chosen) in against.items():
        if epochs == 3 and task not in ("dpo", "kto"):          # nothing is read before the first epoch
            continue
        key = json.dumps(chosen)
        if key not in measured:                                 # one measurement says both numbers of epochs
            measured[key] = turns(lambda: side("ours", **spec), lambda c=chosen: side("trl", **spec | c), options.pairs)
        asked = spec | chosen
        floors = [floor(config, read(asked, epochs)) / rows for read in (ours_read, peer_reads)]
        yield row(label, measured[key], verdict, epochs, unit, flops, floors,
                  {"trl": chosen, "useful share of the peer's tokens": useful(asked)})


def row(label: str, pairs: list[tuple[dict, dict]], gate: str, epochs: int, unit: str, flops: float,
        floors: list[float], details: dict) -> Row:
    """A row with what is said beside its ratio: both MFUs, memory, and where the time of an example goes."""
    sides = list(zip(*pairs, strict=True))
    mfu = [needed * statistics.median(each[f"rate {epochs}"] for each in side) / flops
           for needed, side in zip(floors, sides, strict=True)]
    memory = [statistics.median(each["peak_bytes"] for each in side) for side in sides]
    seconds = {name: [round(statistics.median(each[name] for each in side), 4) for side in sides]
               for name in ("seconds", "reference")}
    details = {"mfu_ours": round(mfu[0], 3), "mfu_peer": round(mfu[1], 3), "peak_mb": [round(m / 1e6) for m in memory],
               "memory_share": round(memory[0] / memory[1], 3), "seconds_a_step": seconds["seconds"],
               "reference_seconds_an_example": seconds["reference"]} | details
    return compared(label, pairs, gate=gate, key=f"rate {epochs}", unit=unit, floor=floors[1] / floors[0],
                    peer_mfu=mfu[1], details=details)


def useful(spec: dict) -> float:
    """The share of the peer's tokens that neither are padding nor repeat a prompt."""
    ours, peers = (sum(tokens for step in read for _, _, tokens, _ in step)
                   for read in (ours_read(spec, 1), peer_reads(spec, 1)))
    return round(ours / peers, 3)
