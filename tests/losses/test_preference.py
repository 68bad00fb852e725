"""Preference losses against their formulas, by numbers and by what they must do."""

import math

import pytest
import torch

from bloomery.losses.preference import (
    DIVERGENCES,
    PAIRWISE,
    UNPAIRED,
    apo_down,
    apo_zero,
    baseline,
    dpo,
    exo,
    hinge,
    ipo,
    kto,
    log_odds,
    nca,
    orpo,
    robust,
    simpo,
    sppo,
)

W, L = torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64), torch.tensor([0.5, 4.0, 0.3], dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# What each loss is of log-ratios w and r, in the plain arithmetic of its paper; means of log-probabilities below zero
# for orpo.
BY_HAND = {
    "dpo": lambda w, r: -math.log(sigmoid(0.1 * (w - r))),
    "robust": lambda w, r: (-0.9 * math.log(sigmoid(0.1 * (w - r))) + 0.1 * math.log(sigmoid(0.1 * (r - w)))) / 0.8,
    "hinge": lambda w, r: max(0, 1 - 0.1 * (w - r)),
    "ipo": lambda w, r: (w - r - 5) ** 2,
    "simpo": lambda w, r: -math.log(sigmoid(2 * (w - r) - 1)),
    "orpo": lambda w, r: -0.1 * math.log(sigmoid(math.log(math.exp(w) / (1 - math.exp(w)))
                                                 - math.log(math.exp(r) / (1 - math.exp(r))))),
    "exo": lambda w, r: sum(q * math.log(q / p) for q, p in ((sigmoid(0.1 * (w - r)), 0.999),
                                                             (sigmoid(0.1 * (r - w)), 0.001))),
    "nca": lambda w, r: -math.log(sigmoid(0.1 * w)) - 0.5 * math.log(sigmoid(-0.1 * w))
    - 0.5 * math.log(sigmoid(-0.1 * r)),
    "apo_zero": lambda w, r: 1 - sigmoid(0.1 * w) + sigmoid(0.1 * r),
    "apo_down": lambda w, r: sigmoid(0.1 * w) + 1 - sigmoid(0.1 * (w - r)),
    "sppo": lambda w, r: (w - 500) ** 2 + (r + 500) ** 2,
}


@pytest.mark.parametrize("function", [dpo, robust, hinge, ipo, simpo, orpo, exo, nca, apo_zero, apo_down, sppo])
def test_each_loss_is_its_paper_s_with_its_paper_s_defaults(function):
    w, r = (W - 5, L - 5) if function is orpo else (W, L)
    expected = [BY_HAND[function.__name__](float(a), float(b)) for a, b in zip(w, r, strict=True)]
    assert function(w, r).tolist() == pytest.approx(expected, rel=1e-12)


def test_every_entry_of_the_table_is_tested_by_hand():
    assert {function.__name__ for function in PAIRWISE.values()} == BY_HAND.keys()
    assert list(UNPAIRED.values()) == [kto]


@pytest.mark.parametrize("name", PAIRWISE)
def test_every_loss_is_finite_far_out_and_wants_the_chosen_likelier_than_the_rejected(name):
    far = torch.tensor([-2000.0, -50.0, -1e-9] if name == "orpo" else [-2000.0, 0.0, 2000.0])
    w, r = far.clone().requires_grad_(), far.flip(0).clone().requires_grad_()
    loss = PAIRWISE[name](w, r)
    loss.sum().backward()
    assert all(bool(x.isfinite().all()) for x in (loss, w.grad, r.grad))
    assert float(w.grad[1] - r.grad[1]) < 0


@pytest.mark.parametrize("function", [dpo, robust, hinge, simpo])
def test_a_margin_is_asked_for_beyond_what_there_is(function):
    """A reward that is higher by the margin is as good as an equal one without it."""
    none = {"margin": 0.0}
    shifted = function(W + 0.7 / 0.1, L, beta=0.1, margin=0.7)
    torch.testing.assert_close(shifted, function(W, L, beta=0.1, **none), atol=1e-12, rtol=0)
    torch.testing.assert_close(function(W, L, beta=0.1, margin=torch.tensor([0.0, 0.5, 0.0]).double())[[0, 2]],
                               function(W, L, beta=0.1, **none)[[0, 2]])


def test_the_mean_of_robust_dpo_over_flipped_labels_is_dpo_of_right_ones():
    mean = 0.8 * robust(W, L, smoothing=0.2) + 0.2 * robust(L, W, smoothing=0.2)
    torch.testing.assert_close(mean, dpo(W, L), atol=1e-12, rtol=0)


def test_odds_of_what_is_almost_sure_stay_finite_and_small_ones_are_exact():
    tiny = torch.tensor([0.0, -1e-9, -1e-6, -40.0], dtype=torch.float64)
    assert log_odds(tiny)[0] == log_odds(tiny)[1] == log_odds(tiny)[2] == pytest.approx(math.log(1e6), rel=1e-6)
    assert float(log_odds(tiny)[3]) == pytest.approx(-40, abs=1e-12)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_leaves_small_ratios_as_they_are(name):
    """f'(t) has slope 1 or 1/2 in log t at t = 1, and never falls."""
    h = torch.linspace(-3, 3, 61, dtype=torch.float64, requires_grad=True)
    slope, = torch.autograd.grad(DIVERGENCES[name](h).sum(), h)
    assert float(DIVERGENCES[name](torch.zeros(1, dtype=torch.float64))) == pytest.approx(0, abs=1e-12)
    assert float(slope[30]) == pytest.approx(0.5 if name == "js" else 1.0, rel=1e-12) and bool((slope > 0).all())


# --- rated answers ------------------------------------------------------------------------------------------------

def test_kto_is_its_formula_and_pulls_wanted_answers_up_and_others_down():
    h = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    desirable = torch.tensor([True, True, False])
    loss = kto(h, desirable, 0.4, beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
    expected = [2 * (1 - sigmoid(0.5 * 0.6)), 2 * (1 - sigmoid(0.5 * -2.4)), 3 * (1 - sigmoid(0.5 * -2.6))]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)
    loss.sum().backward()
    assert [value < 0 for value in h.grad.tolist()] == [True, True, False]


def test_the_baseline_is_a_mean_that_is_never_negative_and_has_no_gradient():
    h = torch.tensor([2.0, -1.0], requires_grad=True)
    assert baseline(h).item() == 0.5 and not baseline(h).requires_grad and baseline(-h).item() == 0.0


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


def test_exo_needs_labels_that_may_be_wrong():
    with pytest.raises(ValueError, match="smoothing above 0"):
        exo(W, L, smoothing=0.0)
