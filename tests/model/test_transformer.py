"""The decoder's shape, its first weights, and the few formulas it is made of."""

import math

import pytest
import torch
from pydantic import ValidationError

from bloomery.model.config import ModelConfig, kv_cache_bytes, tokens_for
from bloomery.model.forest import Forest, roots
from bloomery.model.norms import rms_norm
from bloomery.model.positions import interleaved_to_half, rope, rope_frequencies, rope_interleaved, rope_table
from bloomery.model.presets import sized
from bloomery.model.transformer import Transformer

CONFIG = ModelConfig(vocabulary=20, context=16, depth=3, width=24, heads=4, kv_heads=2, head_width=6, hidden=32)


@pytest.mark.parametrize("tied", [True, False])
def test_the_number_of_parameters_is_what_the_configuration_says(tied):
    config = CONFIG.model_copy(update={"tied": tied})
    assert sum(p.numel() for p in Transformer(config).parameters()) == config.parameters()


def test_first_weights_depend_on_the_seed_only():
    torch.manual_seed(1)
    one = Transformer(CONFIG, seed=5)
    torch.manual_seed(2)
    same, other = Transformer(CONFIG, seed=5), Transformer(CONFIG, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)


def test_first_weights_have_the_deviation_they_should():
    model = Transformer(ModelConfig(vocabulary=512, depth=4, width=256, hidden=512))
    residual = 0.02 / math.sqrt(2 * 4)
    for name, weight in model.named_parameters():
        expected = residual if name.endswith(("output.weight", "down.weight")) else 0.02
        if weight.dim() == 1:
            assert weight.eq(1).all(), name
        else:
            assert float(weight.detach().std()) == pytest.approx(expected, rel=0.03), name


def test_the_untrained_model_knows_nothing_in_particular():
    ids = torch.arange(16)
    model = Transformer(CONFIG)
    nll = torch.nn.functional.cross_entropy(model.logits(model(ids, ids, Forest(roots([16])))), ids.flip(0))
    assert float(nll.detach()) == pytest.approx(math.log(20), abs=0.1)


def test_the_future_is_not_seen():
    model = Transformer(CONFIG, compute=torch.float64).double()
    ids = torch.arange(12)
    changed = ids.clone()
    changed[7] = 19
    before, after = (model(x, torch.arange(12), Forest(roots([12]))) for x in (ids, changed))
    assert torch.equal(before[:7], after[:7]) and not torch.isclose(before[7:], after[7:]).all(-1).any()


def test_positions_matter_only_by_their_differences():
    model = Transformer(CONFIG, compute=torch.float64).double()
    ids = torch.arange(10)
    near, far = (model(ids, torch.arange(10) + offset, Forest(roots([10]))) for offset in (0, 1000))
    torch.testing.assert_close(near, far, atol=1e-9, rtol=0)
    assert not torch.allclose(near, model(ids, torch.arange(10) * 2, Forest(roots([10]))), atol=1e-6)


def test_long_positions_keep_their_precision_in_low_precision():
    """cos and sin of position 2047 in bfloat16 are the rounded exact ones, not those of a rounded position."""
    frequencies = rope_frequencies(8, 10_000.0)
    exact = rope_table(torch.tensor([2047]), frequencies, torch.float64)
    half = rope_table(torch.tensor([2047]), frequencies, torch.bfloat16)
    for a, b in zip(exact, half, strict=True):
        torch.testing.assert_close(b.double(), a, atol=2**-8, rtol=0)


def test_the_two_rotary_layouts_differ_by_a_permutation():
    x, order = torch.randn(5, 3, 8, dtype=torch.float64), interleaved_to_half(8)
    table = rope_table(torch.arange(5), rope_frequencies(8, 100.0), torch.float64)
    torch.testing.assert_close(rope(x[..., order], *table), rope_interleaved(x, *table)[..., order])
    torch.testing.assert_close(rope(x, *table).norm(dim=-1), x.norm(dim=-1))


def test_a_zero_vector_stays_zero_and_eps_must_be_positive():
    assert rms_norm(torch.zeros(2, 4), torch.ones(4), 1e-6).eq(0).all()
    with pytest.raises(ValueError, match="eps must be > 0"):
        rms_norm(torch.ones(2, 4), torch.ones(4), 0.0)


def test_norms_take_their_statistics_in_fp32():
    x = (torch.ones(1, 512) * 300).half()                   # squares overflow half precision
    torch.testing.assert_close(rms_norm(x, torch.ones(512), 1e-6).float(), torch.ones(1, 512))


@pytest.mark.parametrize("depth", [1, 2, 3, 6, 12, 24])
def test_one_dial_gives_a_consistent_model(depth):
    config = sized(depth, vocabulary=100, context=64)
    assert config.width == config.heads * config.head_width and config.heads % config.kv_heads == 0
    assert config.width % 64 == config.hidden % 64 == 0 and 8 / 3 <= config.hidden / config.width < 8 / 3 + 1


def test_overrides_win_over_the_dial():
    config = sized(2, vocabulary=100, context=64, width=48, heads=3, kv_heads=None, tied=False)
    assert (config.width, config.heads, config.kv_heads, config.head_width, config.tied) == (48, 3, 3, 16, False)


@pytest.mark.parametrize(("change", "part"), [({"heads": 3, "kv_heads": 2}, "multiple of kv_heads"),
                                              ({"head_width": 7}, "must be even"), ({"depth": 0}, "depth")])
def test_shapes_that_cannot_be_are_refused(change, part):
    with pytest.raises(ValidationError, match=part):
        ModelConfig(**(CONFIG.model_dump() | change))


def test_costs():
    """Llama 7B: parameters as published; 2 GiB of cache for 4096 tokens; 6 N + 6 L H E T FLOPs a token."""
    llama = ModelConfig(vocabulary=32_000, context=4096, depth=32, width=4096, heads=32, kv_heads=32, head_width=128,
                        hidden=11_008, tied=False)
    assert llama.parameters() == 6_738_415_616
    assert llama.cache_bytes(1) == kv_cache_bytes(32, 1, 32, 4096, 128, 2) == 2**31
    assert llama.flops_per_token() == 6 * llama.parameters() + 6 * 32 * 4096 * 4096
    assert tokens_for(6e15, parameters=1e6) == 1e9
