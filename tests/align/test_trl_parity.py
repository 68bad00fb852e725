"""Steps of every loss that TRL has too are TRL's: its own trainers, on random models, where they are installed.

TRL lives in an environment of its own (`make bench` makes it), so its side is a process; nothing is stored.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from benchmarks import preferring, sft
from benchmarks.harness import PASSED, equal_figures, equal_steps
from benchmarks.preferences import TUNED
from benchmarks.reward import scored
from bloomery.data.stream import samples
from bloomery.model.presets import sized

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv-bench" / "bin" / "python"
CLOSE = 1e-5
PROMPTS, REJECTED, ROWS, STEPS = [5, 12, 3, 9, 7, 10, 4, 8, 6], [4, 9, 7, 5, 3, 8, 6, 11, 4], 3, 3
SIDE = "import json, sys; from benchmarks import preferring as p; " \
       "print('\\n' + json.dumps([p.trl(spec) for spec in json.load(sys.stdin)]))"

CASES = {                               # task, what ours is given, what TRL's is
    "dpo": ("dpo", {}, {}),
    "robust": ("dpo", {"loss": "robust", "smoothing": 0.2}, {"loss_type": "robust", "label_smoothing": 0.2}),
    "hinge": ("dpo", {"loss": "hinge"}, {"loss_type": "hinge"}),
    "ipo": ("dpo", {"loss": "ipo"}, {"loss_type": "ipo"}),
    "dpo_norm": ("dpo", {"loss": "dpo_norm"}, {"loss_type": "sigmoid_norm"}),
    "exo": ("dpo", {"loss": "exo", "smoothing": 1e-3}, {"loss_type": "exo_pair", "label_smoothing": 1e-3}),
    "nca": ("dpo", {"loss": "nca"}, {"loss_type": "nca_pair"}),
    "apo_zero": ("dpo", {"loss": "apo_zero"}, {"loss_type": "apo_zero"}),
    "apo_down": ("dpo", {"loss": "apo_down"}, {"loss_type": "apo_down"}),
    "sppo": ("dpo", {"loss": "sppo", "beta": 0.5}, {"loss_type": "sppo_hard", "beta": 0.5}),
    "rpo": ("dpo", {"nll": 0.3}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]}),
    "ldpo": ("dpo", {"tail": 0.4}, {"ld_alpha": 0.4}),
    "forward_kl": ("dpo", {"divergence": "forward_kl"}, {"f_divergence_type": "forward_kl"}),
    "js": ("dpo", {"divergence": "js"}, {"f_divergence_type": "js_divergence"}),
    "kto": ("kto", {"desirable_weight": 1.3, "undesirable_weight": 0.7},
            {"desirable_weight": 1.3, "undesirable_weight": 0.7}),
    "orpo": ("orpo", {"beta": 0.2}, {"beta": 0.2}),
    "simpo": ("cpo", {"loss": "simpo", "beta": 2.0, "margin": 1.0},
              {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0}),
    "cpo": ("cpo", {"beta": 0.1}, {}),
    "reward": ("reward", {}, {}),
    "centred reward": ("reward", {"centre": 0.05}, {"center_rewards_coefficient": 0.05}),
}


def spec(case: str, place: Path) -> dict:
    """Three steps of three pairs. TRL's nll is a mean over tokens, in ORPO of prompts too: here of one length."""
    task, ours, theirs = CASES[case]
    chosen = [18 - prompt for prompt in PROMPTS] if task == "orpo" else [7] * len(PROMPTS)
    return TUNED | {"task": task, "folder": str(place / ("scored" if task == "reward" else "base")), "gate": True,
                    "precision": "fp32", "prompts": PROMPTS, "chosen": chosen, "rejected": REJECTED,
                    "rows": ROWS, "options": ours, "theirs": theirs,
                    "order": [samples(step, ROWS, len(PROMPTS), 0).tolist() for step in range(STEPS)]}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:                                                      # noqa: ANN001
    room = tmp_path_factory.mktemp("parity")
    scored(sft.export(sized(1, vocabulary=90, context=32, width=32, heads=2, kv_heads=1, hidden=64), room / "base"),
           room / "scored")
    return room


@pytest.fixture(scope="module")
def theirs(place) -> dict:                                                                # noqa: ANN001
    if not PEERS.exists():
        pytest.skip("TRL is not installed: make bench CASE=dpo makes .venv-bench, in which it is")
    done = subprocess.run([PEERS, "-c", SIDE], input=json.dumps([spec(case, place) for case in CASES]), text=True,
                          capture_output=True, cwd=ROOT, env=os.environ | {
                              "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(CASES, json.loads(done.stdout.strip().splitlines()[-1]), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_our_steps_are_those_of_trl(case, place, theirs):
    mine, peer = preferring.ours(spec(case, place)), theirs[case]
    assert equal_steps(mine, peer, loss=CLOSE, norm=1e-3) == PASSED
    assert equal_figures(mine, peer, limit=1e-4) == PASSED
    assert len(mine["losses"]) == STEPS and mine["losses"][0] != mine["losses"][1]
