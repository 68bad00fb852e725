"""Vectors about preferences: losses of pairs and of rated answers, a policy of two actions, when to stop early."""

import math
from pathlib import Path

import torch
from torch import Tensor

from bloomery.align.kl import exact_kl, tilted
from bloomery.align.objectives import LossConfig, pair_losses, pair_metrics, rating_losses, rating_metrics
from bloomery.losses.preference import PAIRWISE, dpo, log_odds
from bloomery.train.hooks import BEST_STEP, EarlyStopping

# What a vector calls a loss: ours, and whether labels are smoothed as it says.
FAMILY = {"dpo_sigmoid": ("dpo", False), "hinge": ("hinge", False), "ipo_average_logprob": ("ipo", False),
          "robust_dpo": ("robust", True), "sigmoid_norm": ("dpo_norm", False), "apo_zero": ("apo_zero", False),
          "cdpo_label_smoothing": ("dpo", True), "ipo_summed_logprob": ("ipo_sum", False)}
TIES = {"fdpo_forward_kl": "forward_kl", "fdpo_js": "js"}


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def interleaved(x: Tensor) -> Tensor:
    """Chosen rows before rejected ones -> each chosen one before its rejected one, as a forest has them."""
    return torch.stack(x.chunk(2), 1).flatten()


def dpo_family(inputs: dict, folder: Path) -> dict:
    """Log-probabilities are summed over each completion; rows are chosen first, then rejected."""
    mask, beta, smoothing = double(inputs["completion_mask"]), inputs["beta"], inputs["label_smoothing"]
    policy, reference = ((double(inputs[f"{name}_logprobs"]) * mask).sum(-1) for name in ("policy", "ref"))
    policy.requires_grad_()
    pairs, lengths = len(mask) // 2, interleaved(mask.sum(-1))
    numbers = interleaved(policy), interleaved(reference), lengths

    def loss(**options) -> Tensor:
        config = LossConfig(beta=beta, **options)
        return pair_losses(config, *numbers, torch.zeros(pairs), torch.ones(pairs)).mean()

    found = {f"loss_{name}": loss(loss=ours, **({"smoothing": smoothing} if smooth else {}))
             for name, (ours, smooth) in FAMILY.items()}
    found |= {f"loss_{name}": loss(divergence=ours) for name, ours in TIES.items()}
    gradient = torch.autograd.grad(found["loss_dpo_sigmoid"], policy, retain_graph=True)[0][:pairs]
    sums = pair_metrics(LossConfig(beta=beta), *(x.detach() for x in numbers))
    return found | {name: value / pairs for name, value in sums.items()} | {
        "grad_wrt_policy_chosen_logp_sum_dpo": gradient}


def dpo_equal_pair(inputs: dict, folder: Path) -> dict:
    """The gradient is with respect to the logits of the policy."""
    logits = double(inputs["pi"]).log().requires_grad_()
    h = logits.log_softmax(-1) - double(inputs["pi_ref"]).log()
    loss = PAIRWISE["dpo"](h[inputs["y1"]], h[inputs["y2"]], beta=inputs["beta"])
    return {"loss": loss, "gradient": torch.autograd.grad(loss, logits)[0]}


def dpo_stability(inputs: dict, folder: Path) -> dict:
    loss = float(PAIRWISE["dpo"](torch.tensor(inputs["h"]), torch.tensor(0.0), beta=inputs["beta"]))
    return {"loss": loss, "must_be_finite": math.isfinite(loss)}


def kto(inputs: dict, folder: Path) -> dict:
    """All of the mismatched answers make one estimate."""
    config = LossConfig(loss="kto", **{name: inputs[name] for name in ("beta", "desirable_weight",
                                                                       "undesirable_weight")})
    policy, reference, policy_kl, reference_kl = (double(inputs[name]) for name in (
        "policy_logps", "ref_logps", "policy_KL_logps", "ref_KL_logps"))
    desirable = torch.tensor(inputs["desirable"])
    loss, kl = rating_losses(config, policy - reference, policy_kl - reference_kl, desirable,
                             torch.zeros_like(desirable).long())
    scale = {kind: 1 / count for kind in (True, False) if (count := int((desirable == kind).sum()))}
    told = rating_metrics(config, policy, reference, desirable, scale)
    return {"loss": loss.mean(), "kl": kl[0]} | {name: value for name, value in told.items() if "rewards" in name}


def orpo(inputs: dict, folder: Path) -> dict:
    config = LossConfig(loss="orpo", beta=inputs["lam"])
    chosen, rejected = double(inputs["avg_logprob_chosen"]), double(inputs["avg_logprob_rejected"])
    pairs = len(chosen)
    numbers = torch.stack((chosen, rejected), 1).flatten(), torch.zeros(2 * pairs), torch.ones(2 * pairs)
    losses = pair_losses(config, *numbers, torch.zeros(pairs), torch.ones(pairs))
    told = pair_metrics(config, *numbers)
    return {"log_odds": log_odds(chosen) - log_odds(rejected), "log_sigmoid_log_odds": -losses / config.beta,
            "loss": (losses + config.nll * double(inputs["nll_chosen"])).mean(),
            **{name: told[name] / pairs for name in ("rewards/chosen", "rewards/rejected", "log_odds_ratio",
                                                     "log_odds_chosen")}}


def spin_loss(inputs: dict, folder: Path) -> dict:
    policy, opponent = (torch.stack([double(inputs[f"{who}_{kind}_logps"]) for kind in ("real", "generated")], 1)
                        for who in ("policy", "opponent"))
    real, generated = (policy - opponent).unbind(1)
    losses = PAIRWISE["spin"](real, generated, beta=inputs["beta"])
    return {"losses": losses, "loss": losses.mean(), "real_rewards": inputs["beta"] * real,
            "generated_rewards": inputs["beta"] * generated}


def policy_toy(inputs: dict, folder: Path) -> dict:
    """A policy of two actions, the better of which is chosen over the other."""
    reference, reward = double(inputs["ref"]), double(inputs["rewards"])
    logits = double(inputs["policy"]).log().requires_grad_()
    logp = logits.log_softmax(-1)
    expected, h = (logp.exp() * reward).sum(), logp - reference.log()
    better, worse = int(reward.argmax()), int(reward.argmin())
    optimum = tilted(reference, reward, inputs["beta"])
    return {"expected_reward": expected, "kl_policy_ref": exact_kl(logp, reference.log()),
            "grad_logits_of_expected_reward": torch.autograd.grad(expected, logits, retain_graph=True)[0],
            "dpo_h": h[better] - h[worse], "dpo_loss": dpo(h[better], h[worse], beta=inputs["beta"]),
            f"optimal_policy_beta_{str(inputs['beta']).replace('.', '_')}": optimum}


def early_stopping(inputs: dict, folder: Path) -> dict:
    rule = EarlyStopping(metric="value", **{name: inputs[name] for name in ("patience", "min_delta", "mode")})
    best: dict = {}
    ended = None
    for index, value in enumerate(inputs["metric_values"]):
        best |= {"value": value}
        best |= rule.judged(best, index)
        if rule.enough(best):
            ended = index
            break
    return {"stop_after_index": ended, "best_index": best[BEST_STEP], "best": best["best_value"]}


PREFERENCE = {"dpo_family": dpo_family, "dpo_equal_pair": dpo_equal_pair, "dpo_stability": dpo_stability, "kto": kto,
              "orpo": orpo, "policy_toy": policy_toy, "spin_loss": spin_loss, "early_stopping": early_stopping}
