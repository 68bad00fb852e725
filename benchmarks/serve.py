"""Case `serve`: `bloomery serve` against `transformers serve` under a load that does not wait.

1, 8 and 32 concurrent clients: requests come at random (Poisson), on average as many while our server, with nothing
else to do, answers one.  Prompts and answers have log-normal lengths; both sides get the same requests at the same
moments.  Rows: tokens a second until all are answered; seconds to the first token from when a request was due; seconds
between the tokens of an answer, on average over it.  The last two are medians over requests, with higher percentiles
beside them, and those of single gaps, which show stalls.  Gate: in fp32 both servers give the same text.  The tuned
peer serves with or without continuous batching, whichever has more tokens a second.
"""

import json
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from benchmarks.generate import export, lengths, small_model
from benchmarks.harness import PASSED, Broken, Options, Row, compared, fresh, turns
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import CONTROL, Tokenizer

CLIENTS = (1, 8, 32)
METRICS = {"tokens/s": ("rate", "tokens/s", False), "first token": ("first", "seconds", True),
           "between tokens": ("between", "seconds", True)}
FLAGS = ([], ["--continuous-batching"])


def words(vocabulary: int) -> Tokenizer:
    """A tokenizer with a word for every id, so that every token is seen as it comes."""
    ids = {word: place for place, word in enumerate([*CONTROL, *(f"w{i}" for i in range(len(CONTROL), vocabulary))])}
    backend = Backend(models.WordLevel(ids, unk_token=CONTROL[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(list(CONTROL))
    return Tokenizer(backend)


def requests(count: int, *, rate: float, vocabulary: int, mean: int, seed: int) -> list[dict]:
    """Requests that come at random, `rate` a second; the first is due at once."""
    draw, due, out = random.Random(seed), 0.0, []
    sizes = [lengths(count, mean=mean, spread=0.8, least=4, most=3 * mean, seed=seed + k) for k in (1, 2)]
    for prompt, new in zip(*sizes, strict=True):
        text = " ".join(f"w{draw.randrange(len(CONTROL), vocabulary)}" for _ in range(prompt))
        out.append({"due": due, "prompt": text, "new": new})
        due += draw.expovariate(rate)
    return out


def run(options: Options) -> Iterator[Row]:
    config, mean = small_model(options), 12 if options.quick else 64
    with tempfile.TemporaryDirectory() as place:
        folder = export(config, Path(place) / "model")
        words(config.vocabulary).save(folder, context=config.context, chat_template=TEMPLATES["chatml"].jinja())

        def drawn(count: int, seed: int, *, rate: float = float("inf")) -> list[dict]:
            return requests(count, rate=rate, vocabulary=config.vocabulary, mean=mean, seed=seed)

        def side(name: str, wanted: list[dict], **more: object) -> dict:
            spec = {"folder": str(folder), "dtype": "bf16", "requests": wanted, "warm": drawn(2, 1)} | more
            return fresh(options, "serving", name, json.dumps(spec), peer=name != "ours")

        few = drawn(2 if options.quick else 6, 2)
        verdict = same_texts(side("transformers", few, dtype="fp32", gate=True),
                             lambda: side("ours", few, dtype="fp32", gate=True))
        alone = statistics.fmean(side("ours", [one])["seconds"] for one in few[:3])
        for clients in CLIENTS[:2] if options.quick else CLIENTS:
            count = min(clients, 4) if options.quick else max(4 * clients, 16)
            yield from compare(clients, drawn(count, 3, rate=clients / alone), side, verdict, options)


def same_texts(peer: dict, ours: Callable[[], dict]) -> str:
    if "not_run" in peer:
        return f"not run: {peer['not_run']}"
    for request, (a, b) in enumerate(zip(ours()["texts"], peer["texts"], strict=True)):
        if a != b:
            return f"failed: in fp32 the servers answer request {request} differently"
    return PASSED


def shown(runs: list[dict], key: str) -> dict[str, list[float]]:
    """Milliseconds at the 50th, 90th and 99th percentile, medians over the runs of a side."""
    names = {"first": ["first percentiles"], "between": ["between percentiles", "gaps"]}.get(key, [])
    return {f"{name.removesuffix(' percentiles')} ms at 50, 90, 99 %": [
        round(1000 * statistics.median(run[name][at] for run in runs), 1) for at in ("50", "90", "99")]
        for name in names}


def faster(side: Callable[..., dict], wanted: list[dict]) -> list[str]:
    """The peer's flags with more tokens a second; what fails under this load is not among them."""
    rates = {}
    for flags in FLAGS:
        try:
            rates[tuple(flags)] = side("transformers", wanted, flags=flags)["rate"]
        except Broken:
            if not flags:
                raise
    return list(max(rates, key=lambda flags: rates[flags]))


def compare(clients: int, wanted: list[dict], side: Callable[..., dict], verdict: str,
            options: Options) -> Iterator[Row]:
    """The rows of one load: all metrics from the same measurements, the tuned peer first."""
    label = f"{clients} client{'s' if clients > 1 else ''}"
    if verdict.startswith("not run"):
        said = side("ours", wanted)
        yield from (Row(f"{label}, {name}", verdict, ours=said[key], unit=unit, details=shown([said], key))
                    for name, (key, unit, _) in METRICS.items())
        return
    tuned = faster(side, wanted)
    for kind, flags in {"": tuned, ", default": FLAGS[0]}.items():
        if kind and flags == tuned:
            continue
        pairs = turns(lambda: side("ours", wanted), lambda f=flags: side("transformers", wanted, flags=f),
                      options.pairs)
        sides = dict(zip(("ours", "peer"), zip(*pairs, strict=True), strict=True))
        for name, (key, unit, less) in METRICS.items():
            told = {f"{who} {what}": value for who, runs in sides.items() for what, value in shown(runs, key).items()}
            yield compared(f"{label}, {name}{kind}", pairs, gate=verdict, key=key, unit=unit, less=less,
                           details={"flags": flags, "requests": len(wanted)} | told)
