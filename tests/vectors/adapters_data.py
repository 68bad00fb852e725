"""Vectors about which data a run reads: the shares of a mixture, and which answers show their reasoning."""

from pathlib import Path

from bloomery.data.mixture import temperature_shares
from bloomery.instruct.mixture import reasoned


def temperature_mixing(inputs: dict, folder: Path) -> dict:
    sizes, cap = inputs["sizes"], inputs["cap"]
    return {"probabilities": temperature_shares(sizes, temperature=inputs["temperature"], cap=cap),
            "effective_sizes": [min(size, cap or size) for size in sizes]}


def cot_mixing(inputs: dict, folder: Path) -> dict:
    shown = reasoned(inputs["uniform_draws"], inputs["has_rationale"], inputs["cot_ratio"])
    return {"use_cot": [int(one) for one in shown]}


DATA = {"temperature_mixing": temperature_mixing, "cot_mixing": cot_mixing}
