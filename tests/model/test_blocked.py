"""Blocked causal attention is the definition, forward and backward, and attention's own edges."""

import pytest
import torch

from bloomery.model.blocked import BLOCK, LONGEST, Sees, blocked_causal, blocks
from bloomery.model.dot_product import Scoring, attention
from bloomery.model.padded import padded_attention


@pytest.mark.parametrize("tokens", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_blocks_equal_the_definition_with_gradients(tokens, kv_heads):
    generator = torch.Generator().manual_seed(tokens + kv_heads)
    shapes = [(2, 4, tokens, 8), (2, kv_heads, tokens, 8), (2, kv_heads, tokens, 8)]
    qkv = [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]
    weights = torch.randn(shapes[0], dtype=torch.float64, generator=generator)
    causal = torch.ones(tokens, tokens).tril().bool()
    got, expected = blocked_causal(*qkv), attention(*qkv, causal)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    for one, other in zip(torch.autograd.grad((got * weights).sum(), qkv),
                          torch.autograd.grad((expected * weights).sum(), qkv), strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


@pytest.mark.parametrize("window", [1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3, 10_000])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_windows_and_soft_caps_equal_the_definition_with_gradients(window, softcap):
    generator, tokens = torch.Generator().manual_seed(window), 3 * BLOCK + 7
    qkv = [torch.randn(1, heads, tokens, 4, dtype=torch.float64, generator=generator).requires_grad_()
           for heads in (4, 2, 2)]
    scoring, ones = Scoring(scale=0.9, window=window, softcap=softcap), torch.ones(tokens, tokens).bool()
    got, expected = blocked_causal(*qkv, scoring), attention(*qkv, ones.tril() & ones.triu(1 - window), scoring)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    for one, other in zip(torch.autograd.grad(got.square().sum(), qkv),
                          torch.autograd.grad(expected.square().sum(), qkv), strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


def test_blocks_outside_the_window_are_never_computed():
    q, k = torch.empty(1, 1, 1, 10 * BLOCK, 2), torch.empty(1, 1, 10 * BLOCK, 2)
    assert sum(b.keys.stop - b.keys.start for b in blocks(q, k, Sees(window=BLOCK))) < 20 * BLOCK
    assert sum(b.keys.stop - b.keys.start for b in blocks(q, k, Sees())) == 55 * BLOCK


def test_rows_and_blocks_cover_every_query_once():
    q, k = torch.empty(70, 2, 3, 200, 2), torch.empty(70, 2, 200, 2)
    count = torch.zeros(70, 200)
    made = list(blocks(q, k, Sees()))
    for block in made:
        count[block.rows, block.queries] += 1
    assert count.eq(1).all() and len(made) > 2


def test_inputs_need_not_be_contiguous():
    q, k, v = (torch.randn(70, 4, 8, dtype=torch.float64).transpose(0, 1)[None] for _ in range(3))
    causal = torch.ones(70, 70).tril().bool()
    torch.testing.assert_close(blocked_causal(q, k, v), attention(q, k, v, causal), atol=1e-12, rtol=0)


def test_bfloat16_is_near_fp32():
    q, k, v = (torch.randn(1, 2, 200, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
    half = blocked_causal(*(x.bfloat16() for x in (q, k, v))).float()
    assert (half - blocked_causal(q, k, v)).abs().max() < 0.05


def test_beyond_the_longest_row_another_kernel_says_the_same():
    q, k, v = (torch.randn(1, 1, LONGEST + 1, 4, generator=torch.Generator().manual_seed(i)) for i in range(3))
    torch.testing.assert_close(padded_attention(q, k, v), blocked_causal(q, k, v), atol=1e-5, rtol=0)


def test_a_query_that_sees_nothing_returns_zeros():
    q, k, v = (torch.randn(1, 2, 3, 4) for _ in range(3))
    mask = torch.tensor([[False, False, False], [True, False, False], [True, True, True]])
    out = attention(q, k, v, mask)
    assert out[0, :, 0].eq(0).all() and out.isfinite().all()
    torch.testing.assert_close(out[0, :, 1], v[0, :, 0])


def test_query_heads_read_neighbouring_key_heads():
    """Head h reads key head h // (H / K): repeated in place, not tiled."""
    q, v = torch.zeros(1, 4, 1, 2), torch.tensor([[[[1.0, 1.0]], [[2.0, 2.0]]]])
    assert attention(q, torch.zeros(1, 2, 1, 2), v, None)[0, :, 0, 0].tolist() == [1, 1, 2, 2]


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"query heads \(3\).*key heads \(2\)"):
        attention(torch.zeros(1, 3, 1, 2), torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2), None)
