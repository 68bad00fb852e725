"""KL estimators, controllers, the budget and the optimum: by definition, by exact sums, and at their edges."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bloomery.align.kl import (
    CLAMP,
    Budget,
    Controller,
    beta_for,
    clamped,
    exact_kl,
    k1,
    k2,
    k3,
    log_partition,
    over_answers,
    tilted,
)
from bloomery.align.overoptimization import Curve, fitted


def distribution(seed: int, size: int = 6) -> torch.Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).softmax(-1)


@given(st.integers(0, 10_000))
def test_k1_and_k3_are_unbiased_and_k2_and_k3_never_negative(seed):
    policy, reference = distribution(seed), distribution(seed + 1)
    logs = policy.log(), reference.log()
    kl = float(exact_kl(*logs))
    assert kl == pytest.approx(float((policy * (logs[0] - logs[1])).sum()))
    assert float((policy * k1(*logs)).sum()) == pytest.approx(kl, abs=1e-12)
    assert float((policy * k3(*logs)).sum()) == pytest.approx(kl, abs=1e-12)
    assert bool((k2(*logs) >= 0).all()) and bool((k3(*logs) >= 0).all())


def test_k3_is_cut_where_one_token_would_be_everything_and_that_is_counted():
    logp, reference = torch.tensor([-1.0, -90.0]), torch.tensor([-1.5, -1.0])
    assert k3(logp, reference)[1] == pytest.approx(math.expm1(CLAMP) - 89, rel=1e-6)
    assert clamped(logp, reference) == 1 and bool(k3(logp, reference).isfinite().all())


def test_what_is_never_said_costs_nothing_and_what_the_reference_never_says_costs_everything():
    half, sure = torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log()
    assert float(exact_kl(sure, half)) == pytest.approx(math.log(2))
    assert float(exact_kl(half, sure)) == math.inf
    assert float(exact_kl(sure, sure)) == 0


def test_other_shapes_and_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        k1(torch.zeros(3), torch.zeros(2))
    with pytest.raises(FloatingPointError, match="reference"):
        k3(torch.zeros(2), torch.tensor([0.0, math.nan]))


def test_the_kl_of_answers_is_the_mean_of_their_sums_with_its_error():
    found = over_answers(torch.tensor([1.0, 2.0, 5.0, -2.0]), torch.tensor([0, 0, 1, 2]), 3)
    assert (found.mean, found.count) == (2.0, 3)
    assert found.error == pytest.approx(torch.tensor([3.0, 5.0, -2.0]).std().item() / math.sqrt(3))
    assert math.isnan(over_answers(torch.ones(2), torch.zeros(2, dtype=torch.int64), 1).error)
    with pytest.raises(ValueError, match="at least one"):
        over_answers(torch.ones(0), torch.zeros(0, dtype=torch.int64), 0)


# --- control ------------------------------------------------------------------------------------------------------

def test_controllers_follow_what_is_measured():
    assert Controller("fixed")(0.2, 100.0, samples=64) == 0.2
    adaptive = Controller("adaptive", 6.0, 1000.0)
    assert adaptive(0.2, 6.0, samples=64) == 0.2
    assert adaptive(0.2, 60.0, samples=100) == pytest.approx(0.2 * 1.02) and adaptive(0.2, 0.0, samples=100) < 0.2
    dual = Controller("dual", 1.0, 10.0)
    assert dual(0.1, 3.0, samples=1) == pytest.approx(0.3) and dual(0.1, 0.0, samples=10) == 0.0


@pytest.mark.parametrize("wrong", [{"how": "other"}, {"target": 0.0}, {"horizon": -1.0}, {"target": math.nan}])
def test_a_controller_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="above 0"):
        Controller(**wrong)


def test_a_measurement_that_is_no_number_does_not_move_beta():
    with pytest.raises(FloatingPointError):
        Controller("adaptive")(0.1, math.nan, samples=1)
    with pytest.raises(ValueError, match="at least 0"):
        Controller()(-0.1, 1.0, samples=1)


def test_a_budget_ends_a_run_in_words_and_nan_is_beyond_it():
    budget = Budget(6.0)
    assert budget.exceeded(6.0) is None and "beyond its budget of 6" in budget.exceeded(6.1)
    assert budget.first([0.5, math.nan, 7.0]) == 1 and budget.first([6.0]) is None and budget.first([]) is None
    with pytest.raises(ValueError, match="above 0"):
        Budget(0.0)


# --- the optimum --------------------------------------------------------------------------------------------------

@given(st.integers(0, 10_000), st.floats(0.05, 5.0))
def test_no_policy_beats_the_tilted_one(seed, beta):
    reference, rewards = distribution(seed), distribution(seed + 1) * 4

    def value(policy: torch.Tensor) -> float:
        return float(policy @ rewards - beta * exact_kl(policy.log(), reference.log()))

    best = tilted(reference, rewards, beta)
    assert value(best) == pytest.approx(log_partition(reference, rewards, beta), abs=1e-9)
    assert all(value(best) >= value(0.9 * best + 0.1 * distribution(other)) for other in range(5))


@given(st.integers(0, 10_000), st.floats(1e-4, 0.5))
def test_the_beta_of_a_budget_spends_it(seed, budget):
    reference, rewards = distribution(seed), distribution(seed + 1) * 4
    beta = beta_for(reference, rewards, budget)
    kl = float(exact_kl(tilted(reference, rewards, beta).log(), reference.log()))
    assert kl == pytest.approx(budget, abs=1e-9) if beta else kl <= budget


def test_budgets_at_their_edges():
    reference, rewards = torch.tensor([0.5, 0.5]).double(), torch.tensor([1.0, 0.0]).double()
    assert beta_for(reference, rewards, 0.0) == math.inf
    assert beta_for(reference, rewards, 1.0) == 0.0             # the best outcome alone is only log 2 away
    assert tilted(reference, rewards, 0.0).tolist() == [1.0, 0.0]
    assert tilted(reference, rewards, math.inf).tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="sum to 1"):
        tilted(rewards, rewards * 2 + reference * 3, -1.0)


# --- over-optimisation --------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("kind", "peak"), [("bon", 2.5), ("rl", math.exp(4.0))])
def test_a_curve_peaks_where_nothing_near_is_higher_and_is_found_again_from_its_points(kind, peak):
    curve = Curve(kind, 1.0, 0.2)
    assert curve.peak == pytest.approx(peak)
    assert all(curve(peak) > curve(peak * (1 + step)) for step in (-0.1, -0.01, 0.01, 0.1))
    d = [0.0, 0.5, 1.0, 2.0]
    again = fitted(d, [curve(x) for x in d], kind)
    assert (again.alpha, again.beta) == (pytest.approx(1.0), pytest.approx(0.2))


def test_a_curve_that_never_falls_has_no_peak_and_too_few_points_no_curve():
    assert Curve("bon", 1.0, 0.0).peak == Curve("rl", 1.0, -0.1).peak == math.inf
    assert Curve("bon", -1.0, 0.5).peak == 0.0 and Curve("rl", 1.0, 0.2)(0.0) == 0.0
    with pytest.raises(ValueError, match="two distances"):
        fitted([0.0, 1.0], [0.0, 1.0], "bon")
    with pytest.raises(ValueError, match="one of bon, rl"):
        Curve("other", 1.0, 1.0)
