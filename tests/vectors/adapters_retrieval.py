"""Vectors about finding texts: TF-IDF, BM25, fused rankings, PageRank with what it ranks, shared shingles."""

from pathlib import Path

import numpy as np

from bloomery.classic.bm25 import build
from bloomery.classic.fusion import rrf as reciprocal
from bloomery.classic.idf import IDF
from bloomery.classic.pagerank import graph
from bloomery.classic.pagerank import pagerank as rank
from bloomery.classic.postings import best, count
from bloomery.classic.shingles import jaccard, shingles
from bloomery.classic.textrank import sentence_scores, similarities, word_scores
from bloomery.classic.tfidf import TF, TfIdf
from bloomery.classic.words import words


def tfidf(inputs: dict, folder: Path) -> dict:
    documents = [words(text) for text in inputs["documents"]]
    asked = {"sklearn_default": {}, "no_smooth": {"idf": "plus_one"}, "sublinear": {"tf": "sublinear"},
             "no_norm": {"norm": "none"}, "binary": {"tf": "boolean"}, "l1": {"norm": "l1"},
             "textbook_tf_relative_times_ln_N_over_df": {"tf": "relative", "idf": "plain", "norm": "none"}}
    made = {name: TfIdf(documents, **how).matrix.toarray() for name, how in asked.items()}
    postings, size = count(documents), len(documents)
    counts = TfIdf(documents, idf="none", norm="none").matrix.toarray()                 # (N, V)
    lengths, most = postings.lengths[:, None], counts.max(axis=1, initial=0, keepdims=True)
    idf = {name: IDF[name](postings.frequencies, size) for name in ("lucene", "odds")}
    return made | {"vocabulary": postings.terms} | {
        f"tf_{name}": TF[name](counts, lengths, most, np.log) for name in ("augmented", "log1p")} | {
        "idf_bm25_lucene": idf["lucene"], "idf_robertson_may_be_negative": idf["odds"],
        "idf_document001_form_plus_one_outside_log": idf["odds"] + 1}


def tfidf_example(inputs: dict, folder: Path) -> dict:
    tf = TF["relative"](inputs["count"], inputs["doc_length"], inputs["count"], np.log)
    idf = {name: IDF["plain"](inputs["df"], inputs["N"], log) for name, log in (("ln", np.log), ("log10", np.log10))}
    return {"tf": tf} | {f"idf_{name}": value for name, value in idf.items()} | {
        f"tfidf_{name}": tf * value for name, value in idf.items()}


def bm25(inputs: dict, folder: Path) -> dict:
    """rank_bm25 0.2.2 departs from the papers twice: its BM25+ gives delta to documents without the term as well, its
    BM25L multiplies by how often the term stands there."""
    documents, query, b = inputs["documents"], inputs["query"], inputs["b"]

    def scores(variant: str, k1: float = inputs["k1"], asked: list[str] = query) -> np.ndarray:
        return build(documents, variant=variant, k1=k1, b=b).scores(asked)

    lucene = scores("textbook")
    known = [(term, np.array([document.count(term) for document in documents])) for term in query]
    known = [(term, counts) for term, counts in known if counts.any()]
    plus = sum((IDF["bm25+"]((counts > 0).sum(), len(documents)) * (counts == 0) for _, counts in known),
               scores("bm25+"))
    return {"seed_formula_with_lucene_idf_k1_1.5": scores("textbook", 1.5),
            "seed_formula_with_lucene_idf_k1_1.2": scores("textbook", 1.2),
            "seed_formula_with_robertson_idf": scores("odds"), "rank_bm25_okapi": scores("okapi"),
            "rank_bm25_plus": plus,
            "rank_bm25_l": sum((scores("bm25l", asked=[term]) * counts for term, counts in known),
                               np.zeros(len(documents))),
            "bm25s_lucene": scores("lucene"), "bm25s_robertson": scores("robertson"), "bm25s_atire": scores("atire"),
            "ranking_lucene": best(lucene, len(documents))}


def rrf(inputs: dict, folder: Path) -> dict:
    found = reciprocal(inputs["rankings"], k=inputs["k"], weights=inputs.get("weights"))
    return {"scores": found, "ranking": list(found)}


def pagerank(inputs: dict, folder: Path) -> dict:
    personal = inputs["personalization"]
    names, links = graph(inputs["edges"], nodes=inputs.get("nodes", ()))
    start = None if personal is None else [personal.get(name, 0) for name in names]
    return {"scores": dict(zip(names, rank(links, alpha=inputs["alpha"], start=start)))}


def textrank_keywords(inputs: dict, folder: Path) -> dict:
    found = word_scores(inputs["words"], stop=inputs["stopwords"], window=inputs["window"], damping=inputs["damping"])
    return {"scores": found, "ranking": list(found)}


def textrank_sentences(inputs: dict, folder: Path) -> dict:
    tokens = [sentence.lower().split() for sentence in inputs["sentences"]]
    alike = similarities(tokens).toarray()
    return {"similarity": {f"{i},{j}": alike[i, j] for i in range(len(tokens)) for j in range(i + 1, len(tokens))},
            "scores": sentence_scores(tokens, damping=inputs["damping"])}


def jaccard_shingles(inputs: dict, folder: Path) -> dict:
    a, b = (shingles(inputs[name], inputs["k"], unit=inputs["unit"]) for name in "ab")
    return {"n_a": len(a), "n_b": len(b), "intersection": len(a & b), "jaccard": jaccard(a, b)}


RETRIEVAL = {"tfidf": tfidf, "tfidf_example": tfidf_example, "bm25": bm25, "rrf": rrf, "pagerank": pagerank,
             "textrank_keywords": textrank_keywords, "textrank_sentences": textrank_sentences,
             "jaccard_shingles": jaccard_shingles}
