"""Vectors about learning: token losses, preference losses, the optimizer, its schedule and clipping."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from bloomery.align.preference import pair_metrics
from bloomery.losses.linear_ce import linear_cross_entropy
from bloomery.losses.preference import PAIRWISE, bradley_terry
from bloomery.losses.retention import add_squares, ewc, gpt1
from bloomery.losses.token import IGNORE, perplexity, shifted, smoothed, soft_nll, token_nll
from bloomery.model.blockwise import dynamic_map
from bloomery.train.hooks import BEST_STEP, EarlyStopping
from bloomery.train.optim import OptimizerConfig, adamw, clip_gradients
from bloomery.train.schedule import cosine, linear, warmup_from_zero


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def trained(inputs: dict) -> tuple[Tensor, ...]:
    """Arguments of the fused head with an identity for its weight: hidden states are then the logits."""
    logits, labels = double(inputs["logits"]), torch.tensor(inputs["labels"])
    targets = shifted(labels.masked_fill(labels == inputs["ignore_index"], IGNORE)).flatten()
    identity = torch.eye(logits.shape[-1], dtype=torch.float64)
    return logits.flatten(0, 1), identity, targets.clamp(min=0), (targets != IGNORE).double()


def causal_lm_loss(inputs: dict, folder: Path) -> dict:
    *head, weights = trained(inputs)
    total, count = linear_cross_entropy(*head, weights)[0], int(weights.sum())
    return {"loss_token_mean": total / count, "perplexity": perplexity(float(total), count), "n_tokens": count}


def label_smoothing_lm(inputs: dict, folder: Path) -> dict:
    *head, weights = trained(inputs)
    return {"loss": linear_cross_entropy(*head, weights, label_smoothing=inputs["epsilon"])[0] / weights.sum()}


def label_smoothing_targets(inputs: dict, folder: Path) -> dict:
    q = smoothed(torch.tensor(inputs["y"]), inputs["K"], inputs["epsilon"])
    return {"q": q, "loss": soft_nll(double(inputs["logits"]), q).mean()}


def perplexity_aggregate(inputs: dict, folder: Path) -> dict:
    means, tokens = inputs["mean_nll_per_document"], inputs["tokens_per_document"]
    return {"perplexity": perplexity(sum(m * n for m, n in zip(means, tokens, strict=True)), sum(tokens))}


def perplexity_example(inputs: dict, folder: Path) -> dict:
    return {"perplexity": perplexity(inputs["entropy_bits"] * math.log(2), 1)}


def adamw_vector(inputs: dict, folder: Path) -> dict:
    """The parameter is a matrix of one row, since vectors do not decay."""
    parameter = nn.Parameter(double(inputs["param"])[None])
    config = OptimizerConfig(**{name: inputs[name] for name in ("lr", "beta1", "beta2", "eps", "weight_decay")})
    optimizer, after = adamw([parameter], config), []
    for gradient in inputs["grads"]:
        parameter.grad = double(gradient)[None]
        optimizer.step()
        after.append(parameter.detach()[0].tolist())
    return {"params_after_each_step": after}


def grad_clip(inputs: dict, folder: Path) -> dict:
    parameters = [nn.Parameter(torch.zeros_like(double(g))) for g in inputs["grads"]]
    for parameter, gradient in zip(parameters, inputs["grads"], strict=True):
        parameter.grad = double(gradient)
    norm = clip_gradients(parameters, inputs["max_norm"])
    return {"total_norm_before": norm, "clipped": [p.grad for p in parameters]}


def dynamic_8bit_map(inputs: dict, folder: Path) -> dict:
    return {"values": dynamic_map(signed=inputs["signed"], exponents=inputs["max_exponent_bits"])}


def lr_schedule(inputs: dict, folder: Path) -> dict:
    def rates(decay, floor: float) -> list[float]:
        return [warmup_from_zero(step, peak=inputs["base_lr"], warmup=inputs["warmup_steps"], decay=decay, floor=floor,
                                 total=inputs["total_steps"]) for step in range(inputs["total_steps"] + 1)]

    return {"cosine_to_zero": rates(cosine, 0.0), "cosine_to_min": rates(cosine, inputs["min_lr_ratio"]),
            "linear_to_zero": rates(linear, 0.0)}


def dpo_family(inputs: dict, folder: Path) -> dict:
    """Log-probabilities are summed over each completion; rows are chosen first, then rejected."""
    mask = double(inputs["completion_mask"])
    policy, reference = ((double(inputs[f"{name}_logprobs"]) * mask).sum(-1) for name in ("policy", "ref"))
    pairs, beta, dpo = len(mask) // 2, inputs["beta"], PAIRWISE["dpo"]
    policy.requires_grad_()
    h_w, h_l = (policy - reference).split(pairs)
    loss = dpo(h_w, h_l, beta=beta).mean()
    gradient = torch.autograd.grad(loss, policy, retain_graph=True)[0][:pairs]
    logp, h = (torch.stack(x.detach().split(pairs), 1).flatten() for x in (policy, policy - reference))
    sums = pair_metrics(logp, h, beta)
    smoothed = dpo(h_w, h_l, beta=beta, smoothing=inputs["label_smoothing"]).mean()
    return {"loss_dpo_sigmoid": loss, "loss_cdpo_label_smoothing": smoothed,
            "grad_wrt_policy_chosen_logp_sum_dpo": gradient, **{name: value / pairs for name, value in sums.items()}}


def dpo_equal_pair(inputs: dict, folder: Path) -> dict:
    """The gradient is with respect to the logits of the policy."""
    logits = double(inputs["pi"]).log().requires_grad_()
    h = logits.log_softmax(-1) - double(inputs["pi_ref"]).log()
    loss = PAIRWISE["dpo"](h[inputs["y1"]], h[inputs["y2"]], beta=inputs["beta"])
    return {"loss": loss, "gradient": torch.autograd.grad(loss, logits)[0]}


def dpo_stability(inputs: dict, folder: Path) -> dict:
    loss = float(PAIRWISE["dpo"](torch.tensor(inputs["h"]), torch.tensor(0.0), beta=inputs["beta"]))
    return {"loss": loss, "must_be_finite": math.isfinite(loss)}


def bradley_terry_vector(inputs: dict, folder: Path) -> dict:
    a, b = double(inputs["z_A"]), double(inputs["z_B"])
    prefers_a, prefers_b = bradley_terry(a, b), bradley_terry(b, a)
    return {"p_A": (-prefers_a).exp(), "loss_A_preferred": prefers_a, "loss_B_preferred": prefers_b}


def ewc_vector(inputs: dict, folder: Path) -> dict:
    """The expectation over y is exact: both outcomes enter with their probability."""
    x, y, anchor, theta = (double(inputs[name]) for name in ("X", "y", "theta_star", "theta"))
    fishers = {"true": torch.zeros_like(anchor), "empirical": torch.zeros_like(anchor)}
    for row, label in zip(x, y, strict=True):
        weights = anchor.clone().requires_grad_()
        logp = torch.nn.functional.logsigmoid(torch.stack((-row @ weights, row @ weights)))
        for outcome in (0, 1):
            score = torch.autograd.grad(logp[outcome], weights, retain_graph=True)
            add_squares([fishers["true"]], score, float(logp[outcome].detach().exp()))
            add_squares([fishers["empirical"]], score, float(label == outcome))
    fishers = {kind: total / len(x) for kind, total in fishers.items()}
    return {f"fisher_diag_{kind}": fisher for kind, fisher in fishers.items()} | \
           {f"penalty_{kind}": inputs["lam"] * ewc(theta, anchor, fisher)[0] for kind, fisher in fishers.items()}


def gpt1_combined_loss(inputs: dict, folder: Path) -> dict:
    logits, labels = double(inputs["lm_logits"]), torch.tensor(inputs["lm_labels"])
    language = token_nll(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).mean()
    task = token_nll(double(inputs["class_logits"]), torch.tensor(inputs["class_labels"])).mean()
    return {"lm_loss": language, "class_loss": task, "total": gpt1(task, language, weight=inputs["lm_coef"])}


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


LEARNING = {
    "ewc": ewc_vector, "gpt1_combined_loss": gpt1_combined_loss, "early_stopping": early_stopping,
    "causal_lm_loss": causal_lm_loss, "label_smoothing_lm": label_smoothing_lm,
    "label_smoothing_targets": label_smoothing_targets, "perplexity_aggregate": perplexity_aggregate,
    "perplexity_example": perplexity_example, "adamw": adamw_vector, "grad_clip_global_norm": grad_clip,
    "lr_schedule": lr_schedule, "dynamic_8bit_map": dynamic_8bit_map, "dpo_family": dpo_family,
    "dpo_equal_pair": dpo_equal_pair, "dpo_stability": dpo_stability, "bradley_terry": bradley_terry_vector,
}
