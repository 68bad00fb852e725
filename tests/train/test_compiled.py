"""Compiled blocks compute what they did; where compilation fails, training goes on and one line says so."""

import shutil

import pytest
import torch

from bloomery.data.batch import rectangle
from bloomery.model.presets import sized
from bloomery.model.transformer import Transformer
from bloomery.train.compiled import compiled
from bloomery.train.objective import causal_lm

BATCH = rectangle(torch.randint(0, 50, (2, 33), generator=torch.Generator().manual_seed(0)))


def small() -> Transformer:
    return Transformer(sized(1, vocabulary=50, context=32, width=64))


def loss_and_gradients(model: Transformer) -> list[torch.Tensor]:
    model.zero_grad()
    loss, _ = causal_lm(model, BATCH)
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters())]


def test_without_a_working_compiler_training_goes_on(monkeypatch, capsys):
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler\nand a long story")

    model = small()
    expected = loss_and_gradients(model)
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", no_compiler)
    assert not compiled(model, lambda: causal_lm(model, BATCH)[0])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "not compiled" in said and "no C++ compiler" in said
    assert all(torch.equal(a, b) for a, b in zip(expected, loss_and_gradients(model), strict=True))


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_blocks_agree_and_say_how_long_it_took(capsys):
    model = small()
    names, expected = list(model.state_dict()), loss_and_gradients(model)
    before = [p.grad.clone() for p in model.parameters()]
    assert compiled(model, lambda: causal_lm(model, BATCH)[0])
    assert "compiled in" in capsys.readouterr().err and list(model.state_dict()) == names
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
    for a, b in zip(expected, loss_and_gradients(model), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
