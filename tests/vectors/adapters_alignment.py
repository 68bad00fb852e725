"""Vectors about alignment in rounds: KL and its control, what over-optimisation costs, wins, judges."""

from pathlib import Path

import torch
from torch import Tensor

from bloomery.align.kl import ESTIMATORS, Budget, Controller, beta_for, exact_kl, log_partition, tilted
from bloomery.align.overoptimization import Curve
from bloomery.generate.judge import verdict
from bloomery.generate.winrate import Tally


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def kl_estimators(inputs: dict, folder: Path) -> dict:
    """Every outcome once as a sample; expectations are exact sums."""
    policy, reference = double(inputs["policy_probs"]), double(inputs["ref_probs"])
    found = {name: estimate(policy.log(), reference.log()) for name, estimate in ESTIMATORS.items()}
    return found | {f"expected_{name}": (policy * values).sum() for name, values in found.items()} | \
        {"exact_kl_q_p": exact_kl(policy.log(), reference.log())}


def adaptive_kl_controller(inputs: dict, folder: Path) -> dict:
    control = Controller("adaptive", inputs["target"], inputs["horizon"])
    beta, betas = inputs["init_kl_coef"], []
    for kl in inputs["observed_kl"]:
        beta = control(beta, kl, samples=inputs["n_steps_per_update"])
        betas.append(beta)
    return {"kl_coef_after_each_update": betas}


def kl_budget(inputs: dict, folder: Path) -> dict:
    first = Budget(inputs["budget"]).first(inputs["observed_kl"])
    return {"first_violation_index": first,
            "last_safe_index": (len(inputs["observed_kl"]) if first is None else first) - 1}


def kl_regularised_optimum(inputs: dict, folder: Path) -> dict:
    reference, rewards, beta = double(inputs["ref_probs"]), double(inputs["rewards"]), inputs["beta"]
    best = tilted(reference, rewards, beta)
    kl = exact_kl(best.log(), reference.log())
    bounded = beta_for(reference, rewards, inputs["kl_budget"])
    partition = log_partition(reference, rewards, beta)
    return {"pi_star": best, "kl": kl, "expected_reward": best @ rewards, "objective": best @ rewards - beta * kl,
            "beta_log_Z": partition,
            "implicit_reward_plus_beta_logZ": beta * (best.log() - reference.log()) + partition,
            "beta_for_kl_budget": bounded, "expected_reward_at_budget": tilted(reference, rewards, bounded) @ rewards}


def overoptimization_curve(inputs: dict, folder: Path) -> dict:
    curve = Curve(inputs["kind"], inputs["alpha"], inputs["beta"])
    return {"gold_score": [curve(d) for d in inputs["d"]], "d_at_peak": curve.peak, "kl_at_peak": curve.peak**2,
            "peak": curve(curve.peak)}


def win_rate(inputs: dict, folder: Path) -> dict:
    tally = Tally(inputs["wins"], inputs["ties"], inputs["losses"])
    low, high = tally.interval(inputs["confidence"])
    return {"win_rate": tally.rate, "win_rate_excluding_ties": tally.decided, "wilson_low": low, "wilson_high": high}


def ai_preference_swap(inputs: dict, folder: Path) -> dict:
    found = verdict(inputs["logprob_option_tokens_order_AB"], inputs["logprob_option_tokens_order_BA"])
    return {"p_A_order_AB": found.shown_first, "p_A_order_BA": found.shown_second, "p_A": found.p,
            "hard_label_A": found.p > 0.5, "consistent": found.consistent}


ALIGNMENT = {
    "kl_estimators": kl_estimators, "adaptive_kl_controller": adaptive_kl_controller, "kl_budget": kl_budget,
    "kl_regularised_optimum": kl_regularised_optimum,
    "overoptimization_curve": overoptimization_curve, "win_rate": win_rate, "ai_preference_swap": ai_preference_swap,
}
