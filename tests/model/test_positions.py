"""Rotary positions, their two layouts, what is scaled for a longer context, and sinusoidal positions."""

import math

import pytest
import torch

from bloomery.model.config import ModelConfig, Rope
from bloomery.model.forest import Forest, roots
from bloomery.model.positions import (
    TURNS,
    interleaved_to_half,
    rope,
    rope_frequencies,
    rope_interleaved,
    rope_table,
    sinusoidal,
)
from bloomery.model.rope_scaling import frequencies, ntk_base, temperature
from bloomery.model.transformer import Transformer

CONFIG = ModelConfig(vocabulary=20, context=16, depth=2, width=24, heads=4, kv_heads=2, head_width=16, hidden=32)


def theta(rope: Rope, tokens: int = 1) -> torch.Tensor:
    return frequencies(CONFIG.model_copy(update={"rope": rope}), torch.arange(tokens), torch.float64)


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


@pytest.mark.parametrize("layout", TURNS)
def test_a_narrow_table_turns_the_first_dimensions_only(layout):
    x = torch.randn(5, 3, 8, dtype=torch.float64)
    table = rope_table(torch.arange(5), rope_frequencies(4, 100.0), torch.float64)
    turned = TURNS[layout](x, *table)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    torch.testing.assert_close(turned[..., :4], TURNS[layout](x[..., :4], *table))


def test_interpolation_puts_twice_the_text_where_the_model_was_trained():
    """Positions 0, 2, 4, ... of a model scaled by two are 0, 1, 2, ... of the unscaled one (Chen et al. 2023)."""
    scaled, plain = (Transformer(CONFIG.model_copy(update={"rope": r}), compute=torch.float64).double()
                     for r in (Rope(type="linear", factor=2.0), Rope()))
    ids = torch.arange(10)
    torch.testing.assert_close(scaled(ids, 2 * ids, Forest(roots([10]))), plain(ids, ids, Forest(roots([10]))))


def test_ntk_keeps_the_fastest_pair_and_divides_the_slowest():
    ratio = theta(Rope(type="ntk", factor=8.0)) / theta(Rope())
    assert float(ratio[0]) == 1 and float(ratio[-1]) == pytest.approx(1 / 8) and ratio.diff().lt(0).all()
    with pytest.raises(ValueError, match="more than one pair"):
        ntk_base(10_000.0, 2, 4.0)


def test_dynamic_scaling_begins_beyond_the_context_and_ends_with_the_long_text():
    rope = Rope(type="dynamic", factor=2.0)
    for tokens in (40, 16, 48, 3):
        stretch = max(1.0, 2 * tokens / 16 - 1)
        torch.testing.assert_close(theta(rope, tokens), rope_frequencies(16, ntk_base(10_000.0, 16, stretch)))
    assert torch.equal(theta(rope, 16), theta(Rope()))


@pytest.mark.parametrize("kind", ["llama3", "yarn", "yarn_paper"])
def test_short_waves_are_kept_long_ones_divided_and_the_rest_lies_between(kind):
    rope = Rope(type=kind, factor=8.0, original_context=512)
    ratio, turns = theta(rope) / theta(Rope()), 512 * theta(Rope()) / (2 * math.pi)
    fast, slow = (4, 1) if kind == "llama3" else (32, 1)
    assert ratio.le(1 + 1e-12).all() and ratio.ge(1 / 8 - 1e-12).all() and ratio.diff().le(1e-12).all()
    torch.testing.assert_close(ratio[turns > 2 * fast], torch.ones_like(ratio[turns > 2 * fast]))
    torch.testing.assert_close(ratio[turns < slow / 4], torch.full_like(ratio[turns < slow / 4], 1 / 8))
    assert ((ratio > 0.13) & (ratio < 0.99)).any()


def test_only_yarn_sharpens_scores():
    assert temperature(Rope(type="yarn", factor=4.0, original_context=8)) == pytest.approx(0.1 * math.log(4) + 1)
    assert temperature(Rope(type="yarn", factor=4.0, original_context=8, attention_factor=1.5)) == 1.5
    assert temperature(Rope(type="yarn", original_context=8)) == temperature(Rope(type="linear", factor=4.0)) == 1


def test_sinusoidal_positions_have_two_layouts_and_an_even_width():
    paper, blocks = (sinusoidal(torch.arange(7), 6, layout=layout) for layout in ("interleaved", "concat"))
    torch.testing.assert_close(paper[:, [0, 2, 4, 1, 3, 5]], blocks)
    torch.testing.assert_close(paper[5, 2], torch.tensor(5 / 10_000 ** (2 / 6), dtype=torch.float64).sin())
    for width, layout in ((5, "concat"), (6, "other")):
        with pytest.raises(ValueError, match="must be"):
            sinusoidal(torch.arange(2), width, layout=layout)
