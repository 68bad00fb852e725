"""Weights in four bits: what the codes say, what products compute, what a model holds, and LoRA on top of it."""

import copy

import adapted_models
import pytest
import torch
from torch.nn.functional import cross_entropy

from bloomery.model.cache import Cache
from bloomery.model.config import ModelConfig
from bloomery.model.lora import LoraConfig
from bloomery.model.lora import attach as attach_lora
from bloomery.model.nf4 import BLOCK, CODES, NF4Linear, quantise, quantised, restored, spread, weight_bytes
from bloomery.model.transformer import Transformer

CONFIG = ModelConfig(vocabulary=61, context=64, depth=2, width=64, heads=4, kv_heads=2, head_width=16, hidden=96)
IDS = torch.randint(0, 61, (40,), generator=torch.Generator().manual_seed(0))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def logits(model: Transformer) -> torch.Tensor:
    return adapted_models.logits(model, IDS)


def loud(compute: torch.dtype = torch.float32, **changes) -> Transformer:
    return adapted_models.loud(CONFIG.model_copy(update=changes), times=4, seed=3, compute=compute)


def test_the_codes_are_quantiles_of_a_normal_distribution():
    """Dettmers et al. 2023, section 3: 8 above zero, 7 below, evenly spread up to 0.9677 of it, divided by the last."""
    normal = torch.distributions.Normal(0.0, 1.0)
    above = normal.icdf(torch.linspace(0.9677083, 0.5, 9, dtype=torch.float64)[:-1])
    below = -normal.icdf(torch.linspace(0.9677083, 0.5, 8, dtype=torch.float64)[:-1])
    made = torch.cat((above, torch.zeros(1), below)).sort().values / above.max()
    torch.testing.assert_close(made, torch.tensor(CODES, dtype=torch.float64), atol=2e-7, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 70, 127, 1000, 2**16 + 3])
def test_every_weight_gets_the_nearest_code(count):
    x = random(count, seed=count)
    codes, largest = quantised(x)
    assert len(codes) == -(-count // 2) and len(largest) == -(-count // BLOCK)
    scale = largest.repeat_interleave(BLOCK)[:count]
    nearest = (x[:, None] - scale[:, None] * torch.tensor(CODES)).abs().amin(1)
    got = restored(codes, largest, torch.empty(count))
    torch.testing.assert_close((got - x).abs(), nearest, atol=1e-6, rtol=0)


def test_an_empty_block_stays_empty_and_what_is_not_finite_is_refused():
    x = random(192)
    x[64:128] = 0
    assert not restored(*quantised(x), torch.empty(192))[64:128].any()
    layer = NF4Linear(x.view(3, 64))
    assert not layer.weight[1].any() and layer.weight[0].any()
    x[7], x[9] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="2 of 192 weights are not finite"):
        quantised(x)


def test_block_constants_in_8_bits_cost_an_eighth_of_a_bit_and_little_accuracy():
    weight = random(512, 256) * 0.02
    plain, double = NF4Linear(weight, double=False), NF4Linear(weight)
    assert weight_bytes(plain) * 8 / weight.numel() == 4.5
    assert weight_bytes(double) * 8 / weight.numel() == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=3e-4)
    errors = [float((layer.weight - weight).square().mean()) for layer in (plain, double)]
    assert errors[0] < errors[1] < 1.02 * errors[0]
    assert errors[0] ** 0.5 < 0.1 * 0.02                          # a tenth of a standard deviation


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_products_and_their_gradient_are_those_of_the_spread_weight(dtype, bias):
    layer = NF4Linear(random(33, 48), random(33, seed=2) if bias else None)
    x = random(70, 48, seed=1).to(dtype).requires_grad_()
    y = layer(x)
    y.backward(grad := random(70, 33, seed=4).to(dtype))
    weight = layer.compute_weight(dtype)
    assert y.dtype == dtype and not any(p.requires_grad for p in layer.parameters())
    expected = x.detach() @ weight.T + (layer.bias.to(dtype) if bias else 0)
    close = {"atol": 0.1, "rtol": 0.02} if dtype == torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(y.detach(), expected, **close)
    torch.testing.assert_close(x.grad, grad @ weight, **close)


def test_layers_of_a_shape_share_one_buffer_and_still_give_right_gradients():
    """The buffer holds another layer's weight by the time of the backward pass."""
    lent: dict = {}
    first, second = (NF4Linear(random(64, 64, seed=s), lent=lent) for s in (1, 2))
    x = random(9, 64).requires_grad_()
    second(first(x)).sum().backward()
    assert len(lent) == 1 and sum(t.numel() for t in lent.values()) == 64 * 64
    expected = torch.ones(9, 64) @ second.weight @ first.weight
    torch.testing.assert_close(x.grad, expected)
    assert first.weight.data_ptr() != next(iter(lent.values())).data_ptr()


def test_nothing_is_kept_for_the_backward_pass():
    layer, kept = NF4Linear(random(64, 64)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(random(200, 64).requires_grad_())
    assert kept == []


@pytest.mark.parametrize("change", [{}, {"tied": False}, {"biases": "all", "norm": "layer", "positions": "learned"}],
                         ids=str)
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_a_model_says_nearly_the_same(change, compute):
    model = loud(compute, **change)
    expected = logits(model).detach()
    assert quantise(model) is model
    got = logits(model)
    assert 0 < (got - expected).abs().mean() < 0.2 * expected.std() and got.dtype == torch.float32
    assert not any(p.requires_grad for p in model.parameters()) and (model.head is model.embedding) == model.config.tied
    assert sum(isinstance(m, NF4Linear) for m in model.modules()) == 8


def test_a_model_of_usual_shape_holds_less_than_35_percent_of_fp32():
    """With an embedding that is a third of all weights, as in a quickstart; a copy of the model shares buffers too."""
    model = Transformer(CONFIG.model_copy(update={"vocabulary": 4096, "width": 192, "heads": 3, "kv_heads": 3,
                                                  "head_width": 64, "hidden": 512, "depth": 4}))
    before = weight_bytes(model)
    assert before == 4 * model.config.parameters()
    quantise(model)
    assert weight_bytes(model) < 0.27 * before
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), logits(model))
    lent = {id(m._lent) for m in twin.modules() if isinstance(m, NF4Linear)}
    assert len(lent) == 1 and lent != {id(model.blocks[0].mlp.down._lent)}


@torch.no_grad()
def test_it_decodes_with_a_cache():
    model = quantise(loud())
    cache, steps = Cache(CONFIG, 1, 64), []
    for token in IDS:
        steps.append(model(token[None], cache.feed([0], [1]), cache))
        cache.advance()
    torch.testing.assert_close(model.logits(torch.cat(steps)), logits(model), atol=1e-4, rtol=1e-4)


def test_lora_learns_on_it_and_the_base_stays():
    model = quantise(loud())
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    at_start = logits(model).detach()
    attach_lora(model, LoraConfig(rank=4), seed=1)
    torch.testing.assert_close(logits(model).detach(), at_start, atol=1e-5, rtol=1e-5)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=1e-2), []
    for _ in range(12):
        losses.append(cross_entropy(logits(model)[:-1], IDS[1:]))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]
    after = {name.replace(".base.", "."): buffer for name, buffer in model.named_buffers()}
    assert all(torch.equal(after[name], buffer) for name, buffer in before.items())


@torch.no_grad()
def test_spread_out_it_is_a_plain_layer_of_the_same_numbers():
    layer, x = NF4Linear(random(24, 64), random(24, seed=1)), random(5, 64, seed=2)
    plain = spread(layer)
    torch.testing.assert_close(plain(x), layer(x))
    assert type(plain).__name__ == "Linear" and not plain.weight.requires_grad
