"""TF-IDF: every form by its formula, the defaults equal to scikit-learn, the worked example, ranking and keywords."""

import math
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from bloomery.classic.idf import IDF
from bloomery.classic.postings import best, count
from bloomery.classic.tfidf import NORMS, TF, TfIdf
from bloomery.core.errors import BloomeryError

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "cats and dogs and the cat", "", "mat"]
DOCUMENTS = [text.split() for text in TEXTS]
SOME = st.lists(st.lists(st.sampled_from("abcde"), max_size=8), min_size=1, max_size=6)


@pytest.mark.parametrize("ours, theirs", [
    ({}, {}), ({"idf": "plus_one"}, {"smooth_idf": False}), ({"tf": "sublinear"}, {"sublinear_tf": True}),
    ({"tf": "boolean"}, {"binary": True}), ({"norm": "l1"}, {"norm": "l1"}), ({"norm": "none"}, {"norm": None}),
    ({"idf": "none"}, {"use_idf": False})])
def test_it_is_scikit_learn(ours, theirs):
    peer = TfidfVectorizer(token_pattern=r"\b\w+\b", **theirs)
    expected, made = peer.fit_transform(TEXTS).toarray(), TfIdf(DOCUMENTS, **ours)
    assert made.terms == list(peer.get_feature_names_out())
    np.testing.assert_allclose(made.matrix.toarray(), expected, rtol=1e-12, atol=1e-12)
    new = ["the the unknown cat", "", "nobody knows"]
    np.testing.assert_allclose(made.vectors([text.split() for text in new]).toarray(),
                               peer.transform(new).toarray(), rtol=1e-12, atol=1e-12)


@given(documents=SOME, tf=st.sampled_from(sorted(TF)), idf=st.sampled_from(sorted(IDF)),
       norm=st.sampled_from(sorted(NORMS)))
def test_every_form_is_its_formula(documents, tf, idf, norm):
    """A dictionary at a time: weights of the terms a document holds, divided by their norm."""
    made, total = TfIdf(documents, tf=tf, idf=idf, norm=norm), len(documents)
    n = Counter(term for document in documents for term in set(document))
    odds = {t: math.log((total - n[t] + 0.5) / (n[t] + 0.5)) for t in n}
    mean = sum(odds.values()) / len(odds) if odds else 0
    formulas = {"plain": lambda t: math.log(total / n[t]), "plus_one": lambda t: math.log(total / n[t]) + 1,
                "smooth": lambda t: math.log((1 + total) / (1 + n[t])) + 1, "odds": odds.__getitem__,
                "robertson": lambda t: max(odds[t], 0), "okapi": lambda t: odds[t] if odds[t] >= 0 else mean / 4,
                "lucene": lambda t: math.log(1 + (total - n[t] + 0.5) / (n[t] + 0.5)), "none": lambda t: 1,
                "bm25l": lambda t: math.log((total + 1) / (n[t] + 0.5)),
                "bm25+": lambda t: math.log((total + 1) / n[t])}
    for document, row in zip(documents, made.matrix.toarray(), strict=True):
        f = Counter(document)
        most = max(f.values(), default=0)
        tfs = {"raw": lambda c: c, "relative": lambda c, d=document: c / len(d), "boolean": lambda c: 1,
               "log1p": lambda c: math.log(1 + c), "sublinear": lambda c: 1 + math.log(c),
               "augmented": lambda c, m=most: 0.5 + 0.5 * c / m}
        weights = {t: tfs[tf](c) * formulas[idf](t) for t, c in f.items()}
        size = {"l2": math.hypot(*weights.values()), "l1": sum(map(abs, weights.values())), "none": 1}[norm] or 1
        expected = [weights.get(term, 0) / size for term in made.terms]
        np.testing.assert_allclose(row, expected, rtol=1e-9, atol=1e-12)


def test_the_worked_example_with_either_logarithm():
    """3 times among 100 words, in 1000 of 10 million documents: ln gives 9.21, the 4 that is printed is log10."""
    tf = TF["relative"](np.array(3), np.array(100), np.array(3), np.log)
    assert tf * IDF["plain"](1000, 10_000_000) == pytest.approx(0.2763102)
    assert tf * IDF["plain"](1000, 10_000_000, np.log10) == pytest.approx(0.12)


def test_one_added_outside_the_logarithm_is_still_negative():
    everywhere, total = np.array([4]), 4
    assert IDF["odds"](everywhere, total) + 1 < 0 < IDF["lucene"](everywhere, total)
    assert IDF["plain"](everywhere, total) == 0 and IDF["smooth"](everywhere, total) == 1


def test_the_base_of_the_logarithm_is_a_parameter():
    natural, decimal = (TfIdf(DOCUMENTS, tf="log1p", idf="plain", norm="none", base=base).matrix.toarray()
                        for base in (math.e, 10))
    np.testing.assert_allclose(natural / math.log(10) ** 2, decimal, rtol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_ranking_is_by_cosine_whatever_the_norm(norm):
    made = TfIdf(DOCUMENTS, norm=norm)
    plain = TfIdf(DOCUMENTS, norm="none").matrix.toarray()
    query = TfIdf(DOCUMENTS, norm="none").vectors([["cat", "mat", "zebra"]]).toarray()[0]
    sizes = np.linalg.norm(plain, axis=1) * np.linalg.norm(query)
    expected = np.divide(plain @ query, sizes, out=np.zeros(len(sizes)), where=sizes > 0)
    np.testing.assert_allclose(made.scores(["cat", "mat", "zebra"]), expected, rtol=1e-12)
    assert [place for place, _ in made.search(["cat", "mat"])] == [4, 0, 2]     # only what shares a term is found
    assert made.search(["zebra"]) == [] and made.search([]) == []


def test_keywords_are_frequent_here_and_rare_elsewhere():
    made = TfIdf(DOCUMENTS)
    assert [term for term, _ in made.keywords(["cat", "the", "dogs", "dogs", "nobody"], 2)] == ["dogs", "cat"]
    assert made.keywords(["nobody"]) == [] and made.keywords([]) == []
    assert TfIdf([[], []]).search(["a"]) == [] and TfIdf([[], []]).keywords(["a"]) == []


@pytest.mark.parametrize("wrong", [{"tf": "often"}, {"idf": "rare"}, {"norm": "l3"}, {"base": 1.0}])
def test_what_is_unknown_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TfIdf(DOCUMENTS, **wrong)


@given(documents=SOME)
def test_postings_are_what_was_counted(documents):
    postings = count(iter(documents))
    for number, term in enumerate(postings.terms):
        own = slice(postings.starts[number], postings.starts[number + 1])
        expected = {place: document.count(term) for place, document in enumerate(documents) if term in document}
        assert dict(zip(postings.documents[own].tolist(), postings.counts[own].tolist())) == expected
        assert list(expected) == postings.documents[own].tolist()
    assert postings.terms == sorted({term for document in documents for term in document})
    assert postings.lengths.tolist() == list(map(len, documents))


def test_token_ids_are_terms_too():
    assert count([[7, 7, 300], [300]]).terms == [7, 300]


def test_a_missing_scipy_is_said_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(BloomeryError, match="scipy is not installed") as error:
        TfIdf(DOCUMENTS)
    assert error.value.hint == "pip install 'bloomery[text]'"


def test_no_documents_are_an_error():
    with pytest.raises(ValueError, match="no documents"):
        count([])


@given(scores=st.lists(st.integers(0, 3), min_size=1, max_size=12), k=st.integers(1, 14))
def test_of_equal_scores_the_lowest_place_is_best(scores, k):
    expected = sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:k]
    assert best(np.array(scores, np.float32), k).tolist() == expected


def test_nothing_cannot_be_the_best():
    with pytest.raises(ValueError, match="k must be at least 1"):
        best(np.zeros(3), 0)
