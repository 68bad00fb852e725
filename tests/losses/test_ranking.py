"""Losses of pairs and of orders against sums over all that might have happened."""

import math
from itertools import permutations

import pytest
import torch

from bloomery.losses.ranking import RANKING, all_pairs, bradley_terry, centring, ordered_pairs, plackett_luce

SCORES = torch.tensor([0.3, -1.2, 2.0, 0.9], dtype=torch.float64)


def test_bradley_terry_is_a_probability_of_either_order():
    a, b = torch.randn(2, 10, dtype=torch.float64)
    torch.testing.assert_close((-bradley_terry(a, b)).exp() + (-bradley_terry(b, a)).exp(), torch.ones(10).double())
    torch.testing.assert_close(bradley_terry(a, b, margin=1.0), bradley_terry(a - 1.0, b))


def test_a_vote_share_is_a_cross_entropy():
    a, b = torch.randn(2, 10, dtype=torch.float64)
    share = torch.rand(10, dtype=torch.float64)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(a - b - 0.3, share, reduction="none")
    torch.testing.assert_close(bradley_terry(a, b, margin=0.3, share=share), expected)
    torch.testing.assert_close(bradley_terry(a, b, share=0.5), bradley_terry(b, a, share=0.5))


def test_far_scores_neither_overflow_nor_lose_their_gradient():
    r_w = torch.tensor([-5000.0, 5000.0], requires_grad=True)
    loss = bradley_terry(r_w, torch.zeros(2))
    loss.sum().backward()
    assert loss.tolist() == [5000.0, 0.0] and r_w.grad.tolist() == [-1.0, 0.0]


def test_centring_asks_only_for_the_sum():
    assert centring(torch.tensor(3.0), torch.tensor(-3.0)) == 0 and centring(torch.tensor(1.0), torch.tensor(1.0)) == 4


def test_equal_ranks_give_no_pair():
    assert ordered_pairs((1, 2, 2)) == [(0, 1), (0, 2)]
    assert ordered_pairs((3, 1, 2)) == [(1, 0), (1, 2), (2, 0)]


def test_all_pairs_is_a_mean_over_pairs():
    ranks = (2, 3, 1, 2)
    expected = sum(float(bradley_terry(SCORES[i], SCORES[j])) for i, j in ordered_pairs(ranks)) / 5
    assert float(all_pairs(SCORES, ranks)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", RANKING)
def test_of_two_both_losses_are_bradley_terry(name):
    assert float(RANKING[name](SCORES[:2], (2, 1))) == pytest.approx(float(bradley_terry(SCORES[1], SCORES[0])))


def order(scores: torch.Tensor, best_first: tuple[int, ...]) -> float:
    """The probability of a whole order, drawn without replacement."""
    weights, total = scores.exp().tolist(), 1.0
    for place, answer in enumerate(best_first):
        total *= weights[answer] / sum(weights[other] for other in best_first[place:])
    return total


@pytest.mark.parametrize("ranks", [(1, 2, 3, 4), (4, 1, 3, 2), (1, 1, 2, 3), (2, 1, 2, 2), (1, 2, 2, 3), (1, 1, 1, 2)])
def test_plackett_luce_sums_the_orders_that_ties_leave_open(ranks):
    def fits(best_first):
        return all(ranks[a] <= ranks[b] for a, b in zip(best_first, best_first[1:], strict=False))

    probability = sum(order(SCORES, best_first) for best_first in permutations(range(4)) if fits(best_first))
    assert float(plackett_luce(SCORES, ranks)) == pytest.approx(-math.log(probability), abs=1e-12)


def test_probabilities_of_all_orders_sum_to_one():
    total = sum(math.exp(-float(plackett_luce(SCORES, ranks))) for ranks in permutations((1, 2, 3, 4)))
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("loss", RANKING.values())
def test_gradients_are_finite_differences(loss):
    scores = SCORES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, (2, 3, 1, 2)), (scores,))


@pytest.mark.parametrize("loss", RANKING.values())
@pytest.mark.parametrize(("ranks", "words"), [((1, 1, 1, 1), "order nothing"), ((1, 2, 3), "of 3 ranked answers")])
def test_ranks_that_say_nothing_or_do_not_fit_are_refused(loss, ranks, words):
    with pytest.raises(ValueError, match=words):
        loss(SCORES, ranks)


def test_too_many_tied_at_the_top_are_refused():
    with pytest.raises(ValueError, match="8 answers are tied"):
        plackett_luce(torch.zeros(9), (1,) * 8 + (2,))
    assert float(plackett_luce(torch.zeros(9), (1,) + (2,) * 8)) == pytest.approx(math.log(9))
