"""Vectors about reinforcement: rewards of tokens, advantages, clipped losses. Padded rows there, flat tokens here."""

from pathlib import Path

import torch
from torch import Tensor

from bloomery.align.kl import ESTIMATORS
from bloomery.losses.advantage import (
    DENOMINATORS,
    deviation,
    gae,
    group_relative,
    rloo,
    rows,
    token_rewards,
    whiten,
    without_spread,
)
from bloomery.losses.policy import POLICY, clip_shares, per_answer, value_loss


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ppo_rewards_gae(inputs: dict, folder: Path) -> dict:
    lengths = torch.tensor(inputs["response_lengths"])
    wide = len(inputs["policy_logprobs"][0])
    mask = torch.arange(wide) < lengths[:, None]
    policy, reference, values = (double(inputs[name])[mask] for name in ("policy_logprobs", "ref_logprobs", "values"))
    scores = double(inputs["scores"])
    if inputs["missing_eos_penalty"] is not None:
        scores = scores - inputs["missing_eos_penalty"] * ~torch.tensor(inputs["contains_eos"])
    kls = {name: estimate(policy, reference) for name, estimate in ESTIMATORS.items()}
    kl = kls[inputs["kl_estimator"]]
    rewards = token_rewards(kl, scores, lengths, beta=inputs["kl_coef"])
    white = whiten(rewards, shift=False) if inputs["whiten_rewards"] else rewards
    advantages, returns = gae(white, values, lengths, gamma=inputs["gamma"], lam=inputs["lam"])

    def padded(flat: Tensor) -> Tensor:
        return torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(mask, flat)

    total, penalty = rows(kl, lengths).sum(1).mean(), -inputs["kl_coef"] * rows(kl, lengths).sum(1)
    return {"mask": mask, **{f"per_token_kl_{name}": padded(found) for name, found in kls.items()},
            "scores_after_penalty": scores, "token_rewards": padded(rewards),
            "token_rewards_after_whitening": padded(white), "advantages": padded(advantages),
            "returns": padded(returns), "advantages_whitened": padded(whiten(advantages)), "objective_kl": total,
            "non_score_reward": penalty.mean(), "rlhf_reward": (penalty + scores).mean()}


def ppo_loss(inputs: dict, folder: Path) -> dict:
    mask = torch.tensor(inputs["mask"])
    logp, old, advantage, old_values, values, returns, entropy = (double(inputs[name])[mask] for name in (
        "new_logprobs", "old_logprobs", "advantages", "old_values", "new_values", "returns", "entropy"))
    answer, clip = mask.nonzero()[:, 0], inputs["cliprange"]
    policy = POLICY["token"](logp, old, advantage, answer, low=clip, high=clip)
    shares = clip_shares(policy.ratio, advantage, low=clip, high=clip)
    value, value_clipped = value_loss(values, old_values, returns, clip=inputs["cliprange_value"])
    total = policy.loss + inputs["vf_coef"] * value - inputs["entropy_coef"] * entropy
    return {"policy_loss": policy.loss.mean(), "value_loss": value.mean(), "entropy": entropy.mean(),
            "policy_clipfrac": shares["region"].double().mean(), "value_clipfrac": value_clipped.double().mean(),
            "approxkl_masked": (logp - old).square().mean() / 2, "total": total.mean()}


def grpo_advantages(inputs: dict, folder: Path) -> dict:
    rewards = double([torch.nan if one is None else one for one in inputs["rewards"]])
    grouped = rewards.view(-1, inputs["group_size"])
    return {"advantages": group_relative(grouped, scale=inputs["scale_rewards"]).flatten(),
            "reward_std": deviation(rewards[None])[0], "rloo_advantages": rloo(grouped).flatten(),
            "frac_reward_zero_std": without_spread(grouped).double().mean()}


def grpo_loss(inputs: dict, folder: Path) -> dict:
    """The whole batch is one group there: TRL's local batch."""
    mask = torch.tensor(inputs["completion_mask"]) != 0
    logp, old, reference = (double(inputs[name])[mask] for name in ("new_logprobs", "old_logprobs", "ref_logprobs"))
    answer, lengths, low, high = mask.nonzero()[:, 0], mask.sum(1), inputs["epsilon_low"], inputs["epsilon_high"]
    of_answers = double(inputs["advantages"])
    level, advantage = inputs["importance_sampling_level"], of_answers[answer]
    policy = POLICY[level](logp, old, advantage, answer, low=low, high=high)
    kl = ESTIMATORS["k3"](logp, reference) * (policy.ratio if inputs["bias_correction_kl"] else 1)
    loss = policy.loss + inputs["beta"] * kl
    found: dict = {"kl": kl.mean()}
    for name, denominator in DENOMINATORS.items():
        weights, counts = denominator(lengths, torch.zeros_like(lengths), inputs["max_completion_length"])
        found[f"loss_{name}"] = (loss * weights[answer]).sum() / counts.sum()
    for name, share in clip_shares(policy.ratio, advantage, low=low, high=high).items():
        each = share.double()
        found[f"clip_ratio/{name}_mean"] = (per_answer(each, answer, mean=True) if level == "sequence" else each).mean()
    return found


REINFORCEMENT = {"ppo_rewards_gae": ppo_rewards_gae, "ppo_loss": ppo_loss, "grpo_advantages": grpo_advantages,
                 "grpo_loss": grpo_loss}
