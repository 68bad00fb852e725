"""The contrastive loss against its sum written out, and what counts as no negative."""

import math

import pytest
import torch

from bloomery.losses.contrastive import in_batch

COSINES = torch.tensor([[0.8, 0.1, 0.3], [0.2, 0.5, -0.4]])
RIGHT = torch.tensor([0, 1])


def test_a_query_is_to_find_its_passage_among_all():
    expected = [-math.log(math.exp(row[right] / 0.5) / sum(math.exp(value / 0.5) for value in row))
                for row, right in zip(COSINES.tolist(), RIGHT.tolist(), strict=True)]
    assert in_batch(COSINES, RIGHT, temperature=0.5).tolist() == pytest.approx(expected)


def test_what_is_right_too_is_no_negative():
    known = torch.tensor([[True, False, True], [False, True, False]])
    loss = in_batch(COSINES, RIGHT, temperature=1.0, known=known)
    assert float(loss[0]) == pytest.approx(math.log(1 + math.exp(0.1 - 0.8)))
    assert float(loss[1]) == pytest.approx(float(in_batch(COSINES, RIGHT, temperature=1.0)[1]))
    all_right = in_batch(COSINES, RIGHT, known=torch.ones(2, 3, dtype=torch.bool))
    assert all_right.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_a_temperature_must_be_above_zero():
    with pytest.raises(ValueError, match="temperature"):
        in_batch(COSINES, RIGHT, temperature=0.0)
