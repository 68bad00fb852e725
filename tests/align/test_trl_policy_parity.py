"""Steps of every way of reinforcement learning that TRL has too are TRL's: its own trainers on dictated answers.

Each answer is learned from twice, so that ratios are not 1: advantages, clipping, denominators and KL all count.  TRL
lives in an environment of its own (`make bench` makes it), so its side is a process; nothing is stored.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from benchmarks import acting, sft
from bloomery.model.presets import sized

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv-bench" / "bin" / "python"
CLOSE, ROUNDING = 1e-5, 5e-7            # relative difference; a unit in the last place of a log-probability
SIDE = "import json, sys; from benchmarks import acting as a; " \
       "print('\\n' + json.dumps([a.trl(spec) for spec in json.load(sys.stdin)]))"
SPEC = {"prompts": [5, 9, 7], "samples": 4, "new": 8, "steps": 2, "epochs": 2, "precision": "fp32", "tuned": True,
        "workers": 0, "rows": 12, "cache": None, "gate": True}
TIGHT = {"clip_low": 0.002, "clip_high": 0.003}                 # so that ratios are clipped within two updates

CASES = {                               # task, what ours is given, what TRL's is
    "grpo": ("grpo", {}, {}),
    "clip higher": ("grpo", TIGHT, {"epsilon": 0.002, "epsilon_high": 0.003}),
    "bnpo": ("grpo", {"normalise": "bnpo"}, {"loss_type": "bnpo"}),
    "dapo": ("grpo", {"normalise": "dapo"}, {"loss_type": "dapo"}),
    "dr_grpo": ("grpo", {"normalise": "dr_grpo", "scale": "none"}, {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "batch scale": ("grpo", {"scale": "batch"}, {"scale_rewards": "batch"}),
    "gspo": ("grpo", TIGHT | {"policy": "sequence"}, {"importance_sampling_level": "sequence", "epsilon": 0.002,
                                                      "epsilon_high": 0.003}),
    "KL in the loss": ("grpo", {"kl": {"beta": 0.5}}, {"beta": 0.5}),
    "plain KL": ("grpo", {"kl": {"beta": 0.5, "corrected": False}}, {"beta": 0.5, "use_bias_correction_kl": False}),
    "rloo": ("rloo", {}, {}),
    "KL in the reward": ("rloo", {"kl": {"beta": 0.5, "place": "reward", "estimator": "k1"}}, {"beta": 0.5}),
    "clipped answers": ("rloo", TIGHT, {"epsilon": 0.002, "epsilon_high": 0.003}),
}


def spec(case: str, folder: Path) -> dict:
    """Of one prompt where a group stands for TRL's whole batch."""
    task, ours, theirs = CASES[case]
    alone = {"prompts": SPEC["prompts"][:1], "rows": SPEC["samples"]} if case == "bnpo" else {}
    return SPEC | alone | {"task": task, "folder": str(folder), "options": ours, "theirs": theirs}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:                                                     # noqa: ANN001
    return sft.export(sized(1, vocabulary=90, context=32, width=32, heads=2, kv_heads=1, hidden=64),
                      tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="module")
def theirs(folder) -> dict:                                                               # noqa: ANN001
    if not PEERS.exists():
        pytest.skip("TRL is not installed: make bench CASE=grpo makes .venv-bench, in which it is")
    done = subprocess.run([PEERS, "-c", SIDE], input=json.dumps([spec(case, folder) for case in CASES]), text=True,
                          capture_output=True, cwd=ROOT, env=os.environ | {
                              "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(CASES, json.loads(done.stdout.strip().splitlines()[-1]), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_our_steps_are_those_of_trl(case, folder, theirs):
    mine, peer = acting.ours(spec(case, folder))["figures"], theirs[case]["figures"]
    assert mine["loss"] == pytest.approx(peer["loss"], rel=CLOSE, abs=ROUNDING)
    assert mine["grad_norm"] == pytest.approx(peer["grad_norm"], rel=CLOSE)
    assert len(mine["loss"]) == 4 and abs(mine["loss"][1]) > 100 * ROUNDING
