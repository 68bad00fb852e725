"""The fused head: value and gradient of the definition, for any block size."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from bloomery.losses import linear_ce
from bloomery.losses.linear_ce import linear_cross_entropy, linear_logp
from bloomery.losses.token import token_nll

SIZES = {"one block": ((2**23, 2**28, 0), 256), "all gradients held": ((1, 2**28, 0), 8),
         "slices": ((8 * 37 * 4, 1, 12_800), 8), "smallest": ((1, 1, 1), 4)}
TERMS = {"smoothing": {"label_smoothing": 0.1}, "z-loss": {"z_loss": 0.01}, "softcap": {"softcap": 2.0},
         "all": {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 2.0}}


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def blocks(request, monkeypatch):
    """From one block for everything to the smallest blocks and slices there are."""
    limits, least = request.param
    monkeypatch.setitem(linear_ce.LIMITS, "cpu", linear_ce.Limits(*limits))
    monkeypatch.setattr(linear_ce, "LEAST", least)


def definition(hidden, head, targets, weights, label_smoothing=0.0, z_loss=0.0, softcap=None):
    """The loss as it is written in textbooks, every logit at once."""
    logits = hidden @ head.T
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    loss = cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
    return ((loss + z_loss * logits.logsumexp(-1) ** 2) * weights).sum(), token_nll(logits, targets)


def problem(rows: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(rows)
    hidden, head = (torch.randn(n, 12, dtype=torch.float64, generator=generator).to(dtype) for n in (rows, 37))
    targets = torch.randint(0, 37, (rows,), generator=generator)
    weights = torch.rand(rows, generator=generator).mul(3).floor()          # 0, 1 and 2
    weights[0] = 1.5
    return hidden.requires_grad_(), head.requires_grad_(), targets, weights


def assert_gradients_equal(got, expected, inputs, atol=1e-10):
    for one, other in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=0)


@pytest.mark.parametrize("rows", [1, 16, 17, 100])
def test_cross_entropy_is_the_definition(blocks, rows):
    hidden, head, targets, weights = problem(rows)
    loss, figures = linear_cross_entropy(hidden, head, targets, weights)
    expected, nll = definition(hidden, head, targets, weights)
    torch.testing.assert_close(figures.nll, nll.detach(), atol=1e-12, rtol=0)
    torch.testing.assert_close(loss, expected, atol=1e-10, rtol=0)
    assert_gradients_equal(loss * 0.3, expected * 0.3, (hidden, head))
    assert not figures.nll.requires_grad
    assert figures.correct.tolist() == ((hidden @ head.T).argmax(-1) == targets).tolist()


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_further_terms_are_the_definition(blocks, terms):
    hidden, head, targets, weights = problem(50)
    loss, figures = linear_cross_entropy(hidden, head, targets, weights, **terms)
    expected, nll = definition(hidden, head, targets, weights, **terms)
    torch.testing.assert_close(loss, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(figures.nll, nll.detach(), atol=1e-12, rtol=0)       # without smoothing and z-loss
    assert_gradients_equal(loss, expected, (hidden, head))


@pytest.mark.parametrize("cap", [None, 2.0])
def test_entropy_is_told_where_it_is_asked_for_and_changes_nothing_else(blocks, cap):
    hidden, head, targets, weights = problem(50)
    loss, figures = linear_cross_entropy(hidden, head, targets, weights, softcap=cap, entropy=True)
    logits = (hidden @ head.T).detach()
    capped = logits if cap is None else cap * (logits / cap).tanh()
    torch.testing.assert_close(figures.entropy, torch.distributions.Categorical(logits=capped).entropy(), rtol=0,
                               atol=1e-10)
    plain, silent = linear_cross_entropy(hidden, head, targets, weights, softcap=cap)
    assert float(plain.detach()) == float(loss.detach()) and not silent.entropy.any()
    for one, other in zip(*(torch.autograd.grad(x, (hidden, head)) for x in (plain, loss)), strict=True):
        assert torch.equal(one, other)


def test_capped_log_probabilities_are_the_definition(blocks):
    hidden, head, targets, weights = problem(50)
    got = linear_logp(hidden, head, targets, softcap=2.0)
    expected = -definition(hidden, head, targets, weights, softcap=2.0)[1]
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    assert_gradients_equal((got.exp() * weights).sum(), (expected.exp() * weights).sum(), (hidden, head))


def test_gradients_are_those_of_finite_differences(blocks):
    hidden, head, targets, weights = problem(9)
    terms = TERMS["all"]
    assert torch.autograd.gradcheck(lambda *x: linear_cross_entropy(*x, targets, weights, **terms)[0], (hidden, head),
                                    fast_mode=True)
    assert torch.autograd.gradcheck(lambda *x: linear_logp(*x, targets), (hidden, head), fast_mode=True)


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
    loss, figures = linear_cross_entropy(half, head, targets, weights)
    assert figures.nll.dtype == torch.float32 and float(loss.detach()) == pytest.approx(float(exact.detach()), rel=0.02)
    for one, other in zip(torch.autograd.grad(loss, (half, head)), exact_grads, strict=True):
        assert torch.nn.functional.cosine_similarity(one.float().flatten(), other.flatten(), dim=0) > 0.999
    assert torch.autograd.grad(linear_logp(half, head, targets).sum(), head)[0].dtype == torch.float32


def test_huge_logits_stay_finite():
    hidden, head = torch.full((16, 1), 1e4), torch.tensor([[1.0], [-1.0]])
    loss, figures = linear_cross_entropy(hidden, head, torch.ones(16, dtype=torch.int64), torch.ones(16))
    assert figures.nll.tolist() == [2e4] * 16 and float(loss) == 16 * 2e4


def test_low_precision_gradients_are_rounded_once(monkeypatch):
    """Many rows in small blocks: the weight's gradient is the product over all rows, to the last bit."""
    hidden, head, targets, weights = problem(640, torch.float32)
    half, shadow = hidden.detach().bfloat16().requires_grad_(), head.detach().bfloat16()
    monkeypatch.setattr(linear_ce, "LEAST", 8)
    found = {}
    for held in (2**28, 1):
        monkeypatch.setitem(linear_ce.LIMITS, "cpu", linear_ce.Limits(block=15 * 37 * 4, held=held, slice=1))
        found[held] = torch.autograd.grad(linear_cross_entropy(half, head, targets, weights)[0], (half, head))
    wanted = ((half @ shadow.T).float().softmax(-1) - torch.nn.functional.one_hot(targets, 37)) * weights[:, None]
    d_head = wanted.bfloat16().double().T @ half.double()
    for d_half, got in found.values():
        assert torch.equal(d_half, found[1][0])
        assert (got - d_head).abs().max() <= d_head.abs().max() * 2**-8
    assert got.dtype == torch.float32 and torch.equal(got, got.bfloat16().float())


def test_nothing_is_made_where_gradients_are_off(monkeypatch):
    made = []
    monkeypatch.setattr(linear_ce.FusedHead, "gradient_", lambda *_: made.append(1))
    hidden, head, targets, weights = problem(20)
    with torch.no_grad():
        loss, _ = linear_cross_entropy(hidden, head, targets, weights)
        logp = linear_logp(hidden, head, targets)
    assert not made and not loss.requires_grad and not logp.requires_grad
    torch.testing.assert_close(loss, -(logp * weights).sum())


def test_no_rows_have_no_log_probabilities():
    hidden, head, targets, _ = problem(5)
    logp = linear_logp(hidden[:0], head, targets[:0])
    logp.sum().backward()
    assert logp.shape == (0,) and not head.grad.any()


def test_the_same_numbers_every_time():
    hidden, head, targets, weights = problem(300, torch.float32)
    runs = [torch.autograd.grad(linear_cross_entropy(hidden, head, targets, weights)[0], (hidden, head)) for _ in "12"]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_a_graph_that_is_kept_gives_its_gradient_again():
    hidden, head, targets, weights = problem(20)
    loss, _ = linear_cross_entropy(hidden, head, targets, weights)
    once, again, half = (torch.autograd.grad(loss * k, (hidden, head), retain_graph=True) for k in (1, 1, 0.5))
    for one, other, part in zip(once, again, half, strict=True):
        assert torch.equal(one, other) and torch.equal(one * 0.5, part)


def test_nothing_to_train_is_an_error():
    hidden, head, targets, weights = problem(5)
    with pytest.raises(ValueError, match="no target tokens"):
        linear_cross_entropy(hidden, head, targets, weights * 0)


@pytest.mark.parametrize("terms", [{"label_smoothing": 1.5}, {"label_smoothing": -0.1}, {"z_loss": -1.0},
                                   {"softcap": 0.0}])
def test_terms_out_of_range_are_named(terms):
    hidden, head, targets, weights = problem(5)
    with pytest.raises(ValueError, match=next(iter(terms))):
        linear_cross_entropy(hidden, head, targets, weights, **terms)


def test_planned_bytes_are_those_of_the_buffers():
    mebi, low = 2**20, torch.bfloat16
    assert linear_ce.head_bytes(4096, 16_384, low, "cpu") == (128 + 16) * mebi          # all kept, a block in fp32
    assert linear_ce.head_bytes(8192, 32_768, low, "cpu") == (128 + 32 + 16) * mebi     # a slice, a block in both
    assert linear_ce.head_bytes(4096, 8192, torch.float32, "cpu") == 128 * mebi         # blocks lie in what is kept
