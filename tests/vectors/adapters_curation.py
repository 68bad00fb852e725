"""Vectors about what a corpus is made of: the weights of its domains."""

from pathlib import Path

import numpy as np

from bloomery.pretrain.doremi import domain_update


def doremi_update(inputs: dict, folder: Path) -> dict:
    excess = [np.array(tokens, np.float64) for tokens in inputs["excess_token_losses_per_domain"]]
    weights, scores = domain_update(np.array(inputs["domain_weights"]), excess, inputs["previous_domain_scores"],
                                    eta=inputs["step_size"], smoothing=inputs["smoothing"])
    return {"domain_scores": scores, "new_weights": weights}


CURATION = {"doremi_update": doremi_update}
