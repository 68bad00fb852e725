"""PageRank equal to networkx, TextRank by hand, and how text becomes words and sentences."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.classic.pagerank import graph, pagerank
from bloomery.classic.textrank import keywords, sentence_scores, similarities, summarise, word_scores
from bloomery.classic.words import sentences, singular, terms, words

EDGES = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.floats(0.1, 5)), max_size=20,
                 unique_by=lambda edge: edge[:2])
ARTICLE = ("Iron is smelted in a furnace. The furnace burns charcoal, and charcoal makes the iron furnace hot. "
           "It rained on Tuesday. A hot furnace turns iron ore into an iron bloom.")


@settings(max_examples=40)
@given(edges=EDGES, alpha=st.floats(0, 0.95), personal=st.none() | st.lists(st.floats(0, 3), min_size=8, max_size=8))
def test_ranks_are_those_of_networkx(edges, alpha, personal):
    if personal is not None and sum(personal) < 0.1:
        personal[0] = 1.0
    peer = nx.DiGraph()
    peer.add_nodes_from(range(8))
    peer.add_weighted_edges_from(edges)
    expected = nx.pagerank(peer, alpha, personalization=None if personal is None else dict(enumerate(personal)),
                           tol=1e-14, max_iter=2000)
    names, links = graph(edges, nodes=range(8))
    found = pagerank(links, alpha=alpha, start=personal)
    assert names == list(range(8)) and found.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(found, [expected[node] for node in names], atol=1e-8)


def test_ranks_of_a_large_graph_are_those_of_networkx():
    peer = nx.scale_free_graph(3000, seed=0)
    links = nx.to_scipy_sparse_array(peer, nodelist=range(3000))
    expected = nx.pagerank(nx.DiGraph(links := links), tol=1e-12, max_iter=500)
    np.testing.assert_allclose(pagerank(links), [expected[node] for node in range(3000)], atol=1e-8)


def test_repeated_edges_add_up_and_nodes_keep_their_order():
    names, links = graph([("b", "a"), ("b", "a", 2.0), ("a", "c")], nodes=["z"])
    assert names == ["z", "b", "a", "c"] and links[1, 2] == 3 and links[2, 3] == 1
    assert pagerank(graph([], nodes=["alone"])[1]).tolist() == [1]


@pytest.mark.parametrize("call, what", [
    (lambda: pagerank(graph([])[1]), "at least one node"), (lambda: pagerank(np.ones((2, 3))), "square"),
    (lambda: pagerank(np.ones((2, 2)), alpha=1.5), "alpha"), (lambda: pagerank(-np.ones((2, 2))), "negative"),
    (lambda: pagerank(np.ones((2, 2)), start=[0, 0]), "start"), (lambda: pagerank(np.ones((2, 2)), start=[1]), "start"),
    (lambda: pagerank(np.array([[0, 1], [1, 0]]), alpha=1, start=[1, 0]), "no rank after 1000 rounds")])
def test_what_has_no_rank_is_refused(call, what):
    with pytest.raises(ValueError, match=what):
        call()


def test_words_of_a_path_rank_by_the_middle():
    tokens = words("compatibility of systems of linear constraints over the set")
    found = word_scores(tokens, stop=["of", "over", "the"])
    assert list(found) == ["constraints", "systems", "linear", "compatibility", "set"]      # ties by name, not rounding
    second = 0.06825 / 0.2775                   # end = 0.03 + 0.85 second / 2, second = 0.03 + 0.85 (end + middle / 2)
    expected = [second, second, 0.03 + 0.85 * second, 0.03 + 0.425 * second, 0.03 + 0.425 * second]
    assert list(found.values()) == pytest.approx(expected, abs=1e-9)


def test_a_wider_window_links_words_further_apart():
    narrow, wide = (word_scores(list("abcd"), window=window, stop=()) for window in (2, 4))
    assert narrow["a"] < narrow["b"] and wide["a"] == pytest.approx(0.25)
    with pytest.raises(ValueError, match="window"):
        word_scores(["a"], window=1)


def test_words_alone_and_no_words():
    assert word_scores(["echo", "echo"], stop=()) == {"echo": 1}
    assert word_scores(["the", "of"]) == {} and keywords("of the") == [] and keywords("") == []


def test_neighbours_become_a_phrase_but_not_across_a_mark():
    found, ranks = dict(keywords(ARTICLE)), word_scores(words(ARTICLE))
    assert list(ranks)[:4] == ["iron", "furnace", "hot", "charcoal"]                # the best third of 12
    assert list(found) == ["iron furnace hot", "hot furnace", "iron", "furnace", "charcoal"]
    assert found["iron furnace hot"] == pytest.approx(ranks["iron"] + ranks["furnace"] + ranks["hot"])
    assert list(keywords(ARTICLE, 2)) == list(found.items())[:2]


def test_similar_sentences_by_hand():
    said = ("the cat sat on the mat", "the dog sat on the log", "birds can fly high", "the", "the", "")
    tokens = [one.split() for one in said]
    alike = similarities(tokens).toarray()
    assert alike[0, 1] == alike[1, 0] == pytest.approx(3 / (2 * np.log(6)))
    assert alike[0, 2] == 0 and alike[3, 4] == 0 and alike[0, 3] == pytest.approx(1 / np.log(6))
    assert not alike.diagonal().any()
    assert sentence_scores(tokens).sum() == pytest.approx(1)


def test_a_summary_is_the_best_sentences_in_their_order():
    found = summarise(ARTICLE, 2)
    assert found == [one for one in sentences(ARTICLE) if one in found] and len(found) == 2
    assert "It rained on Tuesday." not in summarise(ARTICLE, 3)
    assert summarise("One sentence only", 3) == ["One sentence only"] and summarise("", 3) == []
    assert summarise("The. Of. And.", 2) == ["The.", "Of."]                 # nothing to choose by: the first
    with pytest.raises(ValueError, match="k must be at least 1"):
        summarise(ARTICLE, 0)


@pytest.mark.parametrize("text, expected", [
    ("One. Two! Three?", ["One.", "Two!", "Three?"]),
    ("Dr. Smith met J. Doe at 5.30 p.m. today. He left.", ["Dr. Smith met J. Doe at 5.30 p.m. today.", "He left."]),
    ('He said "Go." She went.', ['He said "Go."', "She went."]),
    ("a title\nover lines\n\nand a text", ["a title over lines", "and a text"]),
    ("the flow is laminar . the wake is not .", ["the flow is laminar .", "the wake is not ."]),
    ("Wait... what? Yes.", ["Wait... what?", "Yes."]), ("これは文です。次の文。", ["これは文です。", "次の文。"]),
    ("", []), ("...", [])])
def test_sentences(text, expected):
    assert sentences(text) == expected


@pytest.mark.parametrize("word, stem", [("queries", "query"), ("slabs", "slab"), ("states", "state"), ("gas", "ga"),
                                        ("glass", "glass"), ("bus", "bus"), ("shoes", "shoe"), ("s", "s"),
                                        ("trees", "tree"), ("ties", "ty")])
def test_the_s_stemmer(word, stem):
    assert singular(word) == stem


def test_terms_are_words_without_stop_words_as_stems():
    assert terms("The Queries of two cats don't matter") == ["query", "two", "cat", "matter"]
    assert terms("The cats", stop=(), stem=None) == ["the", "cats"] and words("Don't_1 ça!") == ["don", "t_1", "ça"]
