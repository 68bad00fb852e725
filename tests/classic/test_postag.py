"""Taggers: sums over all paths, what NLTK's perceptron does, and a treebank learned from a part of it."""

import json
import math
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery import cli
from bloomery.classic.hmm import HmmTagger, forward_backward, viterbi
from bloomery.classic.perceptron import AveragedPerceptron, PerceptronTagger
from bloomery.classic.postag import TAGGERS, accuracy, load, read_conllu, save, tokens
from bloomery.core.errors import InputError

DATA = Path(os.environ.get("BLOOMERY_DATA", Path(__file__).parents[3] / "shared" / "data")).absolute()
TREEBANK = DATA / "ud_english_ewt"
NOUNS, VERBS = ("dog", "cat", "boat", "river"), ("sees", "holds", "finds")
SENTENCES = [[("the", "DET"), (noun, "NOUN"), (verb, "VERB"), ("a", "DET"), (other, "NOUN"), (".", "PUNCT")]
             for noun in NOUNS for verb in VERBS for other in NOUNS]


# --- hidden Markov models -----------------------------------------------------------------------------------------

@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 10**6))
def test_paths_are_those_of_brute_force(states, length, seed):
    generator = np.random.default_rng(seed)
    initial, transition = (np.log(generator.dirichlet(np.ones(states), size)) for size in (None, states))
    emission = np.log(generator.random((length, states)))
    paths = {path: initial[path[0]] + sum(transition[a, b] for a, b in zip(path, path[1:]))
             + sum(emission[t, state] for t, state in enumerate(path))
             for path in product(range(states), repeat=length)}
    found, best = viterbi(initial, transition, emission)
    assert best == pytest.approx(max(paths.values())) and paths[tuple(found)] == pytest.approx(best)
    likelihood, posterior = forward_backward(initial, transition, emission)
    assert likelihood == pytest.approx(math.log(sum(map(math.exp, paths.values()))))
    last = [sum(math.exp(logp - likelihood) for path, logp in paths.items() if path[-1] == state)
            for state in range(states)]
    assert posterior[-1] == pytest.approx(last) and posterior.sum(axis=1) == pytest.approx(np.ones(length))


def test_a_path_that_cannot_be_is_never_taken():
    with np.errstate(divide="ignore"):
        path, best = viterbi(np.log([1.0, 0]), np.log([[0, 1.0], [1, 0]]), np.log([[0.1, 0.9], [0.9, 0.1]]))
    assert path.tolist() == [0, 1] and best == pytest.approx(math.log(0.1 * 0.1))


def test_an_unknown_word_is_guessed_from_its_end_and_its_neighbours():
    extra = [[("it", "PRON"), (f"{stem}ly", "ADV"), (f"{stem}ed", "VERB")] for stem in ("quick", "slow", "clear")]
    tagger = HmmTagger.train(SENTENCES[::6] + extra)                        # most words rare, as in real texts
    assert tagger.guess("boldly").argmax() == tagger.tags.index("ADV")
    assert tagger.guess("boldly").sum() == pytest.approx(1)
    assert tagger.tag(["the", "zzz", "sees", "a", "boat"])[1] == "NOUN"
    assert tagger.tag(["it", "boldly", "sees"])[1] == "ADV"


# --- the averaged perceptron --------------------------------------------------------------------------------------

def test_means_are_the_means_of_all_weights_there_were():
    """Against keeping every one of them, and against NLTK where it is installed."""
    generator = np.random.default_rng(0)
    examples = [([f"f{n}" for n in generator.choice(6, 3, replace=False)], str(generator.choice(["a", "b", "c"])))
                for _ in range(40)]
    model, history = AveragedPerceptron("abc"), []
    for features, truth in examples:
        history.append(model.weights[:6].copy())                # those that the guess is made with
        model.update(model.classes.index(truth), model.predict(features), features)
    mean = model.averaged().weights[:6]
    assert np.abs(mean).max() > 0.1 and mean == pytest.approx(np.mean(history, axis=0), abs=6e-4)
    nltk = pytest.importorskip("nltk.tag.perceptron").AveragedPerceptron()
    nltk.classes = set("abc")
    for features, truth in examples:
        given_features = dict.fromkeys(features, 1)
        nltk.update(truth, nltk.predict(given_features)[0], given_features)
    nltk.average_weights()
    ours = {feature: {model.classes[one]: mean[row, one] for one in mean[row].nonzero()[0]}
            for feature, row in model.rows.items()}
    assert {feature: own for feature, own in ours.items() if own} == \
        {feature: pytest.approx(own, abs=1.1e-3) for feature, own in nltk.weights.items() if own}


def test_a_tie_goes_to_the_largest_name_and_a_right_guess_teaches_nothing():
    model = AveragedPerceptron(["a", "c", "b"])
    assert model.classes[model.predict(["x"])] == "c"
    model.update(0, 0, ["x"])
    assert model.calls == 1 and not model.weights.any() and not model.rows
    for number in range(3000):                                     # rows are added as they are needed
        model.update(0, 1, [f"feature {number}"])
    assert model.weights[:3000].tolist() == [[1, -1, 0]] * 3000


# --- both ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", TAGGERS)
def test_a_tagger_learns_and_is_the_same_from_its_file(kind, tmp_path):
    tagger = TAGGERS[kind].train(SENTENCES)
    score = accuracy(tagger, [*SENTENCES, [("the", "DET"), ("ship", "NOUN"), ("sees", "VERB")]])
    assert score["accuracy"] == 1 and score["unknown"] == 1 and score["unknown_accuracy"] == 1
    save(tagger, tmp_path / "tagger.json")
    again = load(tmp_path / "tagger.json")
    assert again.state() == tagger.state() and again.words == tagger.words
    words = ["a", "whale", "holds", "the", "unseen", "."]
    assert again.tag(words) == tagger.tag(words) and tagger.tag([]) == []


def test_the_perceptron_is_the_same_for_the_same_seed():
    one, same, other = (PerceptronTagger.train(SENTENCES, epochs=2, seed=seed).state() for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize("kind", TAGGERS)
def test_nothing_to_learn_from_is_an_error(kind):
    with pytest.raises(ValueError, match="at least one tagged word"):
        TAGGERS[kind].train([[]])


def test_words_are_parted_as_treebanks_part_them():
    assert tokens("I don't think it's Bob's, e.g. the U.S. one... can't we?") == [
        "I", "do", "n't", "think", "it", "'s", "Bob", "'s", ",", "e.g.", "the", "U.S.", "one", "...", "ca", "n't", "we",
        "?"]
    assert tokens("(1,000.5 at x@y.org) 'no' -- well-known") == [
        "(", "1,000.5", "at", "x@y.org", ")", "'", "no", "'", "--", "well-known"]


CONLLU = """# text = From a
1-2\tFroma\t_\t_\t_\t_\t_\t_\t_\t_
1\tFrom\tfrom\tADP\tIN\t_\t3\tcase\t_\t_
1.1\tnothing\t_\t_\t_\t_\t_\t_\t_\t_
2\ta\ta\tDET\tDT\t_\t3\tdet\t_\t_

1\tAh\tah\tINTJ\tUH\t_\t0\troot\t_\t_
"""


def test_conllu_is_read(tmp_path):
    path = tmp_path / "a.conllu"
    path.write_text(CONLLU)
    assert read_conllu(path) == [[("From", "ADP"), ("a", "DET")], [("Ah", "INTJ")]]
    assert read_conllu(path, "xpos")[1] == [("Ah", "UH")]
    path.write_text(CONLLU + "1\tshort\n")
    with pytest.raises(InputError, match="CoNLL-U") as caught:
        read_conllu(path)
    assert caught.value.where == f"{path}:8" and "2 columns" in caught.value.why
    path.write_text("no columns\n")
    with pytest.raises(InputError, match="no tagged sentences"):
        read_conllu(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"tagger": "robot"}', '{"tagger": "hmm", "tags": []}'])
def test_what_is_no_tagger_is_said(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match="no tagger"):
        load(tmp_path / "x.json")


def test_the_command_learns_measures_tags_and_opens(tmp_path, capsys):
    bank, kept, letter = tmp_path / "a.conllu", tmp_path / "tagger.json", tmp_path / "letter.txt"
    bank.write_text("\n\n".join("\n".join(f"{n}\t{word}\t_\t{tag}\t_\t_\t_\t_\t_\t_" for n, (word, tag) in
                                          enumerate(one, 1)) for one in SENTENCES) + "\n")
    letter.write_text("the dog sees a cat.\n\nthe boat finds a river.")
    assert cli.main(["text", "tag", str(letter), "--train", str(bank), "--test", str(bank), "--save", str(kept)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("100.00% of 288 words right")
    assert said[1:] == [f"the/DET {noun}/NOUN {verb}/VERB a/DET {other}/NOUN ./PUNCT" for noun, verb, other in
                        (("dog", "sees", "cat"), ("boat", "finds", "river"))]
    assert cli.main(["text", "tag", str(letter), "--model", str(kept), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tagger"] == "perceptron" and found["texts"][0]["sentences"][1][1] == ["boat", "NOUN"]
    for wrong in ([], ["--model", str(kept), "--train", str(bank)], ["--train", str(bank), "--tagger", "crf"]):
        assert cli.main(["text", "tag", str(letter), *wrong]) == 2
    assert "perceptron" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not TREEBANK.is_dir(), reason=f"no treebank in {TREEBANK}: set BLOOMERY_DATA")
@pytest.mark.parametrize(("kind", "least", "least_unknown"), [("perceptron", 0.91, 0.75), ("hmm", 0.885, 0.67)])
def test_english_web_treebank(kind, least, least_unknown):
    """Taught with the development part alone, 25,000 words; the test part has 25,094, of which it never saw 4,493."""
    tagger = TAGGERS[kind].train(read_conllu(TREEBANK / "en_ewt-ud-dev.conllu.gz"))
    score = accuracy(tagger, read_conllu(TREEBANK / "en_ewt-ud-test.conllu.gz"))
    assert (score["tokens"], score["unknown"]) == (25094, 4493)
    assert score["accuracy"] > least and score["unknown_accuracy"] > least_unknown, score
