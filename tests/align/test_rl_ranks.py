"""Ranks of reinforcement learning that nobody watches over: started as plain processes, they end together."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from drawing_data import policy, prompts

from bloomery import pipeline
from bloomery.align import rl
from bloomery.core.errors import BloomeryError
from bloomery.core.metrics import read_metrics
from bloomery.train import session
from bloomery.train.team import Team

ROOT = Path(__file__).parents[2]
PAYS = """import os

def score(problem, answer):
    return sum(map(ord, answer)) % 7 / 7 + int(os.environ.get("RANK", 0))
"""


def started(out: Path, options: list[str], *, size: int) -> list[str]:
    """What each rank said, once all have ended well."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    team = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if size > 1 else {}
    team |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([sys.executable, "-m", "bloomery.cli", "grpo", *options, f"out={out}"], text=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              env=os.environ | team | {"RANK": str(rank)}) for rank in range(size)]
    try:
        said = [rank.communicate(timeout=300)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * size, "\n".join(said)
    return said


def test_ranks_without_a_launcher_go_back_to_the_best_together(tmp_path):
    """Rewards that depend on the rank would drive the two apart: rank 0's are everybody's."""
    pays = tmp_path / "pays.py"
    pays.write_text(PAYS, encoding="utf-8")
    options = [f"model={policy()}", f"data={prompts()}", "steps=20", "prompts=4", "samples=4", "precision=fp32",
               "sampling.max_tokens=6", "optimizer.lr=1e-2", "optimizer.warmup=0.0", "micro_tokens=60", "kl.beta=0.1",
               f"reward.function={pays}", f"gold.function={pays}", "patience=2",
               "look.prompts=4", "validate_every=1"]
    for size in (1, 2):
        said = started(tmp_path / str(size), options, size=size)
        assert "restores the weights" in said[0] and "restores" not in "".join(said[1:])
    alone, together = ((tmp_path / str(size) / "model.safetensors").read_bytes() for size in (1, 2))
    assert alone == together
    rewards = [[row["reward"] for row in read_metrics(tmp_path / str(size) / "metrics.jsonl") if "step_time" in row]
               for size in (1, 2)]
    assert rewards[0] == rewards[1] and 2 <= len(rewards[0]) < 20


def test_who_waits_for_a_rank_that_has_ended_says_so(monkeypatch, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    config = rl.Config(model="m", data="d", steps=1, reward={"verifier": "exact"})
    monkeypatch.setattr(session, "joined", lambda: Team(rank=1, size=2, processes={0: gone.pid}))
    shared = []
    with pytest.raises(BloomeryError, match="rank 0 has ended before it was done"):
        pipeline.follow(tmp_path / "never", config, lambda config, out: shared.append(out))
    assert len(shared) == 1 and not shared[0].exists()
