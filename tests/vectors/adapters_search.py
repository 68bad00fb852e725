"""Vectors about search and choice: beams, the best of n, ensembles of reward models, transformers' `generate`."""

from pathlib import Path

import torch
from torch import Tensor

from bloomery.generate.beam import Beam, beam_search, gnmt, search
from bloomery.generate.best_of import (
    best_of,
    best_of_n,
    combine,
    exact_kl,
    kl_bound,
    win_rate,
    win_rate_bound,
)
from bloomery.generate.decode import complete
from bloomery.model.store import load_model


def tokens(beam: Beam) -> list[int]:
    return beam.ids if beam.end is None else [*beam.ids, beam.end]


def beam_search_exhaustive(inputs: dict, folder: Path) -> dict:
    """A table model, and beams enough that nothing is pruned."""
    table = torch.tensor(inputs["transition"], dtype=torch.float64).log()

    def next_logps(continuations: list[list[int]]) -> Tensor:
        return torch.stack([table[ids[-1] if ids else inputs["bos"]] for ids in continuations])

    *_, found = search(next_logps, beams=len(table) ** inputs["max_new_tokens"], max_tokens=inputs["max_new_tokens"],
                       ends=frozenset({inputs["eos"]}), length_penalty=inputs["length_penalty"], early_stopping="never")
    best, second = found[:2]
    return {"best_sequence": tokens(best), "best_score": best.score, "second_sequence": tokens(second),
            "second_score": second.score}


def gnmt_length_penalty(inputs: dict, folder: Path) -> dict:
    return {"lp": [gnmt(length, inputs["alpha"]) for length in inputs["lengths"]]}


def best_of_n_kl(inputs: dict, folder: Path) -> dict:
    probabilities, n = inputs["ref_probs_sorted_by_increasing_reward"], inputs["N"]
    return {"best_of_n_probs": best_of_n(probabilities, n), "exact_kl": exact_kl(probabilities, n),
            "upper_bound": kl_bound(n), "win_rate_ties_half": win_rate(probabilities, n),
            "win_rate_bound": win_rate_bound(n)}


def best_of_n_bound(inputs: dict, folder: Path) -> dict:
    return {"upper_bound": [kl_bound(n) for n in inputs["N"]],
            "binary_uniform_reference_exact_kl": [exact_kl([0.5, 0.5], n) for n in inputs["N"]]}


def best_of_n_select(inputs: dict, folder: Path) -> dict:
    return {"index": best_of(inputs["scores"])}


def rm_ensemble(inputs: dict, folder: Path) -> dict:
    scores, k = inputs["scores_members_by_sample"], inputs["lam"]
    names = {"mean": "mean", "min": "min", "lower": "uncertainty_weighted_std",
             "variance": "uncertainty_weighted_variance"}
    return {theirs: combine(scores, ours, k) for ours, theirs in names.items()}


def hf_generate(inputs: dict, folder: Path) -> dict:
    """Greedy decoding and beams, with the cache; sequences that ended are filled up with the end token, as there."""
    model = load_model(folder / inputs["checkpoint"], compute=torch.float64, dtype=torch.float64)
    prompt = inputs["prompt_ids"]

    def greedy(ends: set[int]) -> list[int]:
        done = complete(model, [prompt], ends=ends, max_tokens=inputs["max_new_tokens"])[0]
        return [*done.ids, *(ends if done.finish == "stop" else ())]

    def beams(asked: dict) -> dict:
        end = asked["eos_token_id"]
        found = beam_search(model, prompt, beams=asked["num_beams"], max_tokens=asked["max_new_tokens"],
                            ends=frozenset() if end is None else frozenset({end}), n_best=asked["num_beams"],
                            length_penalty=asked["length_penalty"], early_stopping=asked["early_stopping"])
        longest = max(len(tokens(beam)) for beam in found)
        return asked | {"sequences_scores": [beam.score for beam in found],
                        "sequences_new_tokens": [tokens(b) + [end] * (longest - len(tokens(b))) for b in found]}

    return {"greedy_new_tokens": greedy(set()), "beam": [beams(asked) for asked in inputs["beams"]],
            "greedy_with_eos": {"eos_token_id": inputs["eos_token_id"], "new_tokens": greedy({inputs["eos_token_id"]})}}


SEARCH = {
    "beam_search_exhaustive": beam_search_exhaustive, "gnmt_length_penalty": gnmt_length_penalty,
    "best_of_n_kl": best_of_n_kl, "best_of_n_bound": best_of_n_bound, "best_of_n_select": best_of_n_select,
    "rm_ensemble": rm_ensemble, "hf_generate": hf_generate,
}
