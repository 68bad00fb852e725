"""What holds a model to what it knew: penalties against autograd and torch, squares before means."""

import pytest
import torch

from bloomery.losses.retention import KL, add_squares, ewc, gpt1

GENERATOR = torch.Generator().manual_seed(0)
LOGP, REFERENCE = torch.randn(2, 7, 11, generator=GENERATOR, dtype=torch.float64).log_softmax(-1)


@pytest.mark.parametrize(("direction", "p", "q"), [("forward", REFERENCE, LOGP), ("reverse", LOGP, REFERENCE)])
def test_divergences_are_torch_s(direction, p, q):
    expected = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    found = KL[direction](LOGP, REFERENCE)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert bool((found > 0).all()) and float(KL[direction](LOGP, LOGP).abs().max()) == 0


def test_the_pull_is_the_gradient_of_the_penalty():
    weights, anchor, fisher = torch.rand(3, 4, 5, generator=GENERATOR, dtype=torch.float64)
    weights.requires_grad_()
    value, pull = ewc(weights, anchor, fisher)
    assert torch.allclose(torch.autograd.grad(value, weights)[0], pull, atol=1e-14)
    assert float(value.detach()) == pytest.approx(float((fisher * (weights - anchor).detach() ** 2).sum() / 2))


def test_scores_that_cancel_still_tell_that_a_weight_matters():
    """Their mean is 0, and so is its square: the error of squaring a batch's gradient."""
    fisher = [torch.zeros(2)]
    for score in ([3.0, 0.0], [-3.0, 0.0]):
        add_squares(fisher, [torch.tensor(score)], 0.5)
    assert fisher[0].tolist() == [9.0, 0.0]


def test_the_language_model_is_the_auxiliary_term():
    assert float(gpt1(torch.tensor(2.0), torch.tensor(10.0), weight=0.25)) == 4.5
    with pytest.raises(ValueError, match="negative"):
        gpt1(torch.tensor(2.0), torch.tensor(10.0), weight=-1)
