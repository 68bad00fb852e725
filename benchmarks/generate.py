"""Case `generate` (B10): greedy decoding in bf16 against transformers' `generate`, vLLM where it is installed.

    batch 1              8 prompts of 64 tokens, one after another, 64 new tokens each
    32 equal             32 of them side by side
    32 mixed             128 prompts, 32 at once, log-normal lengths of prompt and answer
    batch 1, 124M        as batch 1, with GPT-2's size, where memory is the limit: bytes of weights a second

Width 512, 8 layers, 16,384 tied ids.  Gate: in fp32 all tokens are the peer's and their log-probabilities are within
1e-4; in bf16 ours are no further from fp32 than the peer's, a quarter to spare, and where fp32's choice is clear (it
leads by more than four times the peer's error) 99.5 % of ours are the same.  The tuned peer has the faster of a dynamic
and a static cache, and for mixed lengths the faster of prompts in order and sorted by length.

Weights as they are first drawn repeat the last token for ever, on which no gate could fail; here blocks are `LOUD`.
"""

import json
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.harness import LOW_PRECISION, PASSED, Options, Row, compared, first_failure, fresh, turns
from benchmarks.machine import bandwidth, peak
from bloomery.model.config import ModelConfig
from bloomery.model.presets import sized
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer

LOUD = 4.0                              # times the first weights of every matrix in a block
CLOSE = 1e-4                            # nats between log-probabilities in fp32
CLEAR, AGREE = 4.0, 0.995
CACHES = ("dynamic", "static")
ENGINES = ("vllm", "llama.cpp")
GATED = 32                              # requests a gate looks at


def export(config: ModelConfig, folder: Path, *, loud: float = LOUD, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A folder both sides read; in bf16 what a gate in fp32 widens is the same on both."""
    model = Transformer(config, seed=0)
    with torch.no_grad():
        for weight in model.blocks.parameters():
            if weight.dim() > 1:
                weight.mul_(loud)
    save_model(model, folder, dtype=dtype)
    return folder


def lengths(count: int, *, mean: float, spread: float, least: int, most: int, seed: int) -> list[int]:
    """Log-normal lengths with this mean and coefficient of variation, cut to [least, most]."""
    sigma = math.log(1 + spread**2) ** 0.5
    draw = random.Random(seed)
    return [min(max(round(mean * math.exp(draw.gauss(-sigma**2 / 2, sigma))), least), most) for _ in range(count)]


def works(*, quick: bool) -> dict[str, dict]:
    """The rows: lengths of prompts and answers, and how many requests are alive at once."""
    tokens, rows, count = (16, 4, 2) if quick else (64, 32, 8)

    def drawn(seed: int) -> list[int]:
        return lengths(4 * rows, mean=tokens, spread=0.8, least=tokens // 16, most=4 * tokens - 1, seed=seed)

    one = {"prompts": [tokens] * count, "new": [tokens] * count, "rows": 1}
    return {"batch 1": one,
            f"{rows} equal": {"prompts": [tokens] * rows, "new": [tokens] * rows, "rows": rows},
            f"{rows} mixed": {"prompts": drawn(1), "new": drawn(2), "rows": rows},
            "batch 1, 124M": one | {"large": True}}


def gate(side: Callable[..., dict], work: dict, folder: Path) -> tuple[str, dict]:
    """Whether both sides generate the same, and how often they choose alike; `side(name, **spec)` runs one."""
    asked = few(work)
    theirs = side("transformers", **asked, precision="fp32")
    if "not_run" in theirs:
        return f"not run: {theirs['not_run']}", {}
    full = side("ours", **asked, precision="fp32")
    exact = first_failure(same_tokens(full["done"], theirs["done"]),
                          close(flat(full, "logps"), judged(side, full, folder)["logps"]))
    low = side("ours", **asked)
    verdict, details = agreement(flat(low, "ids"), flat(low, "logps"), judged(side, low, folder, precision="bf16"),
                                 judged(side, low, folder))
    return first_failure(exact, verdict), details


def few(work: dict) -> dict:
    """As much of the work as a gate looks at."""
    return work | {"prompts": work["prompts"][:GATED], "new": work["new"][:GATED], "gate": True}


def flat(said: dict, key: str) -> list:
    return [value for samples in said["done"] for one in samples for value in one[key]]


def judged(side: Callable[..., dict], said: dict, folder: Path, *, precision: str = "fp32") -> dict:
    """What transformers thinks of the completions a side came to, token by token."""
    file = folder / "completions.json"
    file.write_text(json.dumps({key: said[key] for key in ("prompts", "done")}))
    return side("judged", precision=precision, file=str(file))


def same_tokens(ours: list[list[dict]], peers: list[list[dict]]) -> str:
    for request, (mine, theirs) in enumerate(zip(ours, peers, strict=True)):
        for place, (a, b) in enumerate(zip(mine[0]["ids"], theirs[0]["ids"], strict=True)):
            if a != b:
                return f"failed: token {place} of request {request} is {a}, the peer's {b}"
    return PASSED


def close(ours: list[float], peers: list[float]) -> str:
    worst = max(abs(a - b) for a, b in zip(ours, peers, strict=True))
    return PASSED if worst <= CLOSE else f"failed: log-probabilities differ by {worst:.1e}, more than {CLOSE:.0e}"


def apart(some: dict | list[float], exact: dict) -> float:
    """Root mean square of differences of log-probabilities, nats."""
    logps = some["logps"] if isinstance(some, dict) else some
    return statistics.fmean((a - b) ** 2 for a, b in zip(logps, exact["logps"], strict=True)) ** 0.5


def clear_choices(ids: list[int], exact: dict, error: float) -> tuple[str, dict]:
    """Whether `ids` are what fp32 chooses too, where it leads its second by more than `CLEAR` errors of bf16."""
    same = [a == b for a, b in zip(ids, exact["choices"], strict=True)]
    clear = [hit for hit, lead in zip(same, exact["leads"], strict=True) if lead > CLEAR * error]
    share = statistics.fmean(clear) if clear else 0.0
    return (PASSED if share >= AGREE else f"failed: {share:.1%} of clear choices are those of fp32",
            {"choices that are fp32's": round(statistics.fmean(same), 3), "clear ones": round(share, 4),
             "of": [len(clear), len(same)]})


def agreement(ids: list[int], logps: list[float], peer: dict, exact: dict) -> tuple[str, dict]:
    """The gate in bf16, on tokens we chose: `peer` and `exact` are what transformers says of them in bf16 and fp32."""
    mine, theirs = apart(logps, exact), apart(peer, exact)
    verdict, details = clear_choices(ids, exact, theirs)
    details |= {"bf16 error in nats, ours and peer": [round(mine, 4), round(theirs, 4)]}
    if not mine <= LOW_PRECISION * theirs:
        return f"failed: bf16 is {mine:.1e} nats away from fp32, the peer's {theirs:.1e}", details
    return verdict, details


def floors(config: ModelConfig, work: dict, flops: float, read: float, *, grouped: bool) -> tuple[float, float]:
    """Seconds below which no program does the work with these weights: as it is, and in padded batches as the peer's.

    Prompts cost 2 N FLOPs a token without the head; a step costs the longer of 2 N FLOPs a row and reading all weights.
    """
    whole = config.parameters() - config.tables()
    body = whole - config.vocabulary * config.width

    def seconds(prompt_tokens: int, new_tokens: int, steps: float) -> float:
        return 2 * body * prompt_tokens / flops + max(2 * whole * new_tokens / flops, steps * 2 * whole / read)

    asked = list(zip(work["prompts"], work["new"], strict=True))
    asked = sorted(asked, key=lambda lengths: lengths[0]) if grouped else asked
    batches = [asked[at:at + work["rows"]] for at in range(0, len(asked), work["rows"])]
    longest = [tuple(max(column) for column in zip(*batch, strict=True)) for batch in batches]
    padded = [sum(len(batch) * most[which] for batch, most in zip(batches, longest, strict=True)) for which in (0, 1)]
    return (seconds(sum(work["prompts"]), sum(work["new"]), sum(work["new"]) / work["rows"]),
            seconds(*padded, sum(new for _, new in longest)))


def small_model(options: Options, *, context: int = 512) -> ModelConfig:
    """The model of most rows, 31.6M; a smoke test makes do with less."""
    return sized(2 if options.quick else 8, vocabulary=16_384, context=context, width=64 if options.quick else 512,
                 hidden=None if options.quick else 1376)


def run(options: Options) -> Iterator[Row]:
    gpt2 = sized(2 if options.quick else 12, vocabulary=50_257, context=512, width=64 if options.quick else 768,
                 kv_heads=1 if options.quick else 12)
    configs = {False: small_model(options), True: gpt2}
    with tempfile.TemporaryDirectory() as place:
        folders = {large: export(config, Path(place) / str(large)) for large, config in configs.items()}
        for name, work in works(quick=options.quick).items():
            large = work.pop("large", False)
            yield from compare(name, work, configs[large], folders[large], options)


def compare(name: str, work: dict, config: ModelConfig, folder: Path, options: Options) -> Iterator[Row]:
    """The rows of one work: the tuned peer, its defaults where those are others, and other engines."""
    common = {"folder": str(folder), "n": 1, "temperature": 0, "vocabulary": config.vocabulary, "precision": "bf16",
              "cache": "dynamic", "grouped": False} | work

    def side(which: str, **more: object) -> dict:
        return fresh(options, "generation", which, json.dumps(common | more), peer=which != "ours")

    def measured(peer: str, **more: object) -> list[tuple[dict, dict]]:
        return turns(lambda: side("ours"), lambda: side(peer, **more), options.pairs)

    verdict, details = gate(side, work, folder)
    if verdict.startswith("not run"):
        yield Row(name, verdict)
        return
    orders = (False, True) if len(set(work["prompts"])) > 1 else (False,)
    settings = [{"cache": cache, "grouped": grouped} for grouped in orders for cache in CACHES]
    tuned = max(settings, key=lambda chosen: side("transformers", **chosen)["rate"])
    weights = 2 * (config.parameters() - config.tables())
    limits = peak("bfloat16"), *bandwidth(weights)
    for label, chosen in {name: tuned, f"{name}, default": settings[0]}.items():
        if label == name or chosen != tuned:
            pairs = measured("transformers", **chosen)
            least = floors(config, work, limits[0], limits[2], grouped=chosen["grouped"])
            seconds = statistics.median(peer["seconds"] for _, peer in pairs)
            more = {"transformers": chosen} | (moved(pairs, weights, limits[1]) if work["rows"] == 1 else {}) | details
            yield compared(label, pairs, gate=verdict, key="rate", unit="tokens/s", floor=least[1] / least[0],
                           peer_mfu=least[1] / seconds, details=more)
    for engine in ENGINES:
        yield from another(f"{name}, {engine}", engine, side, measured, few(work), folder)


def moved(pairs: list[tuple[dict, dict]], weights: float, copied: float) -> dict:
    """Bytes of weights a second while tokens are decoded, both sides, beside what a copy of as much memory reaches."""
    speeds = [weights / statistics.median(each["token"] for each in sides) for sides in zip(*pairs, strict=True)]
    return {"weights GB/s, ours and peer": [round(speed / 1e9, 1) for speed in speeds],
            "share of copy bandwidth": [round(speed / copied, 3) for speed in speeds],
            "copy GB/s": round(copied / 1e9, 1)}


def another(name: str, engine: str, side: Callable[..., dict], measured: Callable[..., list], asked: dict,
            folder: Path) -> Iterator[Row]:
    """The row of an engine with kernels of its own: its clear choices must be those of fp32."""
    said = side(engine, **asked)
    if "not_run" in said:
        yield Row(name, f"not run: {said['not_run']}", unit="tokens/s")
        return
    exact = judged(side, said, folder)
    error = apart(judged(side, said, folder, precision="bf16"), exact)
    verdict, details = clear_choices(flat(said, "ids"), exact, error)
    yield compared(name, measured(engine), gate=verdict, key="rate", unit="tokens/s", details=details)
