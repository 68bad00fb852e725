"""Vectors about what is there twice: signatures, bands, repeated passages."""

from pathlib import Path

import numpy as np

from bloomery.classic.shingles import jaccard
from bloomery.curate.lsh import candidate_probability, even_odds, optimal, threshold
from bloomery.curate.signatures import modular
from bloomery.curate.substring import duplicate_ranges


def minhash_signature(inputs: dict, folder: Path) -> dict:
    sets = [inputs["set1"], inputs["set2"]]
    a, b = (modular(one, inputs["a"], inputs["b"], inputs["prime"]) for one in sets)
    return {"signature1": a, "signature2": b, "estimate": float(np.mean(a == b)),
            "exact_jaccard": jaccard(*map(set, sets))}


def lsh_s_curve(inputs: dict, folder: Path) -> dict:
    shape = inputs["bands"], inputs["rows"]
    return {"candidate_probability": candidate_probability(np.array(inputs["similarity"]), *shape),
            "approx_threshold": threshold(*shape), "s_at_half_probability": even_odds(*shape)}


def lsh_optimal_param(inputs: dict, folder: Path) -> dict:
    bands, rows = optimal(inputs["threshold"], inputs["num_perm"], false_positive=inputs["false_positive_weight"],
                          false_negative=inputs["false_negative_weight"])
    return {"bands": bands, "rows": rows}


def exact_substring_dedup(inputs: dict, folder: Path) -> dict:
    documents, n = inputs["documents_token_ids"], inputs["min_length"]
    found, again = (duplicate_ranges(documents, n, method=method) for method in ("sorted", "windows"))
    if found != again:
        raise AssertionError(f"the suffix array found {found}, the hashes {again}")
    return {"duplicate_ranges": found}


DEDUP = {"minhash_signature": minhash_signature, "lsh_s_curve": lsh_s_curve, "lsh_optimal_param": lsh_optimal_param,
         "exact_substring_dedup": exact_substring_dedup}
