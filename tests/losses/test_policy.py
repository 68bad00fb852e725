"""Clipped policy losses: what they are by hand, and where their gradient stops."""

import math

import pytest
import torch

from bloomery.losses.policy import POLICY, clip_shares, clipped, entropy, per_answer, truncated, value_loss

CLIP = {"low": 0.2, "high": 0.2}
ANSWER = torch.tensor([0, 0, 1])


def of(ratios: list[float], advantages: list[float], policy: str = "token", **clip: float):
    logp = torch.tensor(ratios, dtype=torch.float64).log().requires_grad_()
    found = POLICY[policy](logp, torch.zeros(3, dtype=torch.float64), torch.tensor(advantages).double(), ANSWER,
                           **(CLIP | clip))
    found.loss.sum().backward()
    return found.loss.tolist(), logp.grad.tolist()


def test_a_ratio_beyond_its_bound_teaches_nothing_more_but_one_that_went_wrong_does():
    loss, grad = of([1.5, 0.5, 1.1], [1.0, 1.0, -2.0])
    assert loss == pytest.approx([-1.2, -0.5, 2.2])
    assert grad == pytest.approx([0.0, -0.5, 2.2])              # 1.5 is past the clip; 0.5 of a good token comes back
    loss, grad = of([1.5, 0.5, 0.5], [-1.0, -1.0, -1.0])
    assert loss == pytest.approx([1.5, 0.8, 0.8]) and grad == pytest.approx([1.5, 0.0, 0.0])


def test_a_higher_upper_bound_lets_good_tokens_rise_further():
    assert of([1.25, 1.25, 1.25], [1.0, 1.0, 1.0], high=0.28)[1] == pytest.approx([-1.25] * 3)
    assert of([1.25, 1.25, 1.25], [1.0, 1.0, 1.0])[1] == [0.0] * 3


def test_a_sequence_has_the_mean_of_its_log_ratios_and_a_whole_answer_their_sum():
    loss, _ = of([1.1, 1.21, 0.9], [1.0, 1.0, 1.0], "sequence")
    assert loss == pytest.approx([-math.sqrt(1.331), -math.sqrt(1.331), -0.9])
    loss, grad = of([1.05, 1.1, 0.9], [1.0, 1.0, 1.0], "answer")
    assert loss == pytest.approx([-1.155, -1.155, -0.9]) and grad == pytest.approx([-2.31, -2.31, -0.9])


def test_on_what_the_policy_has_just_drawn_every_token_loss_has_the_gradient_of_reinforce():
    advantages = [0.5, -1.0, 2.0]
    plain = of([1.0, 1.0, 1.0], advantages, "reinforce")[1]
    assert plain == [-a for a in advantages] == of([1.0, 1.0, 1.0], advantages)[1]


def test_a_value_may_move_only_so_far_from_what_it_was():
    values, old, returns = torch.tensor([1.0, 0.1, 0.0]), torch.zeros(3), torch.tensor([1.0, 1.0, -1.0])
    loss, held = value_loss(values, old, returns, clip=0.2)
    assert loss.tolist() == pytest.approx([0.32, 0.405, 0.5]) and held.tolist() == [True, False, False]
    assert value_loss(values, old, returns, clip=None)[0].tolist() == pytest.approx([0.0, 0.405, 0.5])


def test_importance_is_truncated_from_above_and_carries_no_gradient():
    old = torch.tensor([0.0, 0.0], requires_grad=True)
    weights = truncated(old, torch.tensor([-3.0, 0.5]), 2.0)
    assert weights.tolist() == pytest.approx([2.0, math.exp(-0.5)]) and not weights.requires_grad


def test_entropy_is_that_of_what_is_left():
    spread = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log().requires_grad_()
    found = entropy(spread)
    assert found.tolist() == pytest.approx([math.log(2), 0.0])
    (gradient,) = torch.autograd.grad(found.sum(), spread)
    assert bool(gradient.isfinite().all())


def test_clip_shares_count_only_what_the_clip_holds():
    found = clip_shares(torch.tensor([0.5, 0.5, 1.5, 1.5]), torch.tensor([-1.0, 1.0, 1.0, -1.0]), **CLIP)
    assert found["low"].tolist() == [True, False, False, False]
    assert found["high"].tolist() == [False, False, True, False]
    assert found["region"].tolist() == [True, False, True, False]


def test_sums_and_means_go_to_the_answers_they_are_of():
    x = torch.tensor([1.0, 3.0, 5.0])
    assert per_answer(x, ANSWER).tolist() == [4.0, 5.0] and per_answer(x, ANSWER, mean=True).tolist() == [2.0, 5.0]


def test_a_clip_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="clipped to"):
        clipped(torch.zeros(1), torch.zeros(1), low=1.5, high=0.2)
