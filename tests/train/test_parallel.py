"""Two processes train as one does: the same bits where gradients are only added, 1e-5 where the model is split.

A spawn costs seconds, so one team runs every check (`parallel_worker.py`) and the tests look at what it wrote.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bloomery.core.errors import ConfigError
from bloomery.train.parallel import ParallelConfig
from bloomery.train.team import Team, join, portion

WORKER = Path(__file__).with_name("parallel_worker.py")
ROOT = Path(__file__).parents[2]


def start(out: Path, how: str, *, size: int = 2) -> list[subprocess.CompletedProcess]:
    """What the ranks of a team said, and how each ended."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ranks = [subprocess.Popen(
        [sys.executable, str(WORKER), str(out), how], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1",
                          "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)})
        for rank in range(size)]
    try:
        said = [rank.communicate(timeout=240)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [subprocess.CompletedProcess(rank.args, rank.returncode, text)
            for rank, text in zip(ranks, said, strict=True)]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("team") / "found.json"
    ended = start(out, "checks")
    assert out.exists(), "\n".join(rank.stdout for rank in ended)
    return json.loads(out.read_text()) | {"codes": [rank.returncode for rank in ended]}


def test_ranks_tell_each_other_what_they_know(found):
    for rank, words in enumerate(found["team"]):
        assert words["gather"] == [[0, 0.1], [1, 1.1]]
        assert words["any"] and not words["none"] and words["first"] == "late" and words["broadcast"] == "from 0"
        assert words["sum"] == {"a": 0.2, "only 0": 1.0, "only 1": 1.0} and words["long"]
        assert words["share"] == [[0, 1, 2], [3, 4]][rank]


def test_adding_gradients_over_ranks_gives_the_bits_of_one_process(found):
    assert len(found["exact"]) == 10
    assert all(difference == 0 for each in found["exact"].values() for difference in each.values()), found["exact"]


def test_all_ranks_stop_after_the_step_in_which_one_was_asked_to(found):
    assert found["stopped"] == {"reasons": ["SIGTERM received"] * 2, "steps": [2, 2]}


def test_a_split_model_trains_as_a_whole_one(found):
    assert len(found["split"]) == 18
    for name, each in found["split"].items():
        assert each["tokens"] == 0 and max(each.values()) < 1e-5, (name, each)


def test_what_keeps_a_model_from_forgetting_is_the_same_for_two_processes(found):
    assert set(found["remembering"]["{}"].values()) == {0} and len(found["remembering"]) == 3
    for mesh, each in found["remembering"].items():
        assert max(each.values()) < 1e-5, (mesh, each)


def test_a_split_model_in_half_precision_follows_the_whole_one(found):
    for name, each in found["half"].items():
        assert max(each["loss"], each["weights"]) < 5e-2, (name, each)


def test_a_split_head_gives_the_losses_and_gradients_of_a_whole_one(found):
    assert len(found["losses"]) == 2
    for terms, each in found["losses"].items():
        assert max(each.values()) < 1e-5, (terms, each)


def test_a_run_goes_from_two_ranks_to_one_and_back(found):
    assert len(found["resharded"]) == 4
    for name, each in found["resharded"].items():
        assert each["exact"] and each["weights"] < 1e-5, (name, each)
        assert each["files"] == [f"{kind}-0000{rank}-of-00002.safetensors" for kind in ("model", "optim")
                                 for rank in (1, 2)]


def test_what_cannot_be_split_is_refused_with_a_reason(found):
    told = found["refused"]
    assert "replicate 1 x shard 3 x tensor 1 = 3" in told["mesh"] and "8-bit moments" in told["8 bits"]
    assert "heads 3, kv_heads 3" in told["heads"] and "the checkpoint has no" in told["other model"]


def test_a_killed_rank_ends_the_others_promptly_and_by_name(found):
    assert "rank 1 is gone" in found["lost"] and found["seconds"] < 10
    assert found["codes"] == [1, -9]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "said"), [("failed", "rank 1 failed: ZeroDivisionError: a defect of rank 1"),
                                           ("hung", "rank 1 does not answer")])
def test_the_others_say_what_became_of_a_rank(tmp_path, how, said):
    ended = start(tmp_path / "found.json", how)
    assert said in json.loads((tmp_path / "found.json").read_text())["lost"]
    assert ended[0].returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize(("size", "meshes"), [(4, 8), (3, 2)])
def test_more_ranks_and_meshes_of_two_kinds(tmp_path, size, meshes):
    ended = start(tmp_path / "found.json", "many", size=size)
    assert [rank.returncode for rank in ended] == [0] * size, ended[0].stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == meshes
    for name, each in found.items():
        assert max(each.values()) < (1e-5 if size == 3 or not name.startswith("{} ") else 1e-300), (name, each)


@pytest.mark.slow
def test_torchrun_starts_a_team(tmp_path):
    out = tmp_path / "found.json"
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(WORKER),
                    str(out), "many"], check=True, timeout=240, cwd=ROOT,
                   env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    assert all(difference == 0 for each in json.loads(out.read_text()).values() for difference in each.values())


def test_alone_a_team_needs_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    team = join()
    assert (team.rank, team.size, team.leads) == (0, 1, True)
    assert team.gather(float("inf")) == [float("inf")] and team.first(None) is None and list(team.share(3)) == [0, 1, 2]


def test_a_team_that_is_not_told_its_ranks_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="RANK"):
        join()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 12])
@pytest.mark.parametrize("count", [0, 1, 5, 8, 30])
def test_shares_are_everything_once_in_order_and_even(count, size):
    shares = [portion(count, rank, size) for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(count))
    assert max(map(len, shares)) == len(shares[0]) <= -(-count // size) + (size & (size - 1) > 0)


def nodes(first: int, end: int) -> set[tuple[int, int]]:
    """The tree of halves."""
    middle = (first + end + 1) // 2
    return {(first, end)} | (nodes(first, middle) | nodes(middle, end) if end - first > 1 else set())


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("count", [8, 9, 13, 32])
def test_shares_of_two_four_eight_ranks_are_nodes_of_one_tree(count, size):
    shares = [portion(count, rank, size) for rank in range(size)]
    assert {(share.start, share.stop) for share in shares} <= nodes(0, count)


@pytest.mark.parametrize(("config", "ranks", "sizes"), [
    ({}, 1, (1, 1, 1)), ({}, 4, (4, 1, 1)), ({"shard": 2}, 4, (2, 2, 1)), ({"shard": 2, "tensor": 2}, 4, (1, 2, 2))])
def test_copies_are_what_is_left_of_the_ranks(config, ranks, sizes):
    assert ParallelConfig(**config).sizes(ranks) == sizes


@pytest.mark.parametrize(("config", "ranks"), [({"shard": 2}, 1), ({"tensor": 3}, 4), ({"replicate": 2}, 4)])
def test_a_mesh_that_does_not_fit_the_ranks_is_refused(config, ranks):
    with pytest.raises(ConfigError, match="does not fit"):
        ParallelConfig(**config).sizes(ranks)


def test_a_team_alone_adds_nothing():
    assert Team().sum({"a": 1.0}) == {"a": 1.0} and not Team().any(False)
