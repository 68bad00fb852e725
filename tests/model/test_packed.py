"""Packed weights give the products of plain ones, and are packed again only after they have changed."""

import pytest
import torch

from bloomery.model.cache import Cache
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest, roots
from bloomery.model.lora import LoraConfig, attach, lora_weights, using
from bloomery.model.packed import PackedLinear, packed, packs
from bloomery.model.transformer import Transformer

SHAPE = {"vocabulary": 61, "context": 40, "depth": 2, "width": 32, "heads": 4, "kv_heads": 2, "head_width": 8,
         "hidden": 48}
pytestmark = pytest.mark.skipif(not packs(Transformer(ModelConfig(**SHAPE), compute=torch.bfloat16)),
                                reason="this build of torch has no packed products")


def logits(model: Transformer, lengths: list[int]) -> torch.Tensor:
    segments = roots(lengths)
    ids = torch.arange(sum(lengths)) % model.config.vocabulary
    return model.logits(model(ids, segments.positions, Forest(segments)))


@pytest.mark.parametrize("kind", [{}, {"biases": "all", "norm": "layer", "activation": "gelu"}, {"tied": False},
                                  {"positions": "learned"}, {"qk_norm": True}, {"norm_order": "sandwich"}], ids=str)
@torch.no_grad()
def test_packed_weights_give_the_same_logits(kind):
    model = Transformer(ModelConfig(**SHAPE | kind), seed=1, compute=torch.bfloat16)
    for weight in model.parameters():
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)), alpha=0.05)
    plain, other = logits(model, [7, 1, 30]), logits(packed(model), [7, 1, 30])
    torch.testing.assert_close(other, plain, atol=0.02 * float(plain.abs().max()), rtol=0)
    assert float((other - plain).abs().mean()) < 2e-3 * float(plain.abs().max())


@torch.no_grad()
def test_rows_of_a_cache_are_decoded_alike():
    model = Transformer(ModelConfig(**SHAPE), seed=1, compute=torch.bfloat16)
    twin, found = packed(model), []
    for network in (model, twin):
        cache = Cache(model.config, 3, 40)
        network(torch.tensor([1, 2, 3, 4, 5, 6]), cache.feed([0, 1, 2], [2, 2, 2]), cache)
        cache.advance()
        found.append(network.logits(network(torch.tensor([7, 8, 9]), cache.feed([0, 1, 2], [1, 1, 1]), cache)))
    torch.testing.assert_close(*found, atol=0.05, rtol=0.02)
    assert not isinstance(model.blocks[0].mlp.down, PackedLinear)


@torch.no_grad()
def test_only_what_has_changed_is_packed_again():
    model = Transformer(ModelConfig(**SHAPE), seed=1, compute=torch.bfloat16)
    first = packed(model)
    model.blocks[1].mlp.down.weight.mul_(2)
    second = packed(model, first)
    kept = {name for name, module in second.named_modules()
            if isinstance(module, PackedLinear) and module is first.get_submodule(name)}
    assert "blocks.1.mlp.down" not in kept and len(kept) == 4 * 2 + 1 - 1
    assert not torch.equal(logits(second, [5]), logits(first, [5]))
    torch.testing.assert_close(logits(second, [5]), logits(packed(model), [5]), atol=0, rtol=0)


@torch.no_grad()
def test_an_adapter_is_packed_with_its_matrix_and_its_switch_counts_as_a_change():
    model = attach(Transformer(ModelConfig(**SHAPE), seed=1, compute=torch.bfloat16), LoraConfig(rank=4), 0)
    base = logits(packed(model), [9])
    for weight in lora_weights(model, "default"):
        weight.add_(0.2)
    on = packed(model)
    assert isinstance(on.blocks[0].attention.qkv, PackedLinear)
    torch.testing.assert_close(logits(on, [9]), logits(model, [9]), atol=0.05, rtol=0.05)
    with using(model, None):
        off = packed(model, on)
    assert float((logits(off, [9]) - base).abs().max()) == 0 < float((logits(on, [9]) - base).abs().max())
    assert packed(model, packed(model, off)).blocks[0].mlp.down.stamp == on.blocks[0].mlp.down.stamp


def test_what_cannot_be_packed_is_left_as_it_is():
    model = Transformer(ModelConfig(**SHAPE), seed=1)
    assert packed(model) is model


@torch.no_grad()
def test_a_model_with_hooks_is_left_as_it_is():
    """What an adapter does through a hook has no place in packed weights."""
    model = Transformer(ModelConfig(**SHAPE), seed=1, compute=torch.bfloat16)
    hook = model.blocks[0].mlp.register_forward_hook(lambda module, given, out: out * 2)
    assert packed(model) is model
    hook.remove()
    assert packed(model) is not model
