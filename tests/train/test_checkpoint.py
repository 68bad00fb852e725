"""Checkpoints come back bit for bit; a damaged one is noticed wherever the damage is, and the one before is used."""

import json
import random

import pytest
import torch

from bloomery.core.errors import InputError
from bloomery.data.batch import rectangle
from bloomery.model.config import ModelConfig
from bloomery.model.store import model_weights
from bloomery.model.transformer import Transformer
from bloomery.train import checkpoint
from bloomery.train.loop import train_step
from bloomery.train.objective import causal_lm
from bloomery.train.optim import OptimizerConfig, moments
from bloomery.train.state import State, fresh

CONFIG = ModelConfig(vocabulary=12, context=8, depth=1, width=8, heads=2, kv_heads=1, head_width=4, hidden=8)
FILES = ("model.safetensors", "optim.safetensors", "state.json", "MANIFEST.json")


def new_state(seed: int = 0, name: str = "adamw") -> State:
    return fresh(Transformer(CONFIG, seed=seed), OptimizerConfig(name=name), steps=20)


def advance(state: State, steps: int) -> State:
    for _ in range(steps):
        rows = torch.randint(0, 12, (2, 9), generator=torch.Generator().manual_seed(state.step))
        train_step(state, [rectangle(rows)], causal_lm, 1.0)
    return state


def everything(state: State) -> dict[str, torch.Tensor]:
    tensors = {**model_weights(state.model), **moments(state.model, state.optimizers)}
    return {name: value.detach().clone() for name, value in tensors.items()}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_round_trip_is_exact_and_training_goes_on_bit_for_bit(tmp_path, name):
    state = advance(new_state(name=name), 3)
    state.best = {"val_loss": 1 / 3}
    checkpoint.save(state, tmp_path, identity="x", about={"compute": "float32"})
    again = new_state(seed=9, name=name)
    found, saved = checkpoint.latest(tmp_path)
    checkpoint.load(again, found, saved, identity="x")
    assert (again.step, again.tokens, again.best, saved["compute"]) == (3, 48, {"val_loss": 1 / 3}, "float32")
    for later in (0, 4):
        one, other = everything(advance(state, later)), everything(advance(again, later))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_two_newest_are_kept_and_no_temporary_folder_stays(tmp_path):
    state = new_state()
    for _ in range(4):
        checkpoint.save(advance(state, 1), tmp_path, identity="x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]
    assert sorted(p.name for p in (tmp_path / "step-00000004").iterdir()) == sorted(FILES)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("checkpoints")
    state = new_state()
    for _ in range(2):
        checkpoint.save(advance(state, 1), folder, identity="x")
    return folder


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_is_noticed(two, name):
    path = two / "step-00000002" / name
    sound = path.read_bytes()
    generator = random.Random(name)
    places = range(len(sound)) if len(sound) < 600 else generator.sample(range(len(sound)), 200) + [0, len(sound) - 1]
    try:
        for place in places:
            damaged = bytearray(sound)
            damaged[place] ^= 1 << generator.randrange(8)
            path.write_bytes(damaged)
            assert checkpoint.damage(two / "step-00000002"), f"byte {place}"
    finally:
        path.write_bytes(sound)
    assert checkpoint.damage(two / "step-00000002") is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_set_aside_loudly_and_the_one_before_used(tmp_path, capsys, name, harm):
    state = new_state()
    for _ in range(2):
        checkpoint.save(advance(state, 1), tmp_path, identity="x")
    path = tmp_path / "step-00000002" / name
    sound = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(sound[:len(sound) // 2] if harm == "cut" else bytes([sound[0] ^ 4]) + sound[1:])
    found, saved = checkpoint.latest(tmp_path)
    assert found.name == "step-00000001" and saved["step"] == 1
    assert "step-00000002 is damaged" in capsys.readouterr().err
    assert len(list(tmp_path.glob(".corrupt-step-00000002-*"))) == 1
    assert checkpoint.latest(tmp_path)[0].name == "step-00000001"


def test_a_save_that_was_killed_leaves_nothing_to_be_mistaken(tmp_path):
    checkpoint.save(advance(new_state(), 1), tmp_path, identity="x")
    (tmp_path / ".tmp-abc").mkdir()
    (tmp_path / ".tmp-abc" / "model.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path)[0].name == "step-00000001"
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_without_a_sound_checkpoint_there_is_none(tmp_path):
    assert checkpoint.latest(tmp_path / "nowhere") is None
    checkpoint.save(advance(new_state(), 1), tmp_path, identity="x")
    (tmp_path / "step-00000001" / "MANIFEST.json").write_text("{}")
    assert checkpoint.latest(tmp_path) is None


def test_another_run_s_checkpoint_is_refused(tmp_path):
    checkpoint.save(advance(new_state(), 1), tmp_path, identity="x")
    found, saved = checkpoint.latest(tmp_path)
    with pytest.raises(InputError, match="another run"):
        checkpoint.load(new_state(), found, saved, identity="y")
    longer = fresh(Transformer(CONFIG), OptimizerConfig(), steps=21)
    with pytest.raises(InputError, match="another run"):
        checkpoint.load(longer, found, saved, identity="x")


def test_the_manifest_names_every_file_with_its_size(tmp_path):
    folder = checkpoint.save(advance(new_state(), 1), tmp_path, identity="x")
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert {name: size for name, (size, _) in manifest.items()} == \
        {name: (folder / name).stat().st_size for name in FILES[:3]}
