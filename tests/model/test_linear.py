"""Low-precision shadows of weights: renewed whenever the weight changes, with gradients near those of fp32."""

import pytest
import torch

from bloomery.data.batch import rectangle
from bloomery.model.config import ModelConfig
from bloomery.model.linear import Linear
from bloomery.model.transformer import Transformer
from bloomery.train.loop import train_step
from bloomery.train.objective import causal_lm
from bloomery.train.optim import OptimizerConfig
from bloomery.train.state import fresh

CONFIG = ModelConfig(vocabulary=50, context=32, depth=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48)


def layer(inputs: int = 16, outputs: int = 8) -> Linear:
    made = Linear(inputs, outputs)
    with torch.no_grad():
        made.weight.copy_(torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0)))
    return made


def test_it_is_a_linear_layer_to_engines_and_spends_no_random_number():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    made = Linear(4, 3, bias=True)
    assert isinstance(made, torch.nn.Linear) and made.bias.shape == (3,) and Linear(4, 3).bias is None
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_is_added_in_the_compute_dtype_and_learns_in_fp32(dtype):
    made, x = Linear(16, 8, bias=True), torch.randn(40, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        made.weight.copy_(layer().weight)
        made.bias.copy_(torch.arange(8.0))
    out = made(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out, torch.nn.functional.linear(x, made.weight.to(dtype), made.bias.to(dtype)))
    pull = torch.rand(40, 8, generator=torch.Generator().manual_seed(2)).to(dtype)
    (out * pull).sum().backward()
    assert made.bias.grad.dtype == torch.float32
    torch.testing.assert_close(made.bias.grad, pull.float().sum(0))


def test_the_same_dtype_needs_no_shadow():
    made = layer()
    x = torch.randn(3, 16)
    torch.testing.assert_close(made(x), x @ made.weight.T)
    assert made._shadow is None


def test_a_shadow_is_kept_until_the_weight_changes():
    made = layer()
    first = made.compute_weight(torch.bfloat16)
    assert made.compute_weight(torch.bfloat16) is first
    with torch.no_grad():
        made.weight.add_(1.0)
    assert torch.equal(made.compute_weight(torch.bfloat16), made.weight.bfloat16())
    made.weight = torch.nn.Parameter(torch.zeros(8, 16))
    assert made.compute_weight(torch.bfloat16).eq(0).all()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_shadow_follows_an_optimizer_step(tied, name):
    """torch's fused AdamW changes weights without counting a version, which once left the shadows behind for good."""
    model = Transformer(CONFIG.model_copy(update={"tied": tied}), seed=0, compute=torch.bfloat16)
    rows = torch.randint(0, 50, (4, 17), generator=torch.Generator().manual_seed(0))
    state = fresh(model, OptimizerConfig(name=name, lr=1e-2, warmup=0.0), steps=10)
    for _ in range(2):
        train_step(state, [rectangle(rows)], causal_lm, 1.0)
    layers = [module for module in model.modules() if isinstance(module, Linear) and module._shadow is not None]
    assert len(layers) == 4 * CONFIG.depth + 1
    for module in layers:
        assert torch.equal(module.compute_weight(torch.bfloat16), module.weight.detach().bfloat16())


def test_bfloat16_gradients_come_back_in_fp32_and_near_those_of_fp32():
    made, x = layer(64, 32), torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    pull = torch.randn(40, 32, generator=torch.Generator().manual_seed(2))
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        made.weight.grad, inputs = None, x.clone().requires_grad_()
        (made(inputs.to(dtype)).float() * pull).sum().backward()
        assert made.weight.grad.dtype == torch.float32
        grads.append((made.weight.grad, inputs.grad))
    for exact, half in zip(*grads, strict=True):
        assert (half - exact).norm() / exact.norm() < 0.01


def test_a_step_in_bfloat16_is_near_a_step_in_fp32():
    rows = torch.randint(0, 50, (8, 33), generator=torch.Generator().manual_seed(3))
    found = []
    for compute in (torch.float32, torch.bfloat16):
        model = Transformer(CONFIG, seed=0, compute=compute)
        loss, metrics = causal_lm(model, rectangle(rows))
        (loss / 256).backward()
        found.append((metrics["loss"] / 256, torch.cat([p.grad.flatten() for p in model.parameters()])))
    (exact_loss, exact), (loss, gradient) = found
    assert loss == pytest.approx(exact_loss, rel=2e-3)
    assert torch.nn.functional.cosine_similarity(gradient, exact, dim=0) > 0.999
