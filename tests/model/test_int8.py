"""Weights in eight bits: how far they and what they compute may be off, and a model that still says the same."""

import pytest
import torch

from bloomery.core.errors import InputError
from bloomery.generate.beam import beam_search
from bloomery.model.cache import Cache
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest, roots
from bloomery.model.int8 import FEW, Int8Linear, quantise
from bloomery.model.packed import packed
from bloomery.model.transformer import Transformer

CONFIG = ModelConfig(vocabulary=61, context=64, depth=2, width=32, heads=4, kv_heads=2, head_width=16, hidden=48)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
IDS = torch.randint(0, 61, (40,), generator=torch.Generator().manual_seed(0))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loud(**changes) -> Transformer:
    model = Transformer(CONFIG.model_copy(update=changes), seed=3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5 if weight.dim() > 1 else 1)
    return model


@torch.no_grad()
def logits(model: Transformer) -> torch.Tensor:
    return model.logits(model(IDS, torch.arange(len(IDS)), Forest(roots([len(IDS)]))))


def test_no_weight_is_off_by_more_than_half_a_step():
    """With rows of very different size, one of zeros among them."""
    weight = random(50, 64) * torch.logspace(-6, 3, 50)[:, None]
    weight[7] = 0
    layer = Int8Linear(weight)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((layer.weight - weight).abs() <= step * (0.5 + 2 ** -8)).all()
    assert layer.codes.dtype == torch.int8 and not layer.weight[7].any()
    assert layer.codes.abs().amax(1)[torch.arange(50) != 7].min() >= 126
    torch.testing.assert_close(layer.look_up(torch.tensor([3, 7, 3])), layer.weight[[3, 7, 3]], atol=0, rtol=0)


@DTYPES
@pytest.mark.parametrize("rows", [1, 3, FEW, FEW + 1, 70, 200])
@pytest.mark.parametrize("bias", [True, False])
def test_products_stay_within_the_bound(dtype, rows, bias):
    """|y - W x| <= s / 2 |x|_1 from the weights, and roundings to bfloat16 of what goes in and comes out."""
    weight, x, offset = random(33, 48), random(rows, 48, seed=1).to(dtype), random(33, seed=2) if bias else None
    y = Int8Linear(weight, offset)(x)
    exact = x.double() @ weight.double().T + (0 if offset is None else offset.double())
    step = weight.abs().amax(1).double() / 127
    size = x.double().abs()
    bound = size.sum(1, keepdim=True) * step / 2 * 1.01 + 2 ** -7 * (size @ weight.abs().double().T) + 2 ** -8 * 3
    assert y.dtype == dtype and y.shape == exact.shape
    assert ((y.double() - exact).abs() <= bound).all()
    assert (y.double() - exact).abs().max() > 1e-4             # it is not the plain product


@DTYPES
def test_a_row_alone_is_what_it_is_beside_others(dtype):
    layer, x = Int8Linear(random(64, 96)), random(FEW, 96, seed=1).to(dtype)
    alone = torch.cat([layer(row[None]) for row in x])
    assert torch.equal(alone, layer(x)) and torch.equal(layer(x.flip(0)).flip(0), alone)
    assert torch.allclose(layer(x.repeat(4, 1))[:FEW].float(), alone.float(), rtol=2 ** -6, atol=1e-2)


@pytest.mark.parametrize("change", [{}, {"tied": False}, {"biases": "all"}, {"positions": "learned", "norm": "layer"}],
                         ids=str)
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_a_model_says_nearly_the_same(change, compute):
    model = loud(**change)
    expected = logits(model)
    model.compute = compute
    assert quantise(model) is model
    got = logits(model)
    assert got.dtype == torch.float32
    spread = expected.std()
    assert 0 < (got - expected).abs().mean() < 0.05 * spread and (got - expected).abs().max() < 0.4 * spread
    kinds = {type(module).__name__ for module in model.modules()}
    assert "Int8Linear" in kinds and (model.embedding is model.head) == model.config.tied
    assert [*model.state_dict()].count("blocks.1.mlp.down.codes") == 1


@torch.no_grad()
def test_it_decodes_with_a_cache_and_beams():
    model = quantise(loud())
    cache, steps = Cache(CONFIG, 1, 64), []
    for token in IDS:
        steps.append(model(token[None], cache.feed([0], [1]), cache))
        cache.advance()
    torch.testing.assert_close(model.logits(torch.cat(steps)), logits(model), atol=0.1, rtol=0.05)
    assert len(beam_search(model, IDS[:5].tolist(), beams=3, max_tokens=4, n_best=3)) == 3


def test_the_layout_for_decoding_leaves_it_alone():
    model = quantise(loud())
    model.compute = torch.bfloat16
    assert packed(model) is model


def test_weights_are_a_byte_each():
    model = loud()
    before = sum(weight.numel() for weight in model.parameters() if weight.dim() > 1)
    quantise(model)
    assert sum(code.numel() * code.itemsize for name, code in model.named_buffers() if name.endswith("codes")) == before
    assert not any(weight.dim() > 1 for weight in model.parameters())


def test_what_the_kernel_cannot_do_is_refused_before_anything_changes(monkeypatch):
    model = loud(hidden=40)
    with pytest.raises(InputError) as error:
        quantise(model)
    assert "layers read 40 numbers" in error.value.why and "Int8Linear" not in repr(model)
    with pytest.raises(ValueError, match="24 numbers"):
        Int8Linear(random(4, 24))
    monkeypatch.setattr(torch.ops, "aten", object())
    with pytest.raises(InputError) as error:
        quantise(loud())
    assert "no kernel" in error.value.why
