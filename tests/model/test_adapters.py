"""Bottleneck adapters: nothing changes at first, only they and the norms learn, and a file brings them back."""

import copy

import adapted_models
import pytest
import torch

from bloomery.core.errors import ConfigError, InputError
from bloomery.model.adapters import Bottleneck, BottleneckConfig, attach, fill, from_file, to_file
from bloomery.model.cache import Cache
from bloomery.model.config import ModelConfig
from bloomery.model.nf4 import quantise
from bloomery.model.transformer import Transformer

CONFIG = ModelConfig(vocabulary=31, context=64, depth=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48)
IDS = torch.randint(0, 31, (40,), generator=torch.Generator().manual_seed(0))
PLACEMENTS = pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])


def logits(model: Transformer) -> torch.Tensor:
    return adapted_models.logits(model, IDS)


def loud(compute: torch.dtype = torch.float32) -> Transformer:
    """Weights large enough that a frozen head can say something."""
    model = Transformer(CONFIG, seed=1, compute=compute)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(10 if weight.dim() > 1 else 1)
    return model


def adapting(placement: str = "houlsby", bottleneck: int | None = 4) -> BottleneckConfig:
    return BottleneckConfig(placement=placement, bottleneck=bottleneck)


def train(model: Transformer, steps: int = 30) -> list[float]:
    return adapted_models.learned(model, IDS, steps=steps, lr=2e-2)


@PLACEMENTS
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_a_model_computes_what_it_did_until_they_learn(placement, compute):
    model = loud(compute)
    before = logits(model)
    assert attach(model, adapting(placement), 0) is model
    assert torch.equal(logits(model), before)
    losses = train(model)
    assert losses[-1] < 0.6 * losses[0]


@PLACEMENTS
def test_adapters_and_norms_are_all_that_learns(placement):
    model = Transformer(CONFIG, seed=1)
    frozen = {name: p.clone() for name, p in model.named_parameters() if "norm" not in name}
    attach(model, adapting(placement, None), 0)
    learn = {name: p for name, p in model.named_parameters() if p.requires_grad}
    own = [p.numel() for name, p in learn.items() if ".adapter." in name]
    adapters = 2 * CONFIG.depth if placement == "houlsby" else CONFIG.depth
    assert sum(own) == adapters * (2 * 32 * 2 + 2 + 32)            # a sixteenth of 32 is 2
    assert all("norm" in name or ".adapter." in name for name in learn) and "norm.weight" in learn
    train(model, 2)
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    assert all(p.grad is None for name, p in model.named_parameters() if name in frozen)


def test_a_seed_names_the_numbers_and_every_adapter_has_its_own():
    first, again, other = (to_file(attach(Transformer(CONFIG), adapting(), seed))[1] for seed in (5, 5, 6))
    name = "blocks.{}.mlp.down.adapter.down.weight"
    assert torch.equal(first[name.format(0)], again[name.format(0)])
    assert not torch.equal(first[name.format(0)], other[name.format(0)])
    assert not torch.equal(first[name.format(0)], first[name.format(1)])


@PLACEMENTS
def test_a_file_brings_them_back(placement):
    model = attach(Transformer(CONFIG, seed=1), adapting(placement), 0)
    train(model, 5)
    said, tensors = to_file(model)
    assert said == {"peft_type": "BOTTLENECK", "bottleneck": 4, "placement": placement}
    other = from_file(Transformer(CONFIG, seed=1), said, {name: t.clone() for name, t in tensors.items()})
    assert torch.equal(logits(other), logits(model))
    assert not torch.equal(logits(other), logits(Transformer(CONFIG, seed=1)))
    with pytest.raises(InputError) as error:
        fill({"a": torch.zeros(2), "b": torch.zeros(3)}, {"b": torch.zeros(4), "c": torch.zeros(1)})
    assert error.value.why == "missing a; unexpected c; b has shape (4,), expected (3,)"


def test_a_copy_has_adapters_of_its_own():
    model = attach(Transformer(CONFIG, seed=1), adapting(), 0)
    twin, before = copy.deepcopy(model), logits(model)
    train(twin, 3)
    assert torch.equal(logits(model), before) and not torch.equal(logits(twin), before)


@torch.no_grad()
def test_they_decode_and_stand_on_4_bits():
    model = attach(quantise(Transformer(CONFIG, seed=1)), adapting(), 0)
    for p in model.parameters():
        if p.requires_grad:
            p.add_(0.1)
    cache, steps = Cache(CONFIG, 1, 64), []
    for token in IDS:
        steps.append(model(token[None], cache.feed([0], [1]), cache))
        cache.advance()
    torch.testing.assert_close(model.logits(torch.cat(steps)), logits(model), atol=1e-4, rtol=1e-4)


def test_what_is_no_bottleneck_is_refused_before_anything_changes():
    model = Transformer(CONFIG)
    with pytest.raises(ConfigError) as error:
        attach(model, adapting(bottleneck=32), 0)
    assert error.value.why == "32 numbers of 32" and all(p.requires_grad for p in model.parameters())


def test_the_formula():
    layer = Bottleneck(6, 3, generator=torch.Generator().manual_seed(0), activation="relu").double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype))
    h = torch.randn(5, 6, dtype=torch.float64)
    inner = (h @ layer.down.weight.T + layer.down.bias).clamp(min=0)
    torch.testing.assert_close(layer(h), h + inner @ layer.up.weight.T + layer.up.bias)
