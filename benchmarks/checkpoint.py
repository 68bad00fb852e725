"""Case `checkpoint` (B15): how long training stands still for a checkpoint, 150M parameters with AdamW's moments.

    python -m benchmarks.checkpoint SIDE SPEC

A side trains, saves every 20 steps, and says in milliseconds how long each save held the loop up (`stall`) and how much
more time 20 steps and a save took than 20 steps (`added`, never less than the stall).  Peers: our own synchronous
save, and `torch.save` of weights and moments.  Gate: what is read back is bit for bit what was saved, and after SIGKILL
in the middle of a save the one before loads.
"""

import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import PASSED, ROOT, Options, Row, compared, first_failure, fresh, turns

SMALL = {"depth": 4, "width": 256, "vocabulary": 4096}          # 4M parameters
LARGE = {"depth": 12, "width": 768, "vocabulary": 98_304}       # 150M: GPT-2's trunk with a large vocabulary
KINDS = ("background", "synchronous", "torch.save")


def state_of(spec: dict):                                                                # noqa: ANN201
    """A state that has done one step, so that there are moments to save; and the function that does another."""
    import torch

    from bloomery.data.batch import rectangle
    from bloomery.model.presets import sized
    from bloomery.model.transformer import Transformer
    from bloomery.train.loop import train_step
    from bloomery.train.objective import causal_lm
    from bloomery.train.optim import OptimizerConfig
    from bloomery.train.state import fresh as begin

    config = sized(context=128, **spec["model"])
    state = begin(Transformer(config, seed=0, compute=torch.bfloat16), OptimizerConfig(), steps=10_000)
    batch = rectangle(torch.randint(config.vocabulary, (1, 129), generator=torch.Generator().manual_seed(0)))

    def step() -> float:
        start = time.perf_counter()
        train_step(state, [batch], causal_lm, 1.0)
        return time.perf_counter() - start

    step()
    return state, step


def side(spec: dict) -> dict:
    import torch

    from bloomery.train.checkpoint import Saver, contents

    state, step = state_of(spec)
    folder = Path(spec["out"])
    saver = Saver(folder, "benchmark", background=spec["kind"] == "background")

    def save() -> None:
        if spec["kind"] == "torch.save":
            torch.save({name: dict(part) for name, part in contents(state).items()}, folder / "checkpoint.pt")
        else:
            saver.save(state)

    save()                                                      # buffers, folders: the first one is not like the rest
    saver.wait()
    plain = [step() for _ in range(spec["every"])]
    stalls, added = [], []
    for _ in range(spec["saves"]):
        start = time.perf_counter()
        save()
        stalls.append(time.perf_counter() - start)
        steps = [step() for _ in range(spec["every"])]
        added.append(max(stalls[-1], stalls[-1] + sum(steps) - spec["every"] * statistics.median(plain)))
    saver.wait()
    return {name: 1000 * statistics.median(seconds)
            for name, seconds in (("stall", stalls), ("added", added), ("step", plain))}


def restored(spec: dict) -> dict:
    """Save in the background, train on meanwhile, read back: every tensor is what it was when it was saved."""
    import torch

    from bloomery.train.checkpoint import Saver, contents, latest, load

    state, step = state_of(spec)
    saver = Saver(Path(spec["out"]), "benchmark")
    then = {name: {key: t.clone() for key, t in part.items()} for name, part in contents(state).items()}
    saver.save(state)
    step()
    saver.wait()
    again, _ = state_of(spec)
    load(again, *latest(Path(spec["out"])), identity="benchmark")
    now = contents(again)
    return {"equal": all(torch.equal(t, now[name][key]) for name, part in then.items() for key, t in part.items())}


def saving(spec: dict) -> dict:
    """Save once and say so, then save again and again until killed."""
    from bloomery.train.checkpoint import Saver

    state, step = state_of(spec)
    saver = Saver(Path(spec["out"]), "benchmark")
    saver.save(state)
    saver.wait()
    sys.stdout.write("saved\n")
    sys.stdout.flush()
    while True:
        step()
        saver.save(state)


def survives(spec: dict, *, kills: int) -> str:
    """SIGKILL at some moments of a save; what is left must load."""
    from bloomery.train.checkpoint import latest

    for kill in range(kills):
        shutil.rmtree(spec["out"], ignore_errors=True)
        child = subprocess.Popen([sys.executable, "-m", "benchmarks.checkpoint", "saving", json.dumps(spec)], cwd=ROOT,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        child.stdout.readline()
        time.sleep(0.05 + 0.1 * kill)
        child.send_signal(signal.SIGKILL)
        child.wait()
        if latest(Path(spec["out"])) is None:
            return "failed: no checkpoint loads after SIGKILL during a save"
    return PASSED


def run(options: Options) -> Iterator[Row]:
    small = options.quick
    with tempfile.TemporaryDirectory(dir=Path.cwd() / "runs" if (Path.cwd() / "runs").is_dir() else None) as folder:
        def spec(**more: object) -> dict:
            shutil.rmtree(Path(folder) / "out", ignore_errors=True)
            (Path(folder) / "out").mkdir()
            return {"model": SMALL if small else LARGE, "out": str(Path(folder) / "out")} | more

        def measured(kind: str) -> dict:
            asked = spec(kind=kind, every=5 if small else 20, saves=2 if small else 3)
            return fresh(options, "checkpoint", "side", json.dumps(asked))

        same = fresh(options, "checkpoint", "restored", json.dumps(spec()))["equal"]
        gate = first_failure(PASSED if same else "failed: what was restored is not what was saved",
                             survives(spec(model=SMALL), kills=2 if small else 5))
        for peer in KINDS[1:]:
            pairs = turns(lambda: measured(KINDS[0]), lambda p=peer: measured(p), options.pairs)
            for key in ("stall", "added"):
                yield compared(f"{key}, {peer}", pairs, gate=gate, key=key, unit="ms a save", less=True,
                               details={"step_ms": round(statistics.median(ours["step"] for ours, _ in pairs))})


SIDES = {"side": side, "restored": restored, "saving": saving}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(SIDES[sys.argv[1]](json.loads(sys.argv[2]))) + "\n")
