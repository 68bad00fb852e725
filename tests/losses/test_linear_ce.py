"""The fused head: value and gradient of the definition, for any block size."""

import pytest
import torch

from bloomery.losses import linear_ce
from bloomery.losses.linear_ce import linear_cross_entropy, linear_logp
from bloomery.losses.token import token_nll

SIZES = {"one": (8 * 2**20, 64 * 2**20), "several": (16 * 37 * 4, 32 * 37 * 8), "smallest": (1, 1)}


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def blocks(request, monkeypatch):
    """Block sizes from one block for everything to the smallest there is (16 rows)."""
    monkeypatch.setattr(linear_ce, "BLOCK_BYTES", request.param[0])
    monkeypatch.setattr(linear_ce, "HELD_BYTES", request.param[1])


def problem(rows: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(rows)
    hidden, head = (torch.randn(n, 12, dtype=torch.float64, generator=generator).to(dtype) for n in (rows, 37))
    targets = torch.randint(0, 37, (rows,), generator=generator)
    weights = torch.rand(rows, generator=generator).mul(3).floor()          # 0, 1 and 2
    weights[0] = 1.5
    return hidden.requires_grad_(), head.requires_grad_(), targets, weights


@pytest.mark.parametrize("rows", [1, 16, 17, 100])
def test_cross_entropy_is_the_definition(blocks, rows):
    hidden, head, targets, weights = problem(rows)
    loss, nll = linear_cross_entropy(hidden, head, targets, weights)
    expected = token_nll(hidden @ head.T, targets)
    torch.testing.assert_close(nll, expected.detach(), atol=1e-12, rtol=0)
    torch.testing.assert_close(loss, (expected * weights).sum(), atol=1e-10, rtol=0)
    got = torch.autograd.grad(loss * 0.3, (hidden, head))
    for one, other in zip(got, torch.autograd.grad((expected * weights).sum() * 0.3, (hidden, head)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)
    assert not nll.requires_grad


@pytest.mark.parametrize("rows", [1, 16, 17, 100])
def test_log_probabilities_are_the_definition_in_any_loss(blocks, rows):
    hidden, head, targets, _ = problem(rows)
    logp = linear_logp(hidden, head, targets)
    expected = (hidden @ head.T).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(logp, expected, atol=1e-12, rtol=0)
    got = torch.autograd.grad((logp.exp() - logp**2).sum(), (hidden, head))
    for one, other in zip(got, torch.autograd.grad((expected.exp() - expected**2).sum(), (hidden, head)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


def test_a_fixed_head_or_a_fixed_trunk_gets_no_gradient():
    hidden, head, targets, weights = problem(20)
    for loss in (linear_cross_entropy(hidden, head.detach(), targets, weights)[0],
                 linear_logp(hidden, head.detach(), targets).sum()):
        loss.backward()
    assert head.grad is None and hidden.grad is not None
    hidden.grad = None
    for loss in (linear_cross_entropy(hidden.detach(), head, targets, weights)[0],
                 linear_logp(hidden.detach(), head, targets).sum()):
        loss.backward()
    assert hidden.grad is None and head.grad is not None


def test_bfloat16_is_near_fp32(blocks):
    hidden, head, targets, weights = problem(60, torch.float32)
    exact, _ = linear_cross_entropy(hidden, head, targets, weights)
    exact_grads = torch.autograd.grad(exact, (hidden, head))
    half = hidden.detach().bfloat16().requires_grad_()
    loss, nll = linear_cross_entropy(half, head, targets, weights)
    assert nll.dtype == torch.float32 and float(loss.detach()) == pytest.approx(float(exact.detach()), rel=0.02)
    for one, other in zip(torch.autograd.grad(loss, (half, head)), exact_grads, strict=True):
        assert torch.nn.functional.cosine_similarity(one.float().flatten(), other.flatten(), dim=0) > 0.999
    assert torch.autograd.grad(linear_logp(half, head, targets).sum(), head)[0].dtype == torch.float32


def test_huge_logits_stay_finite():
    hidden, head = torch.full((16, 1), 1e4), torch.tensor([[1.0], [-1.0]])
    loss, nll = linear_cross_entropy(hidden, head, torch.ones(16, dtype=torch.int64), torch.ones(16))
    assert nll.tolist() == [2e4] * 16 and float(loss) == 16 * 2e4


def test_nothing_to_train_is_an_error():
    hidden, head, targets, weights = problem(5)
    with pytest.raises(ValueError, match="no target tokens"):
        linear_cross_entropy(hidden, head, targets, weights * 0)
