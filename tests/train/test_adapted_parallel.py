"""Two processes adapt a model as one does, with copies of it and with each holding half of its weights."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bloomery.core.errors import ConfigError
from bloomery.data.batch import forest, sequence
from bloomery.model.adapt import AdaptConfig, adapt, merge
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest, roots
from bloomery.model.transformer import Transformer
from bloomery.train.loop import fit
from bloomery.train.objective import causal_lm
from bloomery.train.optim import OptimizerConfig
from bloomery.train.parallel import ParallelConfig, Sharded, apply
from bloomery.train.state import fresh
from bloomery.train.team import Team, join

CONFIG = ModelConfig(vocabulary=24, context=32, depth=2, width=23, heads=4, kv_heads=2, head_width=6, hidden=26)


def trained(team: Team, mesh: dict) -> dict:
    """What six steps with two micro-batches each come to: losses, and what the merged model says."""
    model = adapt(Transformer(CONFIG, seed=0), AdaptConfig(method="lora", rank=3), seed=1)
    state = fresh(model, OptimizerConfig(lr=1e-2, weight_decay=0.0), steps=6,
                  ranks=apply(model, team, ParallelConfig(**mesh)))
    losses: list[float] = []

    def stream(step: int) -> list:
        rows = [[(step + row + i) % 24 for i in range(12)] for row in range(4)]
        runs = [sequence(ids, [False] + [True] * 11) for ids in rows]
        return [forest(runs[:2]), forest(runs[2:])]

    fit(state, stream, causal_lm, (lambda state, report: losses.append(report.metrics["loss"]),))
    whole = state.ranks.whole() if isinstance(state.ranks, Sharded) else state.model
    with torch.no_grad():
        said = merge(whole)(torch.arange(9), torch.arange(9), Forest(roots([9])))
    return {"losses": losses, "said": said.flatten().tolist()}


def run_alone(out: Path) -> None:
    """In a process of its own too: what others have left in this one's libraries may round otherwise."""
    out.write_text(json.dumps({"alone": trained(Team(), {})}))


def run_rank(out: Path) -> None:
    team, refused = join(), ""
    found = {name: trained(team, mesh) for name, mesh in (("copies", {}), ("halves", {"shard": 2}))}
    try:
        trained(team, {"tensor": 2})
    except ConfigError as error:
        refused = str(error)
    if team.leads:
        out.write_text(json.dumps({**found, "refused": refused}))
    team.barrier()


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("team") / "seen.json"
    lone = subprocess.run([sys.executable, __file__, str(out)], capture_output=True, text=True, timeout=240,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])})
    assert out.is_file(), lone.stderr
    alone = json.loads(out.read_text())
    out.unlink()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
              "PYTHONPATH": str(Path(__file__).parents[2])}
    ranks = [subprocess.Popen([sys.executable, __file__, str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
             for rank in range(2)]
    try:
        said = [rank.communicate(timeout=240)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert out.is_file(), "\n".join(said)
    return alone | json.loads(out.read_text())


def test_copies_give_the_very_bits(seen):
    alone = seen["alone"]
    assert seen["copies"] == alone and alone["losses"][-1] != alone["losses"][0]


def test_halves_of_the_weights_give_the_same_to_rounding(seen):
    alone = seen["alone"]
    assert seen["halves"]["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert seen["halves"]["said"] == pytest.approx(alone["said"], abs=1e-4)


def test_split_products_are_refused(seen):
    assert "products of an adapted model are not split" in seen["refused"] and "parallel.shard" in seen["refused"]


if __name__ == "__main__":
    (run_rank if "RANK" in os.environ else run_alone)(Path(sys.argv[1]))
