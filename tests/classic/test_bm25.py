"""BM25: every variant by its formula, Lucene's equal to bm25s, and an index that survives on disk."""

import json
import math

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.classic.bm25 import ARRAYS, MADE, VARIANTS, build, open_index
from bloomery.core.errors import InputError

TEXTS = ("the quick brown fox", "the lazy dog", "", "the quick dog jumps over the lazy fox",
         "cats sleep all day long and all night")
DOCUMENTS = [text.split() for text in TEXTS]
SOME = st.lists(st.lists(st.sampled_from("abcdef"), max_size=9), min_size=1, max_size=7).filter(any)


def formula(documents, query, variant, k1, b, delta):
    """A dictionary at a time, as the papers print them."""
    total, mean = len(documents), sum(map(len, documents)) / len(documents)
    n = {t: sum(t in d for d in documents) for d in documents for t in d}
    odds = {t: math.log((total - n[t] + 0.5) / (n[t] + 0.5)) for t in n}
    idf = {"lucene": lambda t: math.log(1 + (total - n[t] + 0.5) / (n[t] + 0.5)),
           "robertson": lambda t: max(0, odds[t]), "atire": lambda t: math.log(total / n[t]),
           "bm25l": lambda t: math.log((total + 1) / (n[t] + 0.5)), "bm25+": lambda t: math.log((total + 1) / n[t]),
           "okapi": lambda t: odds[t] if odds[t] >= 0 else 0.25 * sum(odds.values()) / len(odds),
           "odds": odds.__getitem__}
    idf["textbook"] = idf["lucene"]
    scores = []
    for d in documents:
        score = 0.0
        for t in query:
            f = d.count(t)
            if f:
                relative = 1 - b + b * len(d) / mean
                saturated = f / (f + k1 * relative)
                c = f / relative
                score += idf[variant](t) * {
                    "lucene": saturated, "robertson": saturated, "bm25+": (k1 + 1) * saturated + delta,
                    "bm25l": (k1 + 1) * (c + delta) / (k1 + c + delta)}.get(variant, (k1 + 1) * saturated)
        scores.append(score)
    return scores


@given(documents=SOME, query=st.lists(st.sampled_from("abcdefgh"), max_size=4),
       variant=st.sampled_from(sorted(VARIANTS)), k1=st.floats(0.1, 3), b=st.floats(0, 1), delta=st.floats(0, 2))
def test_every_variant_is_its_formula(documents, query, variant, k1, b, delta):
    index = build(documents, variant=variant, k1=k1, b=b, delta=delta)
    np.testing.assert_allclose(index.scores(query), formula(documents, query, variant, k1, b, delta), rtol=1e-5,
                               atol=1e-6)


@pytest.mark.parametrize("variant", ["lucene", "robertson", "atire"])
def test_it_is_bm25s(variant):
    rng = np.random.default_rng(0)
    documents = [[f"w{int(i)}" for i in rng.zipf(1.3, rng.integers(1, 80)) if i < 500] for _ in range(300)]
    peer = bm25s.BM25(method=variant, k1=1.2, b=0.6)
    peer.index(documents, show_progress=False)
    index = build(documents, variant=variant, k1=1.2, b=0.6)
    for query in (["w1", "w7", "w30"], ["w2", "w2", "w499"], documents[5]):
        known = [term for term in query if term in index.terms]
        np.testing.assert_allclose(index.scores(query), peer.get_scores(known), atol=1e-5)


def test_a_delta_that_is_not_given_is_the_papers():
    for variant, delta in (("bm25l", 0.5), ("bm25+", 1.0)):
        np.testing.assert_array_equal(build(DOCUMENTS, variant=variant).scores(["quick", "dog"]),
                                      build(DOCUMENTS, variant=variant, delta=delta).scores(["quick", "dog"]))


def test_what_is_found_is_what_shares_a_term_best_first():
    index = build(DOCUMENTS)
    assert [place for place, _ in index.search(["quick", "fox"])] == [0, 3]
    assert [place for place, _ in index.search(["quick", "fox"], k=1)] == [0]
    assert index.search(["zebra"]) == [] and index.search([]) == []
    assert index.scores(["fox", "fox"]) == pytest.approx(2 * index.scores(["fox"]))     # a query may repeat itself


def test_documents_without_terms_are_found_by_nothing():
    index = build([[], []])
    assert index.search(["a"]) == [] and index.scores(["a"]).tolist() == [0, 0]


@pytest.mark.parametrize("wrong, what", [({"variant": "bm26"}, "variant must be one of lucene"), ({"k1": -1}, "k1"),
                                         ({"b": 1.5}, "b must lie")])
def test_what_is_out_of_range_is_refused(wrong, what):
    with pytest.raises(ValueError, match=what):
        build(DOCUMENTS, **wrong)


def test_no_documents_are_an_error():
    with pytest.raises(ValueError, match="no documents"):
        build([])


@pytest.mark.parametrize("documents", [DOCUMENTS, [[7, 7, 300], [300, 2]], [["naïve", "日本", "a\nb"], []]])
def test_a_saved_index_is_mapped_and_answers_alike(documents, tmp_path):
    index = build(documents)
    index.save(tmp_path)
    again = open_index(tmp_path)
    assert isinstance(again.weights, np.memmap) and isinstance(again.documents, np.memmap)
    for document in documents:
        np.testing.assert_array_equal(again.scores(document), index.scores(document))


def test_an_index_written_over_does_not_disturb_who_has_it_open(tmp_path):
    build(DOCUMENTS).save(tmp_path)
    first = open_index(tmp_path)
    before = first.scores(["fox"]).tolist()
    build([["other"]]).save(tmp_path)
    assert first.scores(["fox"]).tolist() == before and open_index(tmp_path).size == 1


def test_half_an_index_is_none(tmp_path):
    build(DOCUMENTS).save(tmp_path)
    (tmp_path / MADE).rename(tmp_path / "kept")
    with pytest.raises(InputError, match="no search index"):
        open_index(tmp_path)
    about = json.loads((tmp_path / "kept").read_text())
    (tmp_path / MADE).write_text(json.dumps(about | {"postings": about["postings"] + 1}))
    with pytest.raises(InputError, match="damaged"):
        open_index(tmp_path)
    assert {path.stem for path in tmp_path.glob("*.npy")} == set(ARRAYS)
