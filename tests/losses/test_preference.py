"""DPO and Bradley-Terry against their formulas."""

import math

import pytest
import torch

from bloomery.losses.preference import PAIRWISE, bradley_terry, dpo


def test_dpo_starts_at_ln_2_whatever_beta_and_smoothing():
    h = torch.tensor([-3.0, 0.0, 5.0])
    for beta, smoothing in ((0.1, 0.0), (2.0, 0.3)):
        torch.testing.assert_close(dpo(h, h, beta=beta, smoothing=smoothing), torch.full((3,), math.log(2)))


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_gradient_is_the_paper_s(beta, smoothing):
    """d/dh_w = -beta [(1 - eps) sigma(-beta d) - eps sigma(beta d)], and its negative for h_l; d = h_w - h_l."""
    h_w, h_l = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([1.0, -2.0, 0.3], [0.5, 4.0, 0.3]))
    dpo(h_w, h_l, beta=beta, smoothing=smoothing).sum().backward()
    z = beta * (h_w - h_l).detach()
    expected = -beta * ((1 - smoothing) * torch.sigmoid(-z) - smoothing * torch.sigmoid(z))
    torch.testing.assert_close(h_w.grad, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(h_l.grad, -expected, atol=1e-12, rtol=0)


def test_far_margins_neither_overflow_nor_lose_their_gradient():
    h = torch.tensor([-5000.0, 5000.0], requires_grad=True)
    loss = dpo(h, torch.zeros(2), beta=1.0)
    loss.sum().backward()
    assert loss.tolist() == [5000.0, 0.0] and h.grad.tolist() == [-1.0, 0.0]


def test_smoothing_prefers_a_finite_margin():
    """The smoothed loss is least where sigma(beta d) = 1 - eps."""
    d = torch.linspace(0, 5, 501, dtype=torch.float64)
    best = d[dpo(d, torch.zeros_like(d), beta=1.0, smoothing=0.1).argmin()]
    assert float(best) == pytest.approx(math.log(0.9 / 0.1), abs=0.01)


@pytest.mark.parametrize(("beta", "smoothing"), [(0.0, 0.0), (-1.0, 0.0), (0.1, 0.5), (0.1, -0.1)])
def test_settings_without_meaning_are_refused(beta, smoothing):
    with pytest.raises(ValueError, match="beta > 0 and 0 <= smoothing < 0.5"):
        PAIRWISE["dpo"](torch.zeros(1), torch.zeros(1), beta=beta, smoothing=smoothing)


def test_bradley_terry_is_a_probability_of_either_order():
    a, b = torch.randn(2, 10, dtype=torch.float64)
    torch.testing.assert_close((-bradley_terry(a, b)).exp() + (-bradley_terry(b, a)).exp(), torch.ones(10).double())
    torch.testing.assert_close(bradley_terry(a, b, margin=1.0), bradley_terry(a - 1.0, b))
