"""AdamW's groups and state, clipping, and the bounds of the schedule."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bloomery.core.errors import InputError
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.train.optim import OptimizerConfig, clip_gradients, moments, optimizers, restore_moments
from bloomery.train.schedule import cosine, linear, warmup_cosine, warmup_from_zero
from bloomery.train.state import fresh

CONFIG = ModelConfig(vocabulary=11, context=8, depth=1, width=8, heads=2, kv_heads=1, head_width=4, hidden=8)


def stepped(seed: int = 0, name: str = "adamw"):
    model = Transformer(CONFIG, seed=seed)
    made = optimizers(model, OptimizerConfig(name=name))
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
    for optimizer in made:
        optimizer.step()
    return model, made


@pytest.mark.parametrize("tied", [True, False])
def test_muon_takes_hidden_matrices_and_leaves_the_rest_to_adamw(tied):
    model = Transformer(CONFIG.model_copy(update={"tied": tied}))
    muon, adamw = optimizers(model, OptimizerConfig(name="muon"))
    names = {p: name for name, p in model.named_parameters()}
    matrices = {names[p] for group in muon.param_groups for p in group["params"]}
    rest = {names[p] for group in adamw.param_groups for p in group["params"]}
    assert matrices == {f"blocks.0.{name}.weight" for name in
                        ("attention.qkv", "attention.output", "mlp.gate_up", "mlp.down")}
    assert matrices | rest == set(names.values()) and not matrices & rest


def test_matrices_decay_and_vectors_do_not():
    model = Transformer(CONFIG)
    groups = optimizers(model, OptimizerConfig(weight_decay=0.3))[0].param_groups
    assert [g["weight_decay"] for g in groups] == [0.3, 0.0]
    assert all(p.dim() >= 2 for p in groups[0]["params"]) and all(p.dim() == 1 for p in groups[1]["params"])
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


@pytest.mark.parametrize(("name", "kept"), [("adamw", 3 * 8), ("muon", 4 + 3 * 4)])
def test_moments_by_name_come_back(name, kept):
    model, made = stepped(name=name)
    saved = {key: value.clone() for key, value in moments(model, made).items()}
    assert len(saved) == kept
    other, again = stepped(seed=1, name=name)
    restore_moments(other, again, saved)
    assert all(torch.equal(value, saved[key]) for key, value in moments(other, again).items())


def test_moments_that_do_not_fit_are_named():
    model, made = stepped()
    saved = moments(model, made)
    saved["stranger.exp_avg"] = saved.pop("norm.weight.exp_avg")
    with pytest.raises(InputError) as caught:
        restore_moments(model, made, saved)
    assert "norm.weight.exp_avg" in caught.value.why and "stranger.exp_avg" in caught.value.why


@pytest.mark.parametrize("limit", [0.5, 1.0, 100.0, None])
def test_clipping_is_torch_s(limit):
    gradients = [torch.randn(3, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    ours, theirs = ([torch.nn.Parameter(torch.zeros(3, 4)) for _ in gradients] for _ in range(2))
    for side in (ours, theirs):
        for p, g in zip(side, gradients, strict=True):
            p.grad = g.clone()
    norm = clip_gradients(ours, limit)
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs, limit or float("inf"))))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_clipping_refuses_a_limit_of_zero_and_a_norm_that_is_not_finite():
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([1.0, float("nan")])
    with pytest.raises(FloatingPointError, match="nan"):
        clip_gradients([p], 1.0)
    with pytest.raises(ValueError, match="clip must be > 0"):
        clip_gradients([p], 0.0)


@given(total=st.integers(1, 300), share=st.floats(0, 0.99), floor=st.floats(0, 1), step=st.integers(0, 400))
def test_the_rate_stays_between_its_bounds(total, share, floor, step):
    warmup = min(int(share * total), total - 1)
    rate = warmup_cosine(step, peak=2.0, warmup=warmup, total=total, floor=floor)
    assert 0 < rate <= 2.0 + 1e-12 or floor == 0
    if step >= warmup:
        assert rate >= 2.0 * floor - 1e-12
        assert warmup_cosine(step + 1, peak=2.0, warmup=warmup, total=total, floor=floor) <= rate + 1e-12


@pytest.mark.parametrize("decay", [cosine, linear])
def test_after_the_last_step_the_floor_is_held(decay):
    rates = [warmup_from_zero(s, peak=1.0, warmup=2, total=10, floor=0.25, decay=decay) for s in range(14)]
    assert rates[0] == 0 and rates[2] == 1 and rates[10:] == [0.25] * 4


def test_the_first_step_learns_and_the_peak_is_reached():
    assert [warmup_cosine(s, peak=1.0, warmup=4, total=8) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(("warmup", "total"), [(5, 5), (6, 5), (-1, 5), (0, 0)])
def test_schedules_without_meaning_are_refused(warmup, total):
    with pytest.raises(ValueError, match="0 <= warmup < total"):
        warmup_cosine(0, peak=1.0, warmup=warmup, total=total)


@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_runs_of_any_length_have_a_schedule(steps):
    state = fresh(Transformer(CONFIG), OptimizerConfig(lr=1.0, warmup=0.9), steps=steps)
    for state.step in range(steps):
        assert 0 < state.learning_rate() <= 1.0
