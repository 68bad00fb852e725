"""Filters keep what their definitions say, sampling follows the distribution, ties go to the lowest id."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bloomery.generate.sampling import Sampling, filtered, greedy, min_p, sample, top_k, top_p

WEIGHTS = st.lists(st.integers(1, 9), min_size=1, max_size=9)


def kept(logits: torch.Tensor) -> list[int]:
    return logits.isfinite().nonzero()[:, 0].tolist()


def log_of(weights: list[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor([w / sum(weights) for w in weights], dtype=dtype).log()


@given(weights=WEIGHTS, cut=st.integers(0, 80), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_top_p_keeps_the_smallest_set_with_that_mass_exactly(weights, cut, dtype):
    """p is a multiple of 1 / total, so that boundaries are hit exactly; whole numbers decide what is right."""
    total, mass, expected = sum(weights), 0, []
    wanted = 1 + cut % total
    for i in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        if mass < wanted:
            expected.append(i)
            mass += weights[i]
    assert kept(top_p(log_of(weights, dtype), wanted / total)) == sorted(expected)


def test_at_least_one_token_survives_every_filter():
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    for how in (Sampling(top_p=1e-9), Sampling(top_k=1), Sampling(min_p=1.0), Sampling(0.01, 3, 0.5, 0.9)):
        assert filtered(logits, how).isfinite().any(-1).all()
        torch.testing.assert_close(filtered(logits, how).exp().sum(-1), torch.ones(4))


@given(weights=WEIGHTS, k=st.integers(0, 12))
def test_top_k_keeps_the_largest_and_all_ties_at_the_cut(weights, k):
    logits = torch.tensor(weights, dtype=torch.float32)
    limit = sorted(weights)[-k] if 0 < k < len(weights) else min(weights)
    assert kept(top_k(logits, k)) == [i for i, w in enumerate(weights) if w >= limit]


@given(weights=WEIGHTS, p=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_min_p_is_relative_to_the_likeliest(weights, p):
    found = kept(min_p(log_of(weights, torch.float64), p))
    assert set(i for i, w in enumerate(weights) if w > p * max(weights) + 1e-9) <= set(found)
    assert not set(found) & set(i for i, w in enumerate(weights) if w < p * max(weights) - 1e-9)


def test_each_filter_sees_what_the_one_before_left():
    """0.4 0.3 0.2 0.1: after top-k 2 the first alone holds 4/7, which reaches top-p 0.5 but not 0.6."""
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert kept(filtered(logits, Sampling(top_k=2, top_p=0.5))) == [0]
    assert kept(filtered(logits, Sampling(top_p=0.5))) == [0, 1]
    assert kept(filtered(logits, Sampling(top_k=2, top_p=0.6))) == [0, 1]


def test_ties_go_to_the_lowest_id():
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    assert greedy(logits).tolist() == [1, 0] == sample(logits, Sampling(temperature=0)).tolist()
    assert kept(top_p(torch.zeros(4), 0.5)) == [0, 1]


def test_samples_follow_the_distribution_and_the_seed():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = probabilities.log().expand(20_000, -1)
    drawn = [sample(rows, Sampling(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    shares = drawn[0].bincount(minlength=4) / 20_000
    torch.testing.assert_close(shares, probabilities, atol=0.015, rtol=0)
    cold = sample(rows, Sampling(temperature=0.5), torch.Generator().manual_seed(1)).bincount(minlength=4) / 20_000
    torch.testing.assert_close(cold, probabilities**2 / (probabilities**2).sum(), atol=0.015, rtol=0)


@pytest.mark.parametrize(("option", "value"), [("temperature", -0.1), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1),
                                               ("min_p", -0.1), ("min_p", 1.5)])
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(ValueError, match=f"{option} must be .*, got {value}"):
        Sampling(**{option: value})
