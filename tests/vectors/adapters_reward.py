"""Vectors about reward models: the losses of pairs and of rankings, and how far their confidence can be trusted."""

from dataclasses import astuple
from pathlib import Path

import torch
from torch import Tensor

from bloomery.align.calibration import accuracy, brier, ece, nll, reliability
from bloomery.losses.ranking import all_pairs, bradley_terry, centring
from tests.vectors.not_built import NotBuilt


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rm_bradley_terry_loss(inputs: dict, folder: Path) -> dict:
    """TRL's: margin and centring may be left out; ties are wrong."""
    r_w, r_l = double(inputs["rewards_chosen"]), double(inputs["rewards_rejected"])
    margin, centre = inputs.get("margin"), inputs.get("center_rewards_coefficient")
    losses = bradley_terry(r_w, r_l, margin=0.0 if margin is None else double(margin),
                           share=double(inputs["labels"]) if "labels" in inputs else 1.0)
    both = torch.cat([r_w, r_l])
    return {"loss": (losses + (centre or 0.0) * centring(r_w, r_l)).mean(), "accuracy": accuracy(r_w - r_l),
            "margin": (r_w - r_l).mean(), "min_reward": both.min(), "mean_reward": both.mean(),
            "max_reward": both.max()}


def ranks_of(best_to_worst: list[int | list[int]]) -> list[int]:
    """The rank of every answer from their numbers, best first; answers in a list of their own are tied."""
    levels = [level if isinstance(level, list) else [level] for level in best_to_worst]
    ranks = {answer: place for place, level in enumerate(levels, 1) for answer in level}
    return [ranks[answer] for answer in range(len(ranks))]


def rm_kwise_ranking_loss(inputs: dict, folder: Path) -> dict:
    ranks = [ranks_of(order) for order in inputs["rankings_best_to_worst"]]
    losses = torch.stack([all_pairs(double(scores), own)
                          for scores, own in zip(inputs["rewards"], ranks, strict=True)])
    size = len(ranks[0])
    return {"loss_per_prompt": losses, "loss": losses.mean(), "pairs_per_prompt": size * (size - 1) // 2}


def rm_calibration_ece(inputs: dict, folder: Path) -> dict:
    if inputs.get("bin_range", [0.5, 1.0]) != [0.5, 1.0]:
        raise NotBuilt("bins of confidence outside 0.5 to 1, where no confidence in a winner can lie")
    d, bins = double(inputs["reward_margin_chosen_minus_rejected"]), inputs.get("n_bins", 10)
    return {"ece": ece(d, bins), "brier": brier(d), "accuracy": accuracy(d), "nll": nll(d),
            "bins_lo_hi_count_conf_acc": [list(astuple(b)) for b in reliability(d, bins) if b.count]}


REWARD = {"rm_bradley_terry_loss": rm_bradley_terry_loss, "rm_kwise_ranking_loss": rm_kwise_ranking_loss,
          "rm_calibration_ece": rm_calibration_ece}
