"""Checkpoints written beside training hold the state they were asked for, and what goes wrong is not kept quiet."""

import errno
import json
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from bloomery.core.artifacts import file_hash
from bloomery.core.errors import BloomeryError
from bloomery.data.batch import rectangle
from bloomery.model.config import ModelConfig
from bloomery.model.store import model_weights
from bloomery.model.transformer import Transformer
from bloomery.train import checkpoint
from bloomery.train.ema import Ema
from bloomery.train.loop import train_step
from bloomery.train.objective import causal_lm
from bloomery.train.optim import OptimizerConfig, moments
from bloomery.train.state import State, fresh
from bloomery.train.tensor_file import write_tensors

TINY = ModelConfig(vocabulary=12, context=8, depth=1, width=8, heads=2, kv_heads=1, head_width=4, hidden=8)


def stepped(state: State | None = None) -> State:
    state = state or fresh(Transformer(TINY, seed=0), OptimizerConfig(), steps=20)
    train_step(state, [rectangle(torch.randint(0, 12, (2, 9), generator=torch.Generator().manual_seed(state.step)))],
               causal_lm, 1.0)
    return state


def tensors(state: State) -> dict[str, torch.Tensor]:
    found = {**model_weights(state.model), **moments(state.model, state.optimizers)}
    return {name: t.detach().clone() for name, t in found.items()}


def saved(folder) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "optim.safetensors")}


def test_a_file_is_what_the_library_reads_and_its_hash_is_right(tmp_path):
    made = {"a": torch.randn(3, 5), "b": torch.arange(7), "c": torch.randn(4).bfloat16(), "d": torch.tensor(2.5),
            "e": torch.zeros(0, 4), "f": torch.tensor([True, False]), "long name é": torch.randn(1, 1).double()}
    size, digest = write_tensors(tmp_path / "x.safetensors", made)
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == made.keys() and all(torch.equal(read[name], made[name]) for name in made)
    assert all(read[name].dtype == made[name].dtype and read[name].shape == made[name].shape for name in made)
    assert (size, digest) == ((tmp_path / "x.safetensors").stat().st_size, file_hash(tmp_path / "x.safetensors"))
    save_file(made, tmp_path / "y.safetensors")
    assert abs((tmp_path / "y.safetensors").stat().st_size - size) < 100


def test_the_saved_bytes_are_those_of_the_step_however_long_writing_takes(tmp_path, monkeypatch):
    """Training goes on, in place, while the writer has not begun yet."""
    go = threading.Event()
    write = checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda *args, **more: (go.wait(10), write(*args, **more)))
    saver, state = checkpoint.Saver(tmp_path, "x"), stepped()
    wanted = tensors(state)
    state.best["val_loss"] = 2.0
    saver.save(state)
    state.best |= {"val_loss": 1.0}
    stepped(stepped(state))
    assert not (tmp_path / "step-00000001").exists()
    go.set()
    saver.wait()
    assert json.loads((tmp_path / "step-00000001" / "state.json").read_text())["best"] == {"val_loss": 2.0}
    got = saved(tmp_path / "step-00000001")
    assert got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)
    later = tensors(state)
    saver.save(state)                                           # the same buffers again
    saver.wait()
    got = saved(tmp_path / "step-00000003")
    assert all(torch.equal(got[name], later[name]) for name in later)
    assert not torch.equal(later["embedding.weight"], wanted["embedding.weight"])


def test_an_error_of_the_writer_is_raised_by_the_next_call(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "write_tensors", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "bad disk")))
    saver, state = checkpoint.Saver(tmp_path, "x"), stepped()
    saver.save(state)
    with pytest.raises(BloomeryError, match="checkpoints cannot be written"):
        saver.save(stepped(state))
    assert not list(tmp_path.glob("step-*")) and not list(tmp_path.glob(".tmp-*"))


def test_a_full_disk_is_told_and_borne_for_a_while(tmp_path, monkeypatch, capsys):
    saver, state = checkpoint.Saver(tmp_path, "x"), stepped()
    saver.save(state)
    saver.wait()
    monkeypatch.setattr(checkpoint, "write_tensors", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    for _ in range(checkpoint.FAILURES - 1):
        saver.save(stepped(state))
        saver.wait()
    assert "no checkpoint at step 2" in capsys.readouterr().err
    with pytest.raises(BloomeryError, match="checkpoints cannot be written"):
        saver.save(stepped(state))
        saver.wait()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoint.damage(tmp_path / "step-00000001") is None


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    saver, state = checkpoint.Saver(tmp_path, "x"), stepped()
    with torch.no_grad():
        state.model.head.weight[0, 0] = float("nan")
    saver.save(state)
    with pytest.raises(BloomeryError, match="not finite"):
        saver.wait()
    assert not list(tmp_path.iterdir())


def test_more_checkpoints_are_kept_when_asked(tmp_path):
    saver, state = checkpoint.Saver(tmp_path, "x", kept=3), stepped()
    for _ in range(5):
        saver.save(stepped(state))
    saver.wait()
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == [f"step-{n:08d}" for n in (4, 5, 6)]


def test_the_average_of_the_weights_comes_back(tmp_path):
    state = stepped()
    average = Ema(state.model, 0.9)
    average.update(5)
    saver = checkpoint.Saver(tmp_path, "x")
    saver.save(state, average=average)
    saver.wait()
    again = Ema(Transformer(TINY, seed=1), 0.9)
    checkpoint.restore_average(again, tmp_path, state.step)
    assert all(torch.equal(again.tensors()[name], t) for name, t in average.tensors().items())
    assert "ema.safetensors" in json.loads((tmp_path / "step-00000001" / "MANIFEST.json").read_text())
