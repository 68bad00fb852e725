"""Vectors about which data a run reads: the shares of a mixture."""

from pathlib import Path

from bloomery.data.mixture import temperature_shares


def temperature_mixing(inputs: dict, folder: Path) -> dict:
    sizes, cap = inputs["sizes"], inputs["cap"]
    return {"probabilities": temperature_shares(sizes, temperature=inputs["temperature"], cap=cap),
            "effective_sizes": [min(size, cap or size) for size in sizes]}


DATA = {"temperature_mixing": temperature_mixing}
