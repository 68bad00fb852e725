"""Mutual information: the errata's numbers, NLTK's, and what must hold for any text."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.classic.pmi import (
    MEASURES,
    collocations,
    count_pairs,
    log_likelihood,
    npmi,
    pmi,
    pmi3,
    ppmi,
    probabilities,
    t_score,
)

MATS = [line.split() for line in ("the cat sat on the mat", "the dog sat on the mat")]
SENTENCES = st.lists(st.lists(st.sampled_from("abcd"), max_size=8), min_size=1, max_size=5).filter(
    lambda sentences: any(len(sentence) > 1 for sentence in sentences))


def named(pairs, values) -> dict[str, float]:
    return {" ".join(words): value for words, value in pairs.named(values).items()}


def test_the_documents_example():
    """Errata 1.11: PMI(the, cat) is 1.32 bits with the marginals of pairs, 1.85 with those of words."""
    pairs = count_pairs(MATS)
    assert named(pairs, pmi(pairs))["the cat"] == pytest.approx(math.log2(10 * 1 / (4 * 1)))
    assert named(pairs, pmi(pairs, marginals="words"))["the cat"] == pytest.approx(1.8479969065549502)
    assert named(pairs, pmi(pairs, base=math.e))["the cat"] == pytest.approx(math.log(2.5))


def test_the_matrix_of_neighbours_does_not_join_sentences():
    pairs, words = count_pairs(MATS), ["the", "cat", "dog", "sat", "on", "mat"]
    assert pairs.matrix(words).tolist() == [[0, 1, 1, 0, 0, 2], [0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0],
                                            [0, 0, 0, 0, 2, 0], [2, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    assert pairs.matrix(["mat", "the"]).tolist() == [[0, 0], [2, 0]]
    assert pairs.counts.sum() == 10 and pairs.matrix().sum() == 10


@given(SENTENCES, st.integers(2, 5), st.booleans())
def test_windows_are_counted_as_loops_count_them(sentences, window, directed):
    expected = Counter()
    for sentence in sentences:
        for i, x in enumerate(sentence):
            for y in sentence[i + 1:i + window]:
                expected[x, y] += 1
                expected[y, x] += not directed
    pairs = count_pairs(sentences, window=window, directed=directed)
    assert pairs.named(pairs.counts) == {pair: count for pair, count in expected.items() if count}
    assert pairs.left.sum() == pairs.right.sum() == pairs.counts.sum()


@given(SENTENCES)
def test_bounds(sentences):
    """Errata 1.10: at most min(-log p(x), -log p(y)); NPMI in [-1, 1]; mutual information is never below 0."""
    pairs = count_pairs(sentences)
    p, px, py = probabilities(pairs, "pairs", 1.0)
    values = pmi(pairs)
    assert (values <= np.minimum(-np.log2(px), -np.log2(py)) + 1e-9).all()
    assert (np.abs(npmi(pairs)) <= 1 + 1e-9).all() and (p * values).sum() >= -1e-9
    assert (ppmi(pairs) == np.maximum(values, 0)).all() and (log_likelihood(pairs) >= -1e-9).all()


def test_smoothed_contexts_lower_the_scores_of_rare_ones():
    pairs = count_pairs(MATS)
    raised = np.array([count ** 0.75 for count in (2, 1, 1, 2, 2, 2)])      # on the right: the cat dog sat on mat
    expected = math.log2(0.1 / (0.4 * 1 / raised.sum()))
    assert named(pairs, pmi(pairs, alpha=0.75))["the cat"] == pytest.approx(expected)
    assert expected < named(pairs, pmi(pairs))["the cat"]


@pytest.mark.parametrize("window", [2, 3])
def test_it_is_what_nltk_has(window):
    """NLTK shares a pair among the places of its window."""
    nltk = pytest.importorskip("nltk.collocations")
    words = [*MATS[0], "and", *MATS[1][:5], "cat", "and", *MATS[0]]
    measures = nltk.BigramAssocMeasures()
    finder = nltk.BigramCollocationFinder.from_words(words, window_size=window)
    pairs = count_pairs([words], window=window)
    expected = {pair: score for pair, score in finder.score_ngrams(measures.pmi)}
    assert pairs.named(pmi(pairs, marginals="nltk")) == pytest.approx(expected)
    triples = nltk.TrigramCollocationFinder.from_words(words).score_ngrams(nltk.TrigramAssocMeasures().pmi)
    assert {one.words: one.score for one in pmi3([words])} == pytest.approx(dict(triples))


def test_log_likelihood_and_t_by_hand():
    """8 of 100 pairs (a, b), a 10 times on the left, b 12 times on the right."""
    sentences = [["a", "b"]] * 8 + [["a", "c"]] * 2 + [["c", "b"]] * 4 + [["c", "c"]] * 86
    pairs = count_pairs(sentences)
    cells = [(8, 1.2), (2, 8.8), (4, 10.8), (86, 79.2)]
    assert named(pairs, log_likelihood(pairs))["a b"] == pytest.approx(
        2 * sum(seen * math.log(seen / expected) for seen, expected in cells))
    assert named(pairs, t_score(pairs))["a b"] == pytest.approx((8 - 1.2) / math.sqrt(8))


@pytest.mark.parametrize("measure", MEASURES)
def test_the_finder_finds_what_was_planted(measure):
    generator = np.random.default_rng(0)
    words = generator.choice(list("abcdefghij"), 2000).tolist()
    for place in range(0, 2000, 50):
        words[place:place + 2] = ["new", "york"]
    found = collocations([words], measure=measure, min_count=5)
    assert found[0].words == ("new", "york") and found[0].count == 40


def test_filters_drop_pairs_and_keep_marginals():
    pairs = count_pairs(MATS)
    kept = pairs.frequent(2).besides({"the"})
    assert set(kept.named(kept.counts)) == {("sat", "on")}
    assert named(kept, pmi(kept))["sat on"] == named(pairs, pmi(pairs))["sat on"]
    assert collocations(MATS, min_count=3) == [] and pmi3([["a", "b"]]) == []
    assert [one.words for one in pmi3(MATS, min_count=2, stop_words=["mat"])] == [("sat", "on", "the")]


def test_nothing_to_pair_is_no_error():
    pairs = count_pairs([["alone"], []])
    assert len(pairs) == 0 and len(pmi(pairs)) == 0
    with pytest.raises(ValueError, match="window must be at least 2"):
        count_pairs(MATS, window=1)


def test_neighbours_are_what_pairwise_gives():
    words = ["to", "be", "or", "not", "to", "be"]
    pairs = count_pairs([words])
    assert pairs.named(pairs.counts) == Counter(pairwise(words))
