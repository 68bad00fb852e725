"""Case `grpo` (B8): GRPO of all weights against TRL's GRPOTrainer with transformers' `generate`, in bf16.

    P32, P128, P384             8 prompts of so many tokens, 8 answers of 192 to each, no KL: completions a second
    ..., rollout and update     the seconds of a step that draw, and those that learn
    ..., default                TRL as it comes

Width 512, 8 layers, 16,384 tied ids; one update a rollout.  Gate: on dictated answers of many lengths, learned from
twice so that ratios are not 1, losses and gradient norms of 8 updates agree in fp32, and in bf16 our norms of 24 are no
further from fp32 than TRL's, a quarter and two standard errors to spare.  What is drawn is held to one distribution: in
fp32 transformers finds our answers as likely as we did, 1e-4; in bf16 the KL between both is below 1e-3 nats a token;
and the answers of both sides are equally likely to it, within four standard errors.  The tuned peer has no
checkpointing, fused AdamW, nothing logged, and the fastest of 64 or 8 answers learned from at once and of a dynamic or
a static cache.

    floor = sum over sequences of n (2 N_body T + 2 L H E T^2 + 2 D V (scored positions))       FLOPs

One pass draws and three learn.  We read a prompt once in each for all of its answers, the peer once for each of them;
its head reads every position that it learns from.
"""

import json
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.generate import close, judged, small_model
from benchmarks.harness import (
    LOSS,
    LOW_PRECISION,
    NORM,
    PASSED,
    Options,
    Row,
    compared,
    deviation,
    equal_figures,
    first_failure,
    fresh,
    turns,
)
from benchmarks.machine import peak
from benchmarks.preferences import floor
from benchmarks.sft import export
from bloomery.model.config import ModelConfig

PROMPTS = (32, 128, 384)                                        # tokens
ASKED, SAMPLES, NEW = 8, 8, 192                                 # prompts a step, answers to each, tokens of an answer
DEFAULT = {"tuned": False, "rows": SAMPLES, "cache": None}      # TRL's own numbers, and our accumulation
UPDATES, UPDATES_BF16 = 8, 24                                   # of the gate
NEAR, ERRORS = 1e-3, 4                                          # nats of KL a token; standard errors
Side = Callable[..., dict]


def work(prompt: int, *, quick: bool) -> dict:
    """One size; a smoke test makes do with an eighth of its tokens, and with fewer of them."""
    asked, samples, scale = (2, 4, 8) if quick else (ASKED, SAMPLES, 1)
    return {"prompts": [prompt // scale] * asked, "samples": samples, "new": NEW // scale, "steps": 3, "epochs": 1,
            "rows": asked * samples}


def few(spec: dict, updates: int) -> dict:
    """As much of it as a gate looks at: dictated answers, learned from twice."""
    prompts, samples = [4 + length // 4 for length in spec["prompts"][:4]], min(spec["samples"], 4)
    return spec | {"prompts": prompts, "samples": samples, "new": max(8, spec["new"] // 4), "epochs": 2,
                   "steps": updates // 2, "rows": len(prompts) * samples, "gate": True}


def gate(side: Side, spec: dict, folder: Path) -> tuple[str, dict]:
    """Whether our updates and draws are the peer's, and how near; "not run" with the reason where TRL is missing."""
    exact, many = few(spec, UPDATES) | {"precision": "fp32"}, few(spec, UPDATES_BF16)
    reference = side("trl", **exact)
    if "not_run" in reference:
        return f"not run: {reference['not_run']}", {}
    learned = same_updates(side("ours", **exact), reference)
    rounded = near_enough(*(side(which, **many | {"precision": precision})["figures"]["grad_norm"]
                            for which, precision in (("ours", "bf16"), ("trl", "bf16"), ("trl", "fp32"))))
    drawn, details = same_draws(side, spec | {"steps": 1}, folder)
    return first_failure(learned, rounded, drawn), details


def same_updates(ours: dict, peer: dict) -> str:
    """Losses are near 0 at a ratio of 1, so they are held to their usual size."""
    return first_failure(*(equal_figures(*({"figures": {name: said["figures"][name]}} for said in (ours, peer)),
                                         limit=limit) for name, limit in {"loss": LOSS, "grad_norm": NORM}.items()))


def near_enough(ours: list[float], peer: list[float], exact: list[float]) -> str:
    """Whether our gradient norms in bf16 are as near to fp32 as the peer's, a quarter to spare.

    Of two root mean squares of n numbers the ratio has a standard error of 1 / sqrt(n); two of them are no failure.
    """
    mine, theirs = (deviation({"losses": norms}, {"losses": exact}) for norms in (ours, peer))
    if mine <= LOW_PRECISION * theirs * (1 + 2 / len(exact) ** 0.5):
        return PASSED
    return f"failed: gradient norms in bf16 are {mine:.1e} away from fp32, the peer's {theirs:.1e}"


def same_draws(side: Side, spec: dict, folder: Path) -> tuple[str, dict]:
    """Whether what both sides draw comes from one distribution: that of the model as transformers reads it in fp32."""
    exact, rounded, theirs = side("ours", **spec | {"precision": "fp32"}), side("ours", **spec), side("trl", **spec)
    verdict = close(exact["logps"], judged(side, exact, folder)["logps"])
    likely, peers = (judged(side, said, folder)["logps"] for said in (rounded, theirs))
    kl = statistics.fmean(math.expm1(b - a) - (b - a) for a, b in zip(rounded["logps"], likely, strict=True))
    answers = [[statistics.fmean(logps[at:at + spec["new"]]) for at in range(0, len(logps), spec["new"])]
               for logps in (likely, peers)]
    apart = statistics.fmean(answers[0]) - statistics.fmean(answers[1])
    error = sum(statistics.variance(each) / len(each) for each in answers) ** 0.5
    details = {"KL of what we draw": kl, "nats by which our answers are likelier": round(apart, 4),
               "standard error": round(error, 4)}
    if not kl <= NEAR:
        return first_failure(verdict, f"failed: what we draw is {kl:.1e} nats a token away from fp32"), details
    if not abs(apart) <= ERRORS * error:
        return first_failure(verdict, f"failed: our answers are {apart:.3g} nats a token likelier than the peer's, "
                                      f"the standard error is {error:.2g}"), details
    return verdict, details


def reads(spec: dict, *, padded: bool) -> list[tuple]:
    """What a step cannot leave out: (passes, tokens before, tokens, positions scored)."""
    new, samples = spec["new"], spec["samples"]
    if not padded:
        return [read for prompt in spec["prompts"] for read in [(4, 0, prompt, 0)] + [(4, prompt, new, new)] * samples]
    learning = 3 + (not spec["tuned"]) + (spec["task"] == "rloo")       # checkpointing; TRL's RLOO reads its draws once
    return [read for prompt in spec["prompts"] for read in
            [(1, 0, prompt + new, new), (learning, 0, prompt + new, prompt + new)] * samples]


def tuned(side: Side, spec: dict, *, quick: bool) -> dict:
    """TRL's best settings here: the fastest of all of them, each tried once; a smoke test tries none."""
    tried = [{"rows": rows, "cache": cache} for rows in (spec["rows"], spec["samples"]) for cache in (None, "static")]
    return tried[0] if quick else max(tried, key=lambda chosen: side("trl", **spec | {"steps": 2} | chosen)["rate"])


def compare(name: str, task: str, prompt: int, config: ModelConfig, folder: Path, options: Options, *,
            gated: tuple[str, dict] | None = None) -> Iterator[Row]:
    """The rows of one size; `gated` is what another size's gate said. A smoke test leaves out TRL as it comes."""
    spec = {"task": task, "folder": str(folder), "precision": "bf16", "tuned": True, "workers": 0, "cache": None} | \
        work(prompt, quick=options.quick)

    def side(which: str, **more: object) -> dict:
        module = "generation" if which == "judged" else "acting"
        return fresh(options, module, which, json.dumps(spec | more), peer=which != "ours")

    verdict, details = gated or gate(side, spec, folder)
    if verdict.startswith("not run"):
        yield Row(name, verdict, unit="completions/s")
        return
    best, flops = tuned(side, spec, quick=options.quick), peak("bfloat16")
    for label, chosen in {name: best, f"{name}, default": DEFAULT}.items():
        if options.quick and label != name:
            continue
        measured = turns(lambda: side("ours"), lambda c=chosen: side("trl", **c), options.pairs)
        least = [floor(config, [reads(spec | chosen, padded=padded)]) / spec["rows"] for padded in (False, True)]
        mfu = [needed * statistics.median(each["rate"] for each in sides) / flops
               for needed, sides in zip(least, zip(*measured, strict=True), strict=True)]
        more = {"mfu_ours": round(mfu[0], 3), "mfu_peer": round(mfu[1], 3), "trl": chosen} | details
        yield compared(label, measured, gate=verdict, key="rate", unit="completions/s", floor=least[1] / least[0],
                       peer_mfu=mfu[1], details=more)
        if label == name:
            for key in ("rollout", "update"):
                yield compared(f"{name}, {key}", measured, gate=verdict, key=key, unit="seconds a step", less=True)


def run(options: Options) -> Iterator[Row]:
    config = small_model(options, context=1024)
    with tempfile.TemporaryDirectory() as place:
        folder = export(config, Path(place) / "model")
        gated = None                                            # one gate is enough for a smoke test
        for prompt in PROMPTS:
            for row in compare(f"P{prompt}", "grpo", prompt, config, folder, options, gated=gated):
                gated = (row.gate, {}) if options.quick else None
                yield row
