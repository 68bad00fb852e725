"""Which weights an optimizer holds and how, its state by name, and clipping."""

import math

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from bloomery.core.errors import InputError
from bloomery.data.batch import rectangle
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.train.loop import train_step
from bloomery.train.objective import causal_lm
from bloomery.train.optim import (
    OptimizerConfig,
    adamw,
    clip_gradients,
    groups,
    moments,
    optimizers,
    restore_moments,
    sgd,
    stacked,
)
from bloomery.train.paged import SMALLEST
from bloomery.train.state import fresh

CONFIG = ModelConfig(vocabulary=11, context=8, depth=1, width=8, heads=2, kv_heads=1, head_width=4, hidden=8)


def stepped(seed: int = 0, name: str = "adamw", **options):
    large = {"width": 64, "hidden": 96} if name == "adamw8bit" else {}
    model = Transformer(CONFIG.model_copy(update=large), seed=seed)
    made = optimizers(model, OptimizerConfig(name=name, **options))
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


def test_embedding_and_head_may_learn_faster_and_not_decay():
    model = Transformer(CONFIG.model_copy(update={"tied": False}))
    config = OptimizerConfig(name="muon", weight_decay=0.3, decay_embeddings=False, embedding_lr=4.0)
    _, rest = optimizers(model, config)
    found = {p: (group["weight_decay"], group["scale"]) for group in rest.param_groups for p in group["params"]}
    assert found[model.embedding.weight] == found[model.head.weight] == (0.0, 4.0)
    assert found[model.norm.weight] == (0.0, 1.0)


def test_the_share_of_the_rate_is_used():
    def moved(share: float) -> torch.Tensor:
        state = fresh(Transformer(CONFIG), OptimizerConfig(embedding_lr=share, weight_decay=0.0), steps=5)
        before = state.model.head.weight.detach().clone()
        train_step(state, [rectangle(torch.arange(9)[None])], causal_lm, 1.0)
        return state.model.head.weight.detach() - before

    torch.testing.assert_close(moved(4.0), 4 * moved(1.0), atol=1e-6, rtol=0)


def test_8_bit_moments_are_for_large_weights_only():
    config = CONFIG.model_copy(update={"width": 64, "hidden": 96})
    model = Transformer(config)
    large, rest = optimizers(model, OptimizerConfig(name="adamw8bit"))
    sizes = [[p.numel() for group in o.param_groups for p in group["params"]] for o in (large, rest)]
    assert min(sizes[0]) >= SMALLEST > max(sizes[1]) and sum(map(len, sizes)) == len(list(model.parameters()))


def test_split_matrices_are_those_that_lie_stacked():
    model = Transformer(CONFIG)
    assert {tuple(rows) for rows in stacked(model).values()} == {(8, 4, 4), (8, 8)}
    assert all(sum(rows) == len(p) for p, rows in stacked(model).items())
    plain, split = stepped(name="muon", split=False)[0], stepped(name="muon")[0]
    assert not torch.equal(plain.blocks[0].attention.qkv.weight, split.blocks[0].attention.qkv.weight)
    assert torch.equal(plain.blocks[0].mlp.down.weight, split.blocks[0].mlp.down.weight)


def test_sgd_is_its_formula():
    """m <- mu m + g + wd p;  p <- p - lr (g + wd p + mu m), from m = 0."""
    p = torch.nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64))
    optimizer = sgd([p], OptimizerConfig(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.5))
    weights, m = p.detach().clone(), torch.zeros(1, 2, dtype=torch.float64)
    for gradient in ([3.0, 1.0], [-1.0, 0.5], [0.0, 2.0]):
        p.grad = torch.tensor([gradient], dtype=torch.float64)
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        optimizer.step()
        g = p.grad + 0.5 * weights
        m = 0.9 * m + g
        weights = weights - 0.1 * (g + 0.9 * m)
        torch.testing.assert_close(p.detach(), weights)


@pytest.mark.parametrize(("name", "kept"),
                         [("adamw", 3 * 8), ("muon", 4 + 3 * 4), ("sgd", 8), ("adamw8bit", 5 * 2 + 3 * 6)])
def test_moments_by_name_come_back(name, kept):
    model, made = stepped(name=name)
    saved = {key: value.clone() for key, value in moments(model, made).items()}
    assert len(saved) == kept
    other, again = stepped(seed=1, name=name)
    restore_moments(other, again, saved)
    assert all(torch.equal(value, saved[key]) for key, value in moments(other, again).items())


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd", "adamw8bit"])
def test_the_order_of_groups_does_not_matter(name):
    """Without decay there is one group where there were two: moments come back to the weights they belong to."""
    model, made = stepped(name=name)
    saved = {key: value.clone() for key, value in moments(model, made).items()}
    other, again = stepped(seed=1, name=name, weight_decay=0.0)
    assert sum(len(o.param_groups) for o in made) == sum(len(o.param_groups) for o in again) + 1
    restore_moments(other, list(reversed(again)), saved)
    assert all(torch.equal(value, saved[key]) for key, value in moments(other, again).items())


def test_sgd_without_momentum_remembers_nothing():
    model, made = stepped(name="sgd", momentum=0.0)
    assert moments(model, made) == {}
    restore_moments(model, made, {})
    with pytest.raises(InputError, match="does not fit"):
        restore_moments(model, made, {"norm.weight.momentum_buffer": torch.zeros(8)})


def test_moments_that_do_not_fit_are_named():
    model, made = stepped()
    saved = moments(model, made)
    saved["stranger.exp_avg"] = saved.pop("norm.weight.exp_avg")
    with pytest.raises(InputError) as caught:
        restore_moments(model, made, saved)
    assert "norm.weight.exp_avg" in caught.value.why and "stranger.exp_avg" in caught.value.why


def test_a_gradient_split_over_processes_has_one_norm(tmp_path):
    """One process alone: its part is the whole, and what is split and what is not are clipped together."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        whole = [torch.randn(4, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)]
        ours, theirs = ([torch.nn.Parameter(torch.zeros(4, 3)) for _ in whole] for _ in range(2))
        ours[1:] = [torch.nn.Parameter(distribute_tensor(p.detach(), mesh, [placement]))
                    for p, placement in zip(ours[1:], (Shard(0), Replicate()), strict=True)]
        for p, q, g in zip(ours, theirs, whole, strict=True):
            p.grad = distribute_tensor(g.clone(), mesh, p.placements) if hasattr(p, "placements") else g.clone()
            q.grad = g.clone()
        assert clip_gradients(ours, 0.5) == pytest.approx(clip_gradients(theirs, 0.5), abs=1e-6)
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p.grad.full_tensor() if hasattr(p, "placements") else p.grad, q.grad)
        assert len(groups(ours, OptimizerConfig(), frozenset())) == 2
        adamw(ours, OptimizerConfig()).step()                    # a fused kernel refuses a mixture
    finally:
        dist.destroy_process_group()


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


def test_clipping_refuses_a_limit_of_zero_and_tells_a_norm_that_is_not_finite():
    p = torch.nn.Parameter(torch.zeros(2))
    for bad in (float("nan"), float("inf")):
        p.grad = torch.tensor([1.0, bad])
        assert not math.isfinite(clip_gradients([p], 1.0)) and p.grad[0] == 1
    with pytest.raises(ValueError, match="clip must be > 0"):
        clip_gradients([p], 0.0)
