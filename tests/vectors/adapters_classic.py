"""Vectors about counting words: bigram models, edit distance, spelling, mutual information."""

from pathlib import Path

import numpy as np

from bloomery.classic.edit_distance import Costs, damerau, indel, levenshtein, normalised, osa, weighted
from bloomery.classic.grams import symbols
from bloomery.classic.lexicon import START
from bloomery.classic.ngram import Ngram, Score
from bloomery.classic.pmi import Pairs, count_pairs, npmi, pmi, ppmi
from bloomery.classic.smoothing import Smoothing, add_k, mle, nltk_kneser_ney
from bloomery.classic.spelling import closest


def bigram_lm(inputs: dict, folder: Path) -> dict:
    """Words by number between the vector's own names for what opens and closes a sentence; 0 is unknown."""
    sentences, asked, k = inputs["sentences"], inputs["test_sentence"], inputs["lidstone_k"]
    types = {word for sentence in sentences for word in sentence} - {inputs["bos"], inputs["eos"], "<UNK>"}
    words = ["<UNK>", inputs["bos"], inputs["eos"], *sorted(types)]
    number = {word: i for i, word in enumerate(words)}

    def ids(sentence: list[str]) -> np.ndarray:
        return symbols([1, *(number.get(word, 0) for word in sentence), 2])

    def answered(smoothing: Smoothing, size: int) -> tuple[np.ndarray, Score]:
        model = Ngram(2, len(words), smoothing=smoothing, start=START, size=size).fit([ids(s) for s in sentences])
        return model.probabilities(ids(asked)), model.score([ids(asked)])

    padded = [inputs["bos"], *asked, inputs["eos"]]
    predictable = len(types) + 1
    found = {"bigrams": list(zip(padded, padded[1:])), "vocabulary": sorted(words), "vocabulary_size_nltk": len(words),
             "vocabulary_size_predictable": predictable}
    found["mle_probs"], score = answered(mle(), predictable)
    found |= {"mle_log_likelihood_nats": -score.nats, "mle_perplexity": score.perplexity}
    name = f"lidstone_{k}_probs".replace(".", "_")
    found[name], score = answered(add_k(k), len(words))
    found["lidstone_perplexity"] = score.perplexity
    found[f"{name}_predictable_vocabulary"], _ = answered(add_k(k), predictable)
    found["kneser_ney_discount_0_1_probs"], _ = answered(nltk_kneser_ney(0.1), predictable)
    return found


def edit_distance(inputs: dict, folder: Path) -> dict:
    a, b = inputs["a"], inputs["b"]
    found = {"levenshtein": levenshtein(a, b), "osa": osa(a, b), "damerau_unrestricted": damerau(a, b),
             "indel": indel(a, b), "normalized_levenshtein": normalised(a, b)}
    for insert, delete, substitute in (inputs["weights_ins_del_sub"], (1, 2, 3)):
        found[f"weighted_{insert}_{delete}_{substitute}"] = weighted(a, b, Costs(insert, delete, substitute))
    return found


def spell_correct(inputs: dict, folder: Path) -> dict:
    word, dictionary = inputs["word"], inputs["dictionary"]
    return {"distances": {other: levenshtein(word, other) for other in dictionary},
            "candidates_at_minimum": closest(word, dictionary, frequency=inputs.get("frequency"),
                                             max_distance=inputs.get("max_distance"))}


def named(pairs: Pairs, values: np.ndarray) -> dict[str, float]:
    return {f"{x}|{y}": value for (x, y), value in pairs.named(values).items()}


def pmi_vector(inputs: dict, folder: Path) -> dict:
    pairs = count_pairs(inputs["sentences"], window=inputs["window"])
    return {"n_pairs": int(pairs.counts.sum()), "pair_counts": named(pairs, pairs.counts),
            "pmi_pair_marginals_bits": named(pairs, pmi(pairs)), "ppmi_bits": named(pairs, ppmi(pairs)),
            "pmi_unigram_marginals_bits": named(pairs, pmi(pairs, marginals="words")),
            "ppmi_context_smoothed_alpha_0_75_bits": named(pairs, ppmi(pairs, alpha=0.75)),
            "npmi": named(pairs, npmi(pairs))}


def pmi_nltk(inputs: dict, folder: Path) -> dict:
    pairs = count_pairs([inputs["words"]])
    return {"pmi_bits": named(pairs, pmi(pairs, marginals="nltk"))}


def cooccurrence_matrix(inputs: dict, folder: Path) -> dict:
    """The pairs of the document's examples are asked for by name; each is answered where it was counted."""
    pairs, vocabulary = count_pairs(inputs["sentences"]), inputs["vocabulary"]
    own, words = named(pairs, pmi(pairs)), named(pairs, pmi(pairs, marginals="words"))
    found = {"matrix": dict(zip(vocabulary, pairs.matrix(vocabulary).tolist())), "n_pairs": int(pairs.counts.sum())}
    for pair in own:
        name = f"pmi_{pair.replace('|', '_')}_bits"
        found |= {f"{name}_pair_marginals": own[pair], f"{name}_unigram": words[pair]}
    return found


CLASSIC = {"bigram_lm": bigram_lm, "edit_distance": edit_distance, "spell_correct": spell_correct, "pmi": pmi_vector,
           "pmi_nltk": pmi_nltk, "cooccurrence_matrix": cooccurrence_matrix}
