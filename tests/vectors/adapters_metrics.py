"""Vectors of tagging and of scores: hidden Markov models, the averaged perceptron, a classifier's loss, BLEU, ROUGE."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from bloomery.classic.hmm import forward_backward, viterbi
from bloomery.classic.linear import cross_entropy, softmax
from bloomery.classic.overlap import bleu, bleu_of, chrf, library, matches, porter, rouge, summed
from bloomery.classic.perceptron import AveragedPerceptron


def hmm(inputs: dict, folder: Path) -> dict:
    with np.errstate(divide="ignore"):
        initial, transition, emission = (np.log(inputs[name]) for name in ("initial", "transition", "emission"))
    seen = emission[:, inputs["observations"]].T                                        # (T, Y)
    path, best = viterbi(initial, transition, seen)
    likelihood, posterior = forward_backward(initial, transition, seen)
    return {"viterbi_path": path, "viterbi_log_prob": best, "log_likelihood": likelihood,
            "posterior_marginals": posterior}


def averaged_perceptron(inputs: dict, folder: Path) -> dict:
    """A class has a weight where a mistake has touched it; NLTK leaves means that round to zero out."""
    model, guesses = AveragedPerceptron(inputs["classes"]), []
    for features, truth in inputs["examples"]:
        guess = model.predict(features)
        model.update(model.classes.index(truth), guess, features)
        guesses.append(model.classes[guess])
    mean = model.averaged()
    touched = (model.weights != 0) | (model.moments != 0)
    return {"guesses": guesses, "final_weights": named(model, model.weights, touched),
            "averaged_weights": named(model, mean.weights, mean.weights != 0)}


def named(model: AveragedPerceptron, weights: np.ndarray, kept: np.ndarray) -> dict:
    return {feature: {model.classes[one]: weights[row, one] for one in kept[row].nonzero()[0]}
            for feature, row in model.rows.items()}


def bleu_vector(inputs: dict, folder: Path) -> dict:
    """sacrebleu tokenises by `13a`; by spaces, our equation must say the same, and what NLTK says."""
    outputs = inputs["hypotheses"]
    references = [list(own) for own in zip(*inputs["references_streams"])]
    tokenise = library().bleu._get_tokenizer("13a")()
    found, corpus = {}, {}
    for name, split in (("13a", tokenise), ("none", str)):
        counts = [matches(split(output).split(), [split(one).split() for one in own])
                  for output, own in zip(outputs, references)]
        corpus[name] = counts
        for smoothing in ("exp", "none", "floor", "add-k"):
            theirs, ours = bleu(outputs, references, tokenize=name, smoothing=smoothing)[0], \
                bleu_of(summed(counts), smoothing=smoothing)
            assert abs(theirs - ours) < 1e-9, (name, smoothing, theirs, ours)
            found[f"corpus_{name}_{smoothing}"] = ours
    total = summed(corpus["13a"])
    # NLTK: at least one n-gram of each length, and its first method is the floor
    nltk = [replace(one, total=tuple(max(1, count) for count in one.total)) for one in corpus["none"]]
    return found | {
        "precisions": precisions(total), "brevity_penalty": total.brevity, "sys_len": total.length,
        "ref_len": total.reference, "counts": total.right, "totals": total.total,
        "sentence_effective_order_exp": [bleu_of(one, effective=True) for one in corpus["13a"]],
        "nltk_corpus_whitespace_no_smoothing_0to1": bleu_of(summed(nltk), smoothing="none") / 100,
        "nltk_sentence_method1_0to1": [bleu_of(one, smoothing="floor") / 100 for one in nltk],
        "chrf": chrf(outputs, references)[0]}


def precisions(counts) -> list[float]:
    """sacrebleu's, in per cent: those of its `exp` smoothing."""
    found, half = [], 1.0
    for right, total in zip(counts.right, counts.total):
        half *= 2 if total and not right else 1
        found.append(100 * (right or 1 / half) / total if total else 0.0)
    return found


def rouge_vector(inputs: dict, folder: Path) -> dict:
    return {name: {kind: asdict(score) for kind, score in rouge(inputs["candidate"], inputs["reference"],
                                                               stem=stem).items()}
            for name, stem in (("nostem", None), ("stem", porter()))}


def classification_loss(inputs: dict, folder: Path) -> dict:
    logits = np.array(inputs["logits"])
    return {"loss": cross_entropy(logits, np.array(inputs["labels"])), "probabilities": softmax(logits)}


METRICS = {"hmm": hmm, "averaged_perceptron": averaged_perceptron, "bleu": bleu_vector, "rouge": rouge_vector,
           "classification_loss": classification_loss}
