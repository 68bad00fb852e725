"""The table of ways of adapting: what learns, what is saved of it, and that the rest is left alone."""

from functools import partial

import pytest
import torch

from bloomery.core.errors import InputError
from bloomery.data.batch import forest, sequence
from bloomery.model.adapt import METHODS, AdaptConfig, adapt, merge, trained_share, trained_weights
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest, roots
from bloomery.model.lora import lora_layers
from bloomery.model.transformer import Transformer
from bloomery.train import checkpoint
from bloomery.train.loop import fit, train_step
from bloomery.train.objective import causal_lm
from bloomery.train.optim import OptimizerConfig, moments, stacked
from bloomery.train.state import State, fresh

CONFIG = ModelConfig(vocabulary=24, context=32, depth=2, width=64, heads=4, kv_heads=2, head_width=16, hidden=96)
FROZEN = [name for name in METHODS if name != "full"]


def made(method: str, *, compute: torch.dtype = torch.float32, **options: object) -> Transformer:
    return adapt(Transformer(CONFIG, seed=0, compute=compute),
                 AdaptConfig(method=method, rank=4, prefix_tokens=4, **options), seed=1)


def stream(step: int, size: int = 4) -> list:
    """Counting upward from somewhere, in micro-batches of two."""
    rows = [[(step + row + i) % 24 for i in range(12)] for row in range(size)]
    runs = [sequence(ids, [False, *[True] * 11]) for ids in rows]
    return [forest(runs[i:i + 2]) for i in range(0, size, 2)]


def began(model: Transformer, *, steps: int = 12, name: str = "adamw") -> State:
    return fresh(model, OptimizerConfig(lr=1e-2, name=name, weight_decay=0.0), steps=steps)


def hidden(model: Transformer) -> torch.Tensor:
    return model(torch.arange(9), torch.arange(9), Forest(roots([9])))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_every_method_learns_and_changes_only_what_it_says(method, compute):
    state = began(made(method, compute=compute))
    learning = {id(p) for p in trained_weights(state.model).values()}
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    first = train_step(state, stream(0), causal_lm, None).metrics["loss"]
    fit(state, stream, causal_lm)
    assert train_step(state, stream(0), causal_lm, None).metrics["loss"] < first
    changed = {id(p) for name, p in state.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and changed <= learning
    assert (method == "full") == (trained_share(state.model) == 1.0)


@pytest.mark.parametrize("method", FROZEN)
def test_frozen_weights_have_no_gradient_no_moments_and_no_place_in_a_checkpoint(method):
    state = began(made(method))
    loss, _ = causal_lm(state.model, stream(0)[0])
    loss.backward()
    assert all((p.grad is not None) <= p.requires_grad for p in state.model.parameters())
    fit(state, stream, causal_lm)
    trained = set(trained_weights(state.model))
    files = checkpoint.contents(state)
    assert set(files["model.safetensors"]) == trained
    assert {key.rpartition(".")[0] for key in moments(state.model, state.optimizers)} == trained
    assert "blocks.0.attention.qkv.weight" not in trained


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("method", FROZEN)
def test_a_resumed_training_is_the_uninterrupted_one(method, optimizer, tmp_path):
    """Bit for bit, dropout included: its draws are a function of the step."""
    options = {"dropout": 0.25} if "lora" in method else {}
    whole = began(made(method, **options), name=optimizer)
    fit(whole, stream, causal_lm)
    half = began(made(method, **options), name=optimizer)
    fit(half, stream, causal_lm, (lambda state, report: "half" if state.step == 6 else None,))
    path = checkpoint.save(half, tmp_path, identity="x")
    resumed = began(made(method, **options), name=optimizer)
    checkpoint.load(resumed, path, checkpoint.latest(tmp_path)[1], identity="x")
    torch.manual_seed(99)
    fit(resumed, stream, causal_lm)
    weights = trained_weights(whole.model)
    assert weights and all(torch.equal(p, weights[name]) for name, p in trained_weights(resumed.model).items())


def test_micro_batches_do_not_change_a_step():
    steps = {}
    for size in (4, 1):
        state = began(made("lora"))
        rows = [run for batch in stream(0) for run in [batch]]
        batches = rows if size == 1 else [forest([sequence([(row + i) % 24 for i in range(12)], [False, *[True] * 11])
                                                  for row in range(4)])]
        steps[size] = train_step(state, batches, causal_lm, None)
    assert steps[4].metrics["loss"] == pytest.approx(steps[1].metrics["loss"], rel=1e-6)
    assert steps[4].grad_norm == pytest.approx(steps[1].grad_norm, rel=1e-5)


def test_a_checkpoint_of_an_adapted_model_is_no_whole_model(tmp_path):
    path = checkpoint.save(began(made("lora")), tmp_path, identity="x")
    with pytest.raises(InputError, match="no whole model"):
        checkpoint.whole_model(CONFIG, path, torch.float32)


@pytest.mark.parametrize("method", FROZEN)
def test_plain_weights_are_made_of_what_is_a_change_of_a_matrix(method):
    state = began(made(method))
    fit(state, stream, causal_lm)
    if method not in ("lora", "qlora", "ia3"):
        with pytest.raises(InputError, match="cannot be merged"):
            merge(state.model)
        return
    merged = merge(state.model)
    assert dict(merged.named_parameters()).keys() == dict(Transformer(CONFIG).named_parameters()).keys()
    torch.testing.assert_close(hidden(merged), hidden(state.model), atol=1e-5, rtol=1e-5)


def test_muon_takes_the_a_of_siblings_apart():
    """Each A of q, k and v gets singular values near one by itself: stacked as one matrix they would share them."""
    model = made("lora")
    rows = stacked(model)
    layer = lora_layers(model)["blocks.0.attention.qkv"]
    assert rows[layer.adapter("default").a] == (4, 4, 4) and layer.weight not in rows


def test_lora_reads_the_whole_of_a_gradient():
    """After one step of AdamW every A and B has moved by about the rate, except that A waits for B to leave zero."""
    state = began(made("lora"))
    before = {name: p.detach().clone() for name, p in trained_weights(state.model).items()}
    train_step(state, stream(0), partial(causal_lm), None)
    moved = {name: not torch.equal(p, before[name]) for name, p in trained_weights(state.model).items()}
    assert {name for name, yes in moved.items() if yes} == {name for name in before if "_b" in name}
    train_step(state, stream(1), causal_lm, None)
    assert all(not torch.equal(p, before[name]) for name, p in trained_weights(state.model).items())
