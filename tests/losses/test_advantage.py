"""Advantages of answers and tokens against their definitions, and denominators against the means they stand for."""

import math

import pytest
import torch

from bloomery.losses.advantage import (
    DENOMINATORS,
    batch_baseline,
    gae,
    group_relative,
    rloo,
    rows,
    token_rewards,
    whiten,
    without_spread,
)

REWARDS = torch.tensor([[1.0, 0.0, 0.5], [2.0, 2.0, 2.0]], dtype=torch.float64)
NAN = math.nan


def drawn(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_group_is_held_against_its_own_mean_and_equal_answers_teach_nothing():
    found = group_relative(REWARDS)
    assert found[0].tolist() == pytest.approx([0.5 / 0.5001, -0.5 / 0.5001, 0.0]) and found[1].tolist() == [0.0] * 3
    assert group_relative(REWARDS, scale="none")[0].tolist() == pytest.approx([0.5, -0.5, 0.0])
    spread = float(REWARDS.std())
    assert group_relative(REWARDS, scale="batch")[0].tolist() == pytest.approx([0.5 / (spread + 1e-4),
                                                                               -0.5 / (spread + 1e-4), 0.0])
    assert without_spread(REWARDS).tolist() == [False, True]


def test_leaving_one_out_is_the_mean_of_the_others():
    found = rloo(REWARDS)
    assert found[0].tolist() == pytest.approx([1 - 0.25, 0 - 0.75, 0.5 - 0.5])
    everyone = batch_baseline(REWARDS).flatten()
    flat = REWARDS.flatten()
    assert everyone.tolist() == pytest.approx([float(r - (flat.sum() - r) / 5) for r in flat])


@pytest.mark.parametrize("advantage", [group_relative, rloo, batch_baseline])
def test_a_missing_reward_has_no_advantage_and_does_not_touch_the_others(advantage):
    found = advantage(torch.tensor([[1.0, NAN, 0.0]], dtype=torch.float64))
    assert found[0, 1] == 0 and found[0, [0, 2]].tolist() == advantage(torch.tensor([[1.0, 0.0]]).double())[0].tolist()
    assert advantage(torch.tensor([[NAN, NAN, 1.0]])).tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("advantage", [group_relative, rloo])
def test_one_answer_is_no_group(advantage):
    with pytest.raises(ValueError, match="G >= 2"):
        advantage(torch.ones(4, 1))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (1.0, 0.0)])
def test_gae_is_the_discounted_sum_of_temporal_differences(gamma, lam):
    lengths = torch.tensor([4, 1, 3])
    rewards, values = drawn(8, 0), drawn(8, 1)
    advantages, returns = gae(rewards, values, lengths, gamma=gamma, lam=lam)
    wanted = []
    for r, v in zip(rewards.split(lengths.tolist()), values.split(lengths.tolist()), strict=True):
        ahead = torch.cat([v[1:], torch.zeros(1)])
        delta = r + gamma * ahead - v
        wanted += [sum((gamma * lam) ** k * delta[t + k] for k in range(len(v) - t)) for t in range(len(v))]
    assert advantages.tolist() == pytest.approx([float(x) for x in wanted])
    assert returns.tolist() == pytest.approx((advantages + values).tolist())


def test_rewards_of_tokens_add_up_to_the_score_less_the_kl_of_the_whole_answer():
    lengths, kl = torch.tensor([3, 2]), drawn(5, 2)
    found = token_rewards(kl, torch.tensor([1.0, -2.0]), lengths, beta=0.3)
    assert rows(found, lengths).sum(1).tolist() == pytest.approx((torch.tensor([1.0, -2.0]) - 0.3 * rows(
        kl, lengths).sum(1)).tolist())
    assert found[0] == -0.3 * kl[0] and found[2] == pytest.approx(float(1.0 - 0.3 * kl[2]))
    with pytest.raises(ValueError, match="beta"):
        token_rewards(kl, torch.zeros(2), lengths, beta=-1.0)


def test_whitened_numbers_have_mean_0_and_deviation_1_and_one_alone_is_left():
    white = whiten(drawn(50, 3))
    assert float(white.mean()) == pytest.approx(0, abs=1e-12) and float(white.std()) == pytest.approx(1, abs=1e-6)
    x = drawn(50, 3) + 7
    assert float(whiten(x, shift=False).mean()) == pytest.approx(float(x.mean()))
    assert whiten(torch.tensor([3.0])).tolist() == [3.0]


def test_every_denominator_is_the_mean_it_is_named_after():
    lengths, group, longest = torch.tensor([3, 1, 2, 4]), torch.tensor([0, 0, 1, 1]), 5
    loss = drawn(10, 4)
    of = torch.arange(4).repeat_interleave(lengths)
    parts = loss.split(lengths.tolist())
    means = [float(part.mean()) for part in parts]
    wanted = {"grpo": sum(means) / 4, "dapo": float(loss.mean()), "dr_grpo": float(loss.sum()) / (4 * 5),
              "bnpo": (float(loss[:4].mean()) + float(loss[4:].mean())) / 2, "sum": float(loss.sum()) / 4}
    for name, denominator in DENOMINATORS.items():
        weights, counts = denominator(lengths, group, longest)
        assert float((loss * weights[of]).sum() / counts.sum()) == pytest.approx(wanted[name]), name
        halves = [float((loss * weights[of])[of < 2].sum()), float((loss * weights[of])[of >= 2].sum())]
        assert sum(halves) / float(counts[:2].sum() + counts[2:].sum()) == pytest.approx(wanted[name]), name


def test_a_masked_answer_has_no_tokens_and_is_counted_as_the_papers_count_it():
    lengths, group = torch.tensor([3, 0]), torch.tensor([0, 0])
    counts = {name: float(denominator(lengths, group, 5)[1].sum()) for name, denominator in DENOMINATORS.items()}
    assert counts == pytest.approx({"grpo": 2, "bnpo": 1, "dapo": 3, "dr_grpo": 10, "sum": 2})
