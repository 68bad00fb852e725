"""Vectors about learning: token losses, preference losses, the optimizer, its schedule and clipping."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from bloomery.losses.linear_ce import linear_cross_entropy
from bloomery.losses.ranking import bradley_terry
from bloomery.losses.retention import add_squares, ewc, gpt1
from bloomery.losses.token import IGNORE, perplexity, shifted, smoothed, soft_nll, token_nll
from bloomery.model.blockwise import dynamic_map
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


LEARNING = {
    "ewc": ewc_vector, "gpt1_combined_loss": gpt1_combined_loss,
    "causal_lm_loss": causal_lm_loss, "label_smoothing_lm": label_smoothing_lm,
    "label_smoothing_targets": label_smoothing_targets, "perplexity_aggregate": perplexity_aggregate,
    "perplexity_example": perplexity_example, "adamw": adamw_vector, "grad_clip_global_norm": grad_clip,
    "lr_schedule": lr_schedule, "dynamic_8bit_map": dynamic_8bit_map,
    "bradley_terry": bradley_terry_vector,
}
