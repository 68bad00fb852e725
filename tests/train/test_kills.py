"""`kill -9` at random moments, on one process and on two, ends bit for bit where an undisturbed run does.

`BLOOMERY_KILLS=50 pytest -m slow tests/train/test_kills.py` kills as often as that.
"""

import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bloomery.core.metrics import read_metrics

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("BLOOMERY_KILLS", 4))
STEPS = 60 * (KILLS + 2)        # enough that the run is not over before it has been killed often enough


def start(corpus: Path, out: Path, ranks: int) -> list[subprocess.Popen]:
    """The ranks of one run, as a launcher starts them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [f"data={corpus}", f"tokenizer={corpus}", f"out={out}", f"steps={STEPS}", "rows=8", "micro_rows=2",
               "precision=fp32", "optimizer.name=muon", "save_every=9", "validate_every=40", "validation_tokens=300",
               "model.depth=1", "model.context=32", "model.width=32", "model.heads=2", "guard.spike=50", "ema=0.99"]
    team = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if ranks > 1 else {}
    team |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return [subprocess.Popen([sys.executable, "-m", "bloomery.cli", "pretrain", *options], cwd=ROOT,
                             env=os.environ | team | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True,
                             stdout=subprocess.DEVNULL)
            for rank in range(ranks)]


def last_step(out: Path) -> int:
    return max((row["step"] for row in read_metrics(out / "metrics.jsonl")), default=0)


def ended(processes: list[subprocess.Popen], seconds: float = 120) -> list[str]:
    """What every rank said, when all have ended."""
    return [process.communicate(timeout=seconds)[1] for process in processes]


def launcher_ends(processes: list[subprocess.Popen]) -> None:
    """What a launcher does when a rank has died: the others get a moment to say so, then they are ended.

    Ranks that train notice by themselves; one that waits for another to appear, or to finish its files, cannot.
    """
    for process in processes:
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()


def killed_often(corpus: Path, out: Path, ranks: list[int], dice: random.Random) -> int:
    """Kill a random rank at a random time, again and again, with a number of ranks drawn each time; how often."""
    kills = 0
    while kills < KILLS:
        size = dice.choice(ranks)
        processes, before = start(corpus, out, size), last_step(out)
        victim = dice.choice(processes)
        if dice.random() < 0.8:                                 # while it trains, else while it starts
            target = before + dice.randint(1, 50)
            while victim.poll() is None and last_step(out) < target:
                time.sleep(0.01)
        time.sleep(dice.random() * 0.3)
        if victim.poll() is not None:
            assert all(not process.wait(60) for process in processes), ended(processes)
            break                                               # it was faster than we are
        victim.kill()
        launcher_ends(processes)
        said = ended(processes)
        kills += 1
        others = [process.returncode for process in processes if process is not victim]
        assert all(others), f"a rank went on without the other: {said}"
    return kills


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [[1], [2], [1, 2]], ids=["one process", "two processes", "now one, now two"])
def test_killed_at_random_and_undisturbed_end_alike(corpus, tmp_path, ranks):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    whole = start(corpus, undisturbed, 1)
    assert not ended(whole) or whole[0].returncode == 0
    kills = killed_often(corpus, disturbed, ranks, random.Random(f"{ranks} {KILLS}"))
    last = start(corpus, disturbed, ranks[-1])
    said = ended(last)
    assert [process.returncode for process in last] == [0] * len(last), said
    for name in ("model.safetensors", f"checkpoints/step-{STEPS:08d}/optim.safetensors",
                 f"checkpoints/step-{STEPS:08d}/model.safetensors"):
        assert (disturbed / name).read_bytes() == (undisturbed / name).read_bytes(), (name, kills)
    rows = [[(row["step"], row["loss"], row["grad_norm"]) for row in read_metrics(out / "metrics.jsonl")
             if "loss" in row] for out in (undisturbed, disturbed)]
    assert rows[0] == rows[1] and [row[0] for row in rows[0]] == list(range(1, STEPS + 1))
    assert kills >= min(KILLS, 2)
