"""Case `shakespeare` (B1): seconds of training until the loss over the whole validation split is 1.88 nats or less.

Tiny Shakespeare by characters, first 90 % to train on, windows of 64; the peer is nanoGPT's own `train.py` with its CPU
recipe (a checkout given by --nanogpt, used as it is but for the lines in `EDITS`).

    system    our model, loss, loop and AdamW do nanoGPT's work: same first weights, same batches, same schedule
    recipe    any recipe of ours with 0.80M parameters or fewer: `recipes/shakespeare.toml`

Both sides are evaluated by the same function on the same windows, and no clock runs meanwhile.  The first evaluated
step at or below the target counts.  Every pair has a seed of its own.  nanoGPT reports 1.88 of its recipe from twenty
random batches; over the whole split its 2,000 steps may end above that.  Then its whole run counts: for *system*, which
does the same steps, the ratio is that of whole runs; for *recipe*, which must get there, it is a lower bound.
"""

import gzip
import json
import math
import os
import pickle
import runpy
import statistics
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import (
    PASSED,
    ROOT,
    Broken,
    Options,
    Row,
    compared,
    deviation,
    equal_steps,
    first_failure,
    fresh,
    low_precision,
)

TARGET = 1.88
PARAMETERS = 800_000
CONTEXT, ROWS, STEPS, WARM, RATE, GATE_STEPS = 64, 12, 2000, 100, 1e-3, 8
CURVE = 0.02            # relative distance of training losses over a whole run: in bf16 they drift apart, by chance
NEAR = 0.15             # nothing is evaluated while training losses are further above the target than this
RECIPE = ROOT / "recipes" / "shakespeare.toml"
FLAGS = ["config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=1",
         "--eval_interval=50", f"--block_size={CONTEXT}", f"--batch_size={ROWS}", "--n_layer=4", "--n_head=4",
         "--n_embd=128", f"--max_iters={STEPS}", f"--lr_decay_iters={STEPS}", "--dropout=0.0"]
EDITS = {               # what differs from the checkout's train.py: seed, evaluation, and for `tuned` autocast
    "torch.manual_seed(1337 + seed_offset)": "torch.manual_seed({seed})",
    "# training loop\n": "estimate_loss = watch(globals())\n",
    "ctx = nullcontext() if device_type == 'cpu'": "ctx = {context} if device_type == 'cpu'",
}
CONTEXTS = {"fp32": "nullcontext()", "bf16": "torch.amp.autocast('cpu', torch.bfloat16)"}


class Clock:
    """Seconds of training, losses of every step, and the validation loss every so often, off the clock."""

    def __init__(self, validate: Callable[[], float], *, last: int):
        self.validate, self.last = validate, last
        self.spent, self.started = 0.0, time.perf_counter()
        self.losses: list[float] = []
        self.curve: list[tuple[int, float, float]] = []         # step, seconds of training, validation loss

    def stop(self, *, every: int) -> bool:
        """After a step: whether the run is over. Evaluates at multiples of `every` near the target, and at the end."""
        step = len(self.losses)
        recent = statistics.fmean(self.losses[-every:]) if self.losses else math.inf
        if step < self.last and (step % every or recent > TARGET + NEAR):
            return False
        self.spent += time.perf_counter() - self.started
        if self.last > GATE_STEPS:
            self.curve.append((step, self.spent, self.validate()))
        self.started = time.perf_counter()
        return step >= self.last or self.curve[-1][2] <= TARGET

    def answer(self, **more: object) -> dict:
        step, seconds, loss = self.curve[-1] if self.curve else (len(self.losses), self.spent, math.inf)
        return {"seconds": seconds, "step": step, "validation": loss, "reached": loss <= TARGET, "curve": self.curve,
                "losses": self.losses, **more}


def prepare(folder: Path, text: str, checkout: Path) -> None:
    """A folder nanoGPT can run in: links to the checkout's files, and the text as its `prepare.py` writes it."""
    import numpy as np

    for name in ("config", "configurator.py", "model.py"):
        (folder / name).symlink_to(checkout / name)
    data = folder / "data" / "shakespeare_char"
    data.mkdir(parents=True)
    characters = sorted(set(text))
    index = {character: i for i, character in enumerate(characters)}
    ids = np.array([index[character] for character in text], np.uint16)
    cut = int(len(text) * 0.9)
    ids[:cut].tofile(data / "train.bin")
    ids[cut:].tofile(data / "val.bin")
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(characters), "stoi": index}))


def tokens(split: str):                                                                  # noqa: ANN201
    import numpy as np
    import torch

    return torch.from_numpy(np.fromfile(f"data/shakespeare_char/{split}.bin", np.uint16).astype(np.int64))


def windows(ids):                                                                        # noqa: ANN001, ANN201
    """The whole validation split as rows of CONTEXT tokens and the one after, (B, T + 1); every token is predicted once
    but for the tail that fills no row."""
    return ids[:(len(ids) - 1) // CONTEXT * CONTEXT + 1].unfold(0, CONTEXT + 1, CONTEXT)


def nanogpt(spec: dict) -> dict:
    """nanoGPT's train.py in this process, its `estimate_loss` replaced by ours."""
    import torch

    source = (Path(spec["checkout"]) / "train.py").read_text()
    for line, other in EDITS.items():
        if source.count(line) != 1:
            raise Broken(f"this nanoGPT has no line {line!r}: use karpathy/nanoGPT at 3adf61e1")
        source = source.replace(line, other.format(seed=spec["seed"], context=CONTEXTS[spec["precision"]]))
    rows = windows(tokens("val"))
    answer: dict = {}

    class Over(Exception):
        pass

    def watch(script: dict) -> Callable[[], dict]:
        """Called where train.py evaluates. The losses of its steps are read from its own `model`."""
        model, losses = script["model"], []
        forward = model.forward

        def recorded(ids, targets=None):                                                 # noqa: ANN001, ANN202
            logits, loss = forward(ids, targets)
            if model.training:
                losses.append(loss.detach())
            return logits, loss

        @torch.no_grad()
        def validate() -> float:
            model.eval()
            with script["ctx"]:
                total = sum(float(model(part[:, :-1].contiguous(), part[:, 1:].contiguous())[1]) * len(part)
                            for part in rows.split(128))
            model.train()
            return total / len(rows)

        model.forward = recorded
        clock = Clock(validate, last=spec["steps"])

        def estimate() -> dict:
            clock.losses = [float(loss) for loss in losses]
            if clock.losses and clock.stop(every=spec["every"]):
                answer.update(clock.answer(parameters=sum(p.numel() for p in model.parameters())))
                raise Over
            return {"train": math.inf, "val": math.inf}         # never the best so far: nothing is saved

        return estimate

    script = Path("train.py")
    script.write_text(source)
    sys.path.insert(0, os.getcwd())
    sys.argv = ["train.py", *FLAGS, f"--eval_interval={spec['every']}"]
    try:
        runpy.run_path(str(script), init_globals={"watch": watch})
    except Over:
        return answer
    raise Broken("nanoGPT ended before its last evaluation")


def system(spec: dict) -> dict:
    """Our model, loss, loop and optimizer on nanoGPT's first weights, batches and schedule."""
    import torch

    from bloomery.data.batch import rectangle
    from bloomery.model.config import ModelConfig
    from bloomery.model.transformer import Transformer
    from bloomery.train.optim import OptimizerConfig
    from bloomery.train.state import fresh as begin

    train = tokens("train")
    sys.path.insert(0, os.getcwd())
    from model import GPT, GPTConfig  # the checkout's

    torch.manual_seed(spec["seed"])
    theirs = GPT(GPTConfig(block_size=CONTEXT, vocab_size=65, n_layer=4, n_head=4, n_embd=128, dropout=0.0, bias=False))
    order = torch.get_rng_state()
    config = ModelConfig(vocabulary=65, context=CONTEXT, depth=4, width=128, heads=4, kv_heads=4, head_width=32,
                         hidden=512, norm="layer", activation="gelu", positions="learned", tied=True)
    model = Transformer(config, seed=None, compute=torch.bfloat16 if spec["precision"] == "bf16" else torch.float32)
    take_over(model, theirs)
    settings = OptimizerConfig(lr=RATE, weight_decay=0.1, beta1=0.9, beta2=0.99, clip=1.0, floor=0.1)
    state = begin(model, settings, steps=STEPS)
    state.learning_rate = lambda: nanogpt_rate(state.step)
    torch.set_rng_state(order)
    place = torch.arange(CONTEXT + 1)

    def stream(step: int) -> list:
        return [rectangle(train[torch.randint(len(train) - CONTEXT, (ROWS,))[:, None] + place])]

    return trained(state, stream, spec)


def take_over(model, theirs) -> None:                                                    # noqa: ANN001
    """nanoGPT's weights in our model. Its norms have no bias: ours stay zero, untrained."""
    import torch

    names = {"transformer.wte": "head", "transformer.wpe": "places", "transformer.ln_f": "norm",
             "transformer.h": "blocks", "ln_1": "attention_norm", "ln_2": "mlp_norm", "attn.c_attn": "attention.qkv",
             "attn.c_proj": "attention.output", "mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"}
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            for old, new in names.items():
                name = name.replace(old, new)
            own.pop(name).copy_(weight)
        for name, weight in own.items():
            if not name.endswith("norm.bias"):
                raise Broken(f"nanoGPT has no weight for {name}")
            weight.zero_().requires_grad_(False)


def nanogpt_rate(step: int) -> float:
    """The schedule of train.py: (s + 1) / (W + 1), then a cosine to a tenth."""
    if step < WARM:
        return RATE * (step + 1) / (WARM + 1)
    return RATE / 10 + 0.5 * (1 + math.cos(math.pi * (step - WARM) / (STEPS - WARM))) * (RATE - RATE / 10)


def recipe(spec: dict) -> dict:
    """Our recipe: its model, optimizer, rows and steps from the settings, on windows of a shuffled epoch."""
    import numpy as np
    import torch

    from bloomery.data.shards import Shard
    from bloomery.data.stream import windows as epochs
    from bloomery.model.presets import ModelOptions, shape
    from bloomery.model.transformer import Transformer
    from bloomery.train.optim import OptimizerConfig
    from bloomery.train.state import fresh as begin

    settings = spec["settings"]
    config = shape(ModelOptions(**settings["model"]), 65)
    if config.parameters() > PARAMETERS:
        raise Broken(f"the recipe has {config.parameters()} parameters, more than {PARAMETERS}")
    train = tokens("train").numpy()
    shard = Shard(train, np.array([len(train)]), np.array([len(train)]), eos=-1, vocabulary=65)
    stream = epochs(shard, context=CONTEXT, rows=settings["rows"], micro_rows=settings["rows"], seed=spec["seed"])
    compute = torch.bfloat16 if spec["precision"] == "bf16" else torch.float32
    state = begin(Transformer(config, seed=spec["seed"], compute=compute), OptimizerConfig(**settings["optimizer"]),
                  steps=settings["steps"])
    return trained(state, stream, spec)


def trained(state, stream, spec: dict) -> dict:                                          # noqa: ANN001
    """`fit` with the clock as its hook."""
    from bloomery.data.batch import rectangle
    from bloomery.train.loop import fit
    from bloomery.train.objective import causal_lm, total_nll

    batches = [rectangle(part) for part in windows(tokens("val")).split(128)]

    def validate() -> float:
        nats, count = total_nll(state.model, batches)
        return nats / count

    clock = Clock(validate, last=min(spec["steps"], state.steps))

    def watch(state, report) -> str | None:                                              # noqa: ANN001
        clock.losses.append(report.metrics["loss"])
        return "over" if clock.stop(every=spec["every"]) else None

    fit(state, stream, causal_lm, (watch,))
    return clock.answer(parameters=sum(p.numel() for p in state.model.parameters() if p.requires_grad))


def settings_of(path: Path) -> dict:
    """Model, optimizer, rows and steps of a recipe's pretrain stage."""
    if not path.is_file():
        return {"model": {"depth": 4, "width": 128, "heads": 4, "kv_heads": 4, "hidden": 320, "context": CONTEXT},
                "optimizer": {"name": "muon", "lr": 1e-2}, "rows": 16, "steps": 600}
    stages = tomllib.loads(path.read_text(encoding="utf-8"))
    stage = next(table for name, table in stages.items() if table.get("run", name) == "pretrain")
    return {key: stage[key] for key in ("model", "optimizer", "rows", "steps")}


def run(options: Options) -> Iterator[Row]:
    text = options.data / "tinyshakespeare" / "input.txt.gz"
    missing = ("give a checkout: --nanogpt PATH" if not options.nanogpt else
               f"no train.py in {options.nanogpt.name}" if not (options.nanogpt / "train.py").is_file() else
               "tinyshakespeare/input.txt.gz is not in the data folder" if not text.is_file() else None)
    if missing:
        yield from (Row(name, f"not run: {missing}", unit="s") for name in ("system", "recipe"))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), gzip.decompress(text.read_bytes()).decode(), options.nanogpt)

        def side(kind: str, *, precision: str, seed: int = 1337, steps: int = 300 if options.quick else STEPS,
                 every: int = 50) -> dict:
            spec = {"checkout": str(options.nanogpt), "precision": precision, "seed": seed, "steps": steps,
                    "every": every, "settings": settings_of(RECIPE)}
            return fresh(options, "shakespeare", kind, json.dumps(spec), peer=kind == "nanogpt", cwd=Path(folder))

        def short(kind: str, precision: str, steps: int = GATE_STEPS) -> dict:
            return side(kind, precision=precision, steps=steps, every=1 if steps == GATE_STEPS else 50)

        reference = short("nanogpt", "fp32")
        if "not_run" in reference:
            yield from (Row(name, f"not run: {reference['not_run']}", unit="s") for name in ("system", "recipe"))
            return
        gate = equal_steps(short("system", "fp32"), reference)
        best = {kind: min(CONTEXTS, key=lambda p, k=kind: short(k, p, 200)["seconds"])
                for kind in ("nanogpt", "system")}
        if best["system"] == "bf16":
            low = {kind: short(kind, "bf16", 200) for kind in ("nanogpt", "system")}
            gate = first_failure(gate, low_precision(low["system"], low["nanogpt"], short("nanogpt", "fp32", 200)))
        yield from rows_of(options, side, best, gate)


def rows_of(options: Options, side: Callable[..., dict], best: dict[str, str], gate: str) -> Iterator[Row]:
    """Both rows, a seed each turn; our two stand on either side of the peer's run, in an order that changes."""
    told: dict[str, list[dict]] = {"system": [], "nanogpt": [], "recipe": []}
    for seed in range(1, options.pairs + 1):
        for kind in tuple(told)[::1 if seed % 2 else -1]:
            told[kind].append(side(kind, precision=best["nanogpt" if kind == "nanogpt" else "system"], seed=seed,
                                   every=25 if kind == "recipe" else 50))
    for kind in ("system", "recipe"):
        pairs = list(zip(told[kind], told["nanogpt"], strict=True))
        details = {"precision": best, "parameters": [told[name][0]["parameters"] for name in (kind, "nanogpt")]}
        for name, runs in (("ours", told[kind]), ("peer", told["nanogpt"])):
            details |= {f"steps_{name}": [run["step"] for run in runs],
                        f"validation_{name}": [round(run["validation"], 4) for run in runs]}
        verdict = PASSED
        if kind == "system":
            details["curves_apart"] = round(max(deviation(*cut(a, b)) for a, b in pairs), 4)
            verdict = first_failure(gate, alike(pairs, details["curves_apart"]))
        late = [run["validation"] for run in told[kind] if not run["reached"]]
        if kind == "recipe" and late and not options.quick:
            verdict = f"failed: {len(late)} runs ended at {late[0]:.3f}, above {TARGET}"
        details["peer_ended_above_target"] = sum(not run["reached"] for run in told["nanogpt"])
        yield compared(kind, pairs, gate=verdict, key="seconds", unit="s", less=True, details=details)


def alike(pairs: list[tuple[dict, dict]], apart: float) -> str:
    """Whether two sides that do the same work did: one loss curve, and the end at the same loss."""
    if apart > CURVE:
        return f"failed: training losses are {apart:.3f} apart, more than {CURVE}"
    ends = max(abs(a["validation"] - b["validation"]) for a, b in pairs)
    return PASSED if ends <= CURVE else f"failed: validation losses end {ends:.3f} apart, more than {CURVE}"


def cut(a: dict, b: dict) -> tuple[dict, dict]:
    """Two runs up to the last step that both have done."""
    steps = min(len(a["losses"]), len(b["losses"]))
    return tuple(run | {"losses": run["losses"][:steps]} for run in (a, b))


SIDES = {"nanogpt": nanogpt, "system": system, "recipe": recipe}

if __name__ == "__main__":
    result = SIDES[sys.argv[1]](json.loads(sys.argv[2]))
    sys.stdout.write("\n" + json.dumps(result) + "\n")
