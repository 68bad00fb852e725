"""Token losses and what is reported of them."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from bloomery.losses.token import IGNORE, bits_per_byte, perplexity, shifted, smoothed, soft_nll, token_nll


def test_nll_is_cross_entropy_and_never_narrower_than_fp32():
    logits, targets = torch.randn(6, 9, dtype=torch.float64), torch.tensor([0, 8, 3, 3, 1, 5])
    torch.testing.assert_close(token_nll(logits, targets), cross_entropy(logits, targets, reduction="none"))
    assert token_nll(logits.bfloat16(), targets).dtype == torch.float32


def test_the_label_of_a_position_is_the_next_token():
    assert shifted(torch.tensor([[1, 2, 3], [4, IGNORE, 6]])).tolist() == [[2, 3, IGNORE], [IGNORE, 6, IGNORE]]


def test_smoothed_targets_by_hand_and_their_loss():
    targets, logits = torch.tensor([1, 3]), torch.randn(2, 4, dtype=torch.float64)
    q = smoothed(targets, 4, 0.2)
    torch.testing.assert_close(q[0], torch.tensor([0.05, 0.85, 0.05, 0.05], dtype=torch.float64))
    expected = cross_entropy(logits, targets, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(soft_nll(logits, q), expected)
    with pytest.raises(ValueError, match="label smoothing"):
        smoothed(targets, 4, 1.2)


def test_perplexity_and_bits():
    assert perplexity(3 * math.log(8), 3) == pytest.approx(8)
    assert bits_per_byte(10 * math.log(2), 5) == pytest.approx(2)
    for empty in (lambda: perplexity(1.0, 0), lambda: bits_per_byte(1.0, 0)):
        with pytest.raises(ValueError, match="nothing to average over"):
            empty()
