"""Real questions to real abstracts: Cranfield's, which need the public texts (`BLOOMERY_DATA`)."""

import os
from pathlib import Path

import bm25s
import numpy as np
import pytest

from benchmarks.bm25 import answered, cranfield, equal_scores, measure, run
from benchmarks.harness import Options
from bloomery.classic.bm25 import build
from bloomery.classic.words import words

DATA = Path(os.environ.get("BLOOMERY_DATA", Path(__file__).parents[3] / "shared" / "data")).absolute()
needs_data = pytest.mark.skipif(not (DATA / "cranfield").is_dir(), reason=f"no cranfield in {DATA}: set BLOOMERY_DATA")


@needs_data
def test_scores_are_those_of_bm25s():
    texts, questions, relevant = cranfield(DATA)
    assert (len(texts), len(questions), sum(map(len, relevant))) == (1400, 225, 1612)
    documents = [words(text) for text in texts]
    index, peer = build(documents), bm25s.BM25(method="lucene")
    peer.index(documents, show_progress=False)
    for question in questions:
        asked = [word for word in words(question) if word in index.terms]
        np.testing.assert_allclose(index.scores(asked), peer.get_scores(asked), atol=1e-5)


@needs_data
def test_questions_are_answered_and_fusing_helps():
    found = answered(DATA)
    assert found["bm25"] > 0.375 and found["tfidf"] > 0.375 and found["rrf"] >= max(found.values())


def test_the_gate_of_the_comparison_sees_a_difference():
    assert equal_scores({"scores": [[1.0, 0.5]]}, {"scores": [[1.0, 0.500001, 0.0]]}) == "passed"
    assert equal_scores({"scores": [[1.0]]}, {"scores": [[1.001]]}).startswith("failed: scores differ by 1.0e-03")


def test_without_the_texts_nothing_is_compared(tmp_path):
    assert [row.gate[:8] for row in run(Options(data=tmp_path))] == ["not run:"]


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "reuters21578").is_dir(), reason=f"no reuters21578 in {DATA}: set BLOOMERY_DATA")
def test_both_sides_of_the_comparison_measure_the_same_work():
    sides = [measure(name, DATA, 1) for name in ("ours", "bm25s")]
    assert equal_scores(*sides) == "passed" and sides[0]["terms"] == sides[1]["terms"] > 2e6
