"""Vectors about labels: how far those who give them agree."""

from itertools import combinations
from pathlib import Path

from bloomery.annotate.agreement import cohen, fleiss, krippendorff, majority, pairwise


def annotator_agreement(inputs: dict, folder: Path) -> dict:
    labels = inputs["annotators"]
    return {"cohen_kappa_pairs": {f"{i}-{j}": cohen(labels[i], labels[j])
                                  for i, j in combinations(range(len(labels)), 2)},
            "fleiss_kappa": fleiss(labels), "krippendorff_alpha_nominal": krippendorff(labels),
            "mean_pairwise_agreement": pairwise(labels),
            "majority": [majority(item) for item in zip(*labels, strict=True)]}


REWARDS = {"annotator_agreement": annotator_agreement}
