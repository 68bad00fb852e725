"""Where a model is computed: the device that is chosen, batches that follow the model, and a whole run elsewhere."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from bloomery.core.config import essential
from bloomery.core.errors import ConfigError
from bloomery.data.batch import Batch, rectangle
from bloomery.data.stream import samples
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.train import precision
from bloomery.train.objective import causal_lm
from bloomery.train.precision import choose, placed
from bloomery.train.session import TrainingConfig, train
from bloomery.train.state import State

ROOT = Path(__file__).parents[2]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
TINY = ModelConfig(vocabulary=16, context=8, depth=2, width=32, heads=2, kv_heads=1, head_width=16, hidden=48)
DATA = torch.randint(0, 16, (30, 9), generator=torch.Generator().manual_seed(0))
AGAIN = [                       # tests of stages, run again with everything far away
    "tests/train/test_session.py::test_metrics_are_measured_first_last_and_in_between",
    "tests/train/test_session.py::test_the_dtype_of_a_run_is_kept_when_it_goes_on",
    "tests/pretrain/test_lifecycle.py::test_evaluation_sets_models_side_by_side",       # base, sft, dpo, evaluate
    "tests/align/test_preference_stage.py::test_the_policy_s_own_answers_are_looked_at_and_shown[lora]",
    "tests/align/test_rl.py::test_a_critic_may_be_a_head_a_reward_model_or_a_copy[own-reward]",
]


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch):
    for name in ("BLOOMERY_DEVICE", "BLOOMERY_PRECISION", "WORLD_SIZE", "LOCAL_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, as torch tells of them; the one that is made the current one."""
    current = []
    for name, told in {"is_available": lambda: True, "device_count": lambda: 2, "set_device": current.append,
                       "get_device_name": lambda device: "H200"}.items():
        monkeypatch.setattr(torch.cuda, name, told)
    return current


# --- which device -------------------------------------------------------------------------------------------------

def test_auto_is_a_gpu_where_there_is_one(monkeypatch, gpus):
    assert placed() == torch.device("cuda", 0) and placed("cpu") == torch.device("cpu")
    assert placed("cuda:1") == torch.device("cuda", 1) == gpus[-1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert placed() == torch.device("cpu")


def test_the_environment_decides_where_nothing_is_asked_for(monkeypatch, gpus):
    monkeypatch.setenv("BLOOMERY_DEVICE", "cpu")
    assert placed() == torch.device("cpu") and placed("cuda") == torch.device("cuda", 0)


def test_each_rank_has_a_gpu_of_its_own(monkeypatch, gpus):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert placed() == placed("cuda") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="ranks cannot all be on cuda:0"):
        placed("cuda:0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error_with_what_torch_says():
    with pytest.raises(ConfigError, match="there is no cuda:0 here") as error:
        placed("cuda")
    assert torch.__version__ in str(error.value) and "sees 0" in str(error.value)


def test_too_few_gpus_and_what_is_no_device_are_errors(gpus):
    with pytest.raises(ConfigError, match="there is no cuda:7 here"):
        placed("cuda:7")
    for name in ("gpu", "meta"):
        with pytest.raises(ConfigError, match=f"{name} is no device"):
            placed(name)


def test_bf16_is_chosen_where_a_gpu_has_it(monkeypatch, gpus):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert choose("auto") == (torch.float32, "fp32 on H200, which has no bf16")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert choose("auto") == (torch.bfloat16, "bf16 on H200") and choose("fp32")[0] == torch.float32
    monkeypatch.setattr(precision, "fastest_product", lambda *_: 1e-3)
    assert choose("auto", device="cpu")[1].startswith("fp32: matrix products reach")


def test_where_it_is_computed_names_no_folder():
    given = [TrainingConfig(steps=1, device=device) for device in ("auto", "cpu")]
    assert essential(given[0]) == essential(given[1])


# --- batches ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Nested(Batch):
    """A batch beside another, as of rated answers."""

    other: Batch


def test_a_batch_follows_the_model_with_all_its_tensors():
    batch = Nested(**vars(rectangle(DATA[:2])), other=rectangle(DATA[2:3]))
    assert batch.beside(Transformer(TINY)) is batch
    moved = batch.to(torch.device("meta"))
    assert {x.device.type for one in (moved, moved.other) for x in (one.ids, one.targets, one.weights, one.positions)} \
        == {"meta"}
    assert moved.segments is batch.segments and moved.count == batch.count and moved.types is None


# --- a run elsewhere ----------------------------------------------------------------------------------------------

def tiny(out: Path, device: str, *, steps: int = 4) -> State:
    """The first `steps` of four steps of training on a device."""
    def stream(step: int) -> list[Batch]:
        if step >= steps:
            raise KeyboardInterrupt
        return [rectangle(DATA[samples(step, 6, len(DATA), 0)[i:i + 3]]) for i in (0, 3)]

    config = TrainingConfig(steps=4, precision="fp32", device=device, save_every=1, background=False,
                            optimizer={"lr": 1e-2, "warmup": 0.0})
    return train(Transformer(TINY, seed=0), config, out, name="tiny", stream=stream, objective=causal_lm,
                 validate=lambda model: {})


@CUDA
def test_a_gpu_takes_the_steps_of_the_cpu(tmp_path, handlers):
    near, there = (tiny(tmp_path / device, device).model for device in ("cpu", "cuda"))
    for ours, theirs in zip(near.parameters(), there.parameters(), strict=True):
        assert theirs.is_cuda and torch.allclose(ours, theirs.cpu(), atol=1e-4, rtol=0)


@CUDA
def test_a_gpu_goes_on_bit_for_bit(tmp_path, handlers):
    whole = tiny(tmp_path / "whole", "cuda").model
    with pytest.raises(KeyboardInterrupt):
        tiny(tmp_path / "cut", "cuda", steps=2)
    for ours, theirs in zip(whole.parameters(), tiny(tmp_path / "cut", "cuda").model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_tensors_that_are_far_away_refuse_to_meet_those_that_are_here():
    said = subprocess.run([sys.executable, "-c", "import torch, tests.faraway\n"
                           "x = torch.ones(3, device='far'); print((x + 1)[torch.tensor([0])].sum().item())\n"
                           "x + torch.ones(3)"], cwd=ROOT, text=True, capture_output=True)
    assert said.stdout.split() == ["2.0"] and "that is here meets one that is far away" in said.stderr


@pytest.mark.parametrize("tests", [AGAIN[:1], pytest.param(AGAIN[1:], marks=pytest.mark.slow)], ids=["one", "others"])
def test_stages_run_where_no_tensor_is_here(tmp_path, tests):
    """Tests of stages again on a device whose tensors refuse to meet the CPU's."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "tests.faraway", "-p", "no:cacheprovider",
                           f"--basetemp={tmp_path / 'far'}", *tests], cwd=ROOT, text=True, capture_output=True,
                          env=os.environ | {"BLOOMERY_DEVICE": "far"})
    assert done.returncode == 0 and "failed" not in done.stdout, done.stdout[-4000:]
