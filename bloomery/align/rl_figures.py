"""What is told of a step of reinforcement learning, under TRL's names: GRPO's always, PPO's where there is a critic."""

import math
from collections.abc import Sequence
from statistics import fmean, pvariance

import torch
from torch import Tensor

from bloomery.align.experience import Experience
from bloomery.align.hacking import repetition
from bloomery.align.kl import k1, k3, over_answers
from bloomery.align.rewards import Told
from bloomery.align.rollout import Group
from bloomery.losses.advantage import deviation, without_spread
from bloomery.train.objective import Metrics
from bloomery.train.state import Report


def table(told: Told) -> Tensor:
    """Rewards (P, G), NaN where nobody could say."""
    return torch.tensor([[math.nan if value is None else value for value in row] for row in told.total])


def of_rollout(groups: Sequence[Group], told: Told) -> Metrics:
    """What was said and what it earned."""
    every, earned = [one for group in groups for one in group.trajectories], table(told)
    lengths = [one.spoken for one in every]
    ended = [one.spoken for one in every if one.finished]
    found = {"reward": float(earned.nanmean()), "reward_std": float(deviation(earned.reshape(1, -1))[0]),
             "completions/mean_length": fmean(lengths), "completions/min_length": float(min(lengths)),
             "completions/max_length": float(max(lengths)), "completions/clipped_ratio": 1 - len(ended) / len(every),
             "completions/repetition": fmean(repetition(one.ids) for one in every)}
    if ended:
        found |= {f"completions/{name}_terminated_length": float(value) for name, value in
                  (("mean", fmean(ended)), ("min", min(ended)), ("max", max(ended)))}
    if earned.shape[1] > 1:
        found["frac_reward_zero_std"] = float(without_spread(earned).double().mean())
    return found | told.figures()


def of_credit(found: Experience, told: Told, *, beta: float, reference: bool, critic: bool) -> Metrics:
    """What the policy was when it acted: its entropy, its distance from the reference, what its critic expected.

    The entropy is the mean of -log p of what was drawn: an estimate without bias, which costs nothing.
    """
    answers = len(found.kept)
    owner = torch.arange(answers).repeat_interleave(found.lengths)
    scores = float(table(told).nanmean())
    figures = {"entropy": -float(found.old.mean()),
               "sampling/logp_difference_max": float((found.old - found.behaviour).abs().max())}
    if reference:
        kl = over_answers(k1(found.old, found.reference), owner, answers)
        figures |= {"objective/kl": kl.mean, "kl": float(k3(found.old, found.reference).mean()),
                    "objective/kl_coef": beta, "objective/non_score_reward": -beta * kl.mean,
                    "objective/rlhf_reward": scores - beta * kl.mean}
    if critic:
        ended = sum(one.finished for group in found.groups for one in group.trajectories)
        spread = float(found.returns.var()) if len(found.returns) > 1 else 0.0
        missed = float((found.returns - found.values).var()) if spread else 0.0
        figures |= {"objective/scores": scores, "objective/entropy": -float(found.old.sum()) / answers,
                    "val/num_eos_tokens": float(ended),
                    "val/explained_variance": 1 - missed / spread if spread else 0.0}
    return figures


def of_learning(reports: Sequence[Report], *, critic: bool) -> Metrics:
    """Means over a step's updates; of clip shares also the least and the most.

    How far sampler and trainer are apart is that of the first: later the policy has moved.
    """
    if not reports:
        return {"updates": 0.0}
    names = dict.fromkeys(name for report in reports for name in report.metrics)
    means = {name: fmean(report.metrics[name] for report in reports if name in report.metrics) for name in names}
    clip = {name: [report.metrics[f"clip/{name}"] for report in reports] for name in ("low", "high", "region")}
    found = {"loss": means["loss"], "grad_norm": fmean(report.grad_norm for report in reports),
             "learning_rate": reports[-1].learning_rate, "updates": float(len(reports)),
             "sampling/logp_difference": reports[0].metrics["sampling/logp_difference"],
             "clip_ratio/low_mean": means["clip/low"], "clip_ratio/low_min": min(clip["low"]),
             "clip_ratio/high_mean": means["clip/high"], "clip_ratio/high_max": max(clip["high"]),
             "clip_ratio/region_mean": means["clip/region"], "policy/approxkl_avg": means["policy/approxkl_avg"]}
    found |= {name: means[name] for name in ("loss/ptx", "policy/entropy_avg") if name in means}
    if critic:
        found |= {"lr": reports[-1].learning_rate, "policy/clipfrac_avg": means["clip/region"],
                  "val/ratio_var": pvariance([report.metrics["val/ratio"] for report in reports]),
                  **{name: means[name] for name in ("loss/policy_avg", "loss/value_avg", "val/clipfrac_avg",
                                                    "val/ratio")}}
    return found
