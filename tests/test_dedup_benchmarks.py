"""Cases `minhash` and `substring`: what both sides are given, when a ratio is given, and that our sides work."""

import gzip
import json

import numpy as np
import pytest

from benchmarks import minhash, substring
from benchmarks.__main__ import CASES
from benchmarks.harness import PASSED, Options

pytest.importorskip("numba")


@pytest.fixture
def books(tmp_path):
    """A small book of random words, and an edition that is left out."""
    words = np.random.default_rng(0).choice([a + b + c for a in "bcdfg" for b in "aeiou" for c in "lmnrst"], 60 * 400)
    for path in (tmp_path / "books" / "one.txt.gz", tmp_path / "books" / "near_dup_editions" / "again.txt.gz"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(" ".join(words).encode()))
    return tmp_path


def test_passages_are_copied_and_editions_left_out(books):
    found, pairs = minhash.texts(books, 1000)
    assert (len(found), len(pairs)) == (79, 20)
    likeness = [len(a & b) / len(a | b) for a, b in (map(minhash.shingles, (found[i], found[j])) for i, j in pairs)]
    assert 0.4 < min(likeness) < max(likeness) < 1


def test_our_sides_find_what_theory_says(books):
    loose, strict = (minhash.measure(side, books, 1000) for side in ("ours", "ours, verified"))
    assert minhash.honest(loose) == minhash.honest(strict) == PASSED
    assert strict["theory"] < loose["theory"]
    assert loose["stray"] == 0


@pytest.mark.parametrize(("side", "gate"), [
    ({"recall": 0.57, "theory": 0.56, "error": 0.004, "stray": 0.002}, PASSED),
    ({"recall": 0.53, "theory": 0.56, "error": 0.004, "stray": 0.002}, "failed: a recall of 0.530"),
    ({"recall": 0.53, "theory": 0.56, "error": 0.02, "stray": 0.002}, PASSED),
    ({"recall": 0.56, "theory": 0.56, "error": 0.004, "stray": 0.02}, "failed: 2.0% of all texts")])
def test_the_gate(side, gate):
    assert minhash.honest(side).startswith(gate)


def test_substring_sides_agree(tmp_path):
    pytest.importorskip("pydivsufsort")
    for name in ("books/a.gz", "wikitext-2/wiki.train.tokens.gz", "reuters21578/r.jsonl.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        content = np.random.default_rng(len(name)).integers(97, 123, 6000).astype(np.uint8).tobytes()
        (tmp_path / name).write_bytes(gzip.compress(content + content[:400]))
    one, two = (substring.measure(side, tmp_path, 100_000) for side in ("sorted", "windows"))
    assert one["digest"] == two["digest"]
    assert one["marked"] == 3 * 2 * 201
    assert json.loads(json.dumps(substring.measure("divsufsort", tmp_path, 100_000)))["marked"] == 0


def test_without_texts_nothing_is_run(tmp_path):
    for case in ("minhash", "substring"):
        assert [row.gate[:8] for row in CASES[case](Options(data=tmp_path))] == ["not run:"]
