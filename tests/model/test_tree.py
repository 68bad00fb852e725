"""Pieces of what a query sees, merged: each kernel alone, and what happens where torch's is not what it was."""

import pytest
import torch

from bloomery.model import tree
from bloomery.model.blocked import LONGEST
from bloomery.model.dot_product import PLAIN, attention
from bloomery.model.forest import Segments, dense_mask, pieces, roots
from bloomery.model.tree import BLOCKED, FLASH, TreeAttention, flash_is_right, kernel

# two prompts of different length with two answers each, one answer continued, and a sequence of its own
FOREST = Segments(roots([20, 3, 9, 5, 4, 4, 2, 31]).start, torch.tensor([-1, 0, 0, -1, 3, 3, 4, -1], dtype=torch.int32))


def qkv_of(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(FOREST.length, heads, 8, generator=generator).to(dtype).requires_grad_() for heads in (4, 2, 2)]


def with_gradients(out: torch.Tensor, qkv: list[torch.Tensor]) -> list[torch.Tensor]:
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(4)).to(out.dtype)
    return [out, *torch.autograd.grad((out * weights).sum(), qkv)]


@pytest.fixture
def untried():
    """The start-up test of the flash kernel, forgotten before and after."""
    flash_is_right.cache_clear()
    yield
    flash_is_right.cache_clear()


@pytest.mark.parametrize("how", [FLASH, BLOCKED], ids=["flash", "blocked"])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize(("dtype", "tolerance"),
                         [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.06)])
def test_both_kernels_equal_the_definition(how, window, dtype, tolerance):
    made = [(p, BLOCKED if p.sees.window else how) for p in pieces(FOREST, window, 4, 2)]
    assert any(not p.own and p.sees.hidden is not None for p, _ in made)
    qkv = qkv_of(dtype)
    heads_first = (x.double().transpose(0, 1) for x in qkv)
    expected = with_gradients(attention(*heads_first, dense_mask(FOREST, window)).transpose(0, 1), qkv)
    for got, wanted in zip(with_gradients(TreeAttention.apply(*qkv, made, PLAIN), qkv), expected, strict=True):
        torch.testing.assert_close(got.double(), wanted.double(), atol=tolerance, rtol=tolerance)


def test_short_rows_in_bfloat16_are_products_and_others_torch_s_kernel():
    short, long = (pieces(roots([n, n + 50]), None, 2, 1)[-1] for n in (100, LONGEST))
    assert kernel(short, torch.bfloat16, PLAIN) is BLOCKED
    assert kernel(short, torch.float32, PLAIN) is kernel(long, torch.bfloat16, PLAIN) is FLASH


def test_the_kernel_of_this_torch_is_right(untried, capsys):
    assert flash_is_right()
    assert capsys.readouterr().err == ""


def refuse(*_: object) -> None:
    raise RuntimeError("unknown operator")


@pytest.mark.parametrize("broken", [
    {"flash_forward": refuse},
    {"flash_backward": lambda grad, q, k, v, *_: (torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v))}],
    ids=["missing", "wrong gradients"])
def test_a_kernel_that_is_not_right_is_replaced_with_one_line_said(broken, untried, monkeypatch, capsys):
    parts = {"flash_forward": tree.flash_forward, "flash_backward": tree.flash_backward} | broken
    monkeypatch.setattr(tree, "FLASH", (parts["flash_forward"], parts["flash_backward"]))
    qkv = qkv_of(torch.float32)
    results = with_gradients(tree.tree_attention(*qkv, pieces(FOREST, None, 4, 2)), qkv)
    expected = with_gradients(attention(*(x.transpose(0, 1) for x in qkv), dense_mask(FOREST)).transpose(0, 1), qkv)
    for got, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "slower products instead" in said[0]


def test_a_prompt_is_read_once_and_far_prompts_not_at_all():
    lengths, parents = [100, *[10] * 8], [-1, *[0] * 8]
    segments = Segments(roots(lengths).start, torch.tensor(parents, dtype=torch.int32))
    over = [p for p in pieces(segments, None, 2, 1) if not p.own]
    assert [(len(p.keys.index), int(p.keys.real.sum()), int(p.queries.real.sum())) for p in over] == [(1, 100, 80)]
    near = [p for p in pieces(segments, 5, 2, 1) if not p.own]
    assert [(int(p.keys.real.sum()), int(p.queries.real.sum())) for p in near] == [(4, 32)]
    assert not [p for p in pieces(segments, 1, 2, 1) if not p.own]
