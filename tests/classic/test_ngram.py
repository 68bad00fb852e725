"""N-grams: probabilities that sum to one, equal to a dictionary written straight from the formula."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.classic.ngram import Ngram

RHYME = [b"the cat sat on the mat", b"the dog sat on the log", b"a cat and a dog", b"", b"at", b"on and on and on"]
DOCUMENTS = st.lists(st.binary(max_size=12) | st.text(alphabet="ab", max_size=12).map(str.encode), min_size=1,
                     max_size=6).filter(any)


class Oracle:
    """Interpolated Kneser-Ney with dictionaries, one gram at a time."""

    def __init__(self, documents: list[bytes], order: int):
        self.counts: dict[int, dict[bytes, int]] = {}
        self.order = order = min(order, max(map(len, documents)))
        grams = {n: Counter(d[i:i + n] for d in documents for i in range(len(d) - n + 1)) for n in range(1, order + 2)}
        for n in range(1, order + 1):
            left = defaultdict(set)
            for gram in grams[n + 1]:
                left[gram[1:]].add(gram[0])
            self.counts[n] = grams[n] if n == order else {gram: max(len(left[gram]), 1) for gram in grams[n]}

    def probability(self, history: bytes, byte: int) -> float:
        p = 1 / 256
        for n in range(1, min(self.order, len(history) + 1) + 1):
            context, counts = history[len(history) - n + 1:], self.counts[n]
            follows = {gram: c for gram, c in counts.items() if gram[:-1] == context}
            if follows:
                once, twice = (sum(c == k for c in counts.values()) for k in (1, 2))
                d = once / (once + 2 * twice) if once else 0.5
                own, total = follows.get(context + bytes([byte]), 0), sum(follows.values())
                p = max(own - d, 0) / total + d * len(follows) / total * p
        return p


@pytest.mark.parametrize("order", [1, 2, 3, 5, 9])
def test_it_is_the_formula(order):
    model, oracle = Ngram(order).fit(RHYME), Oracle(RHYME, order)
    for document in (*RHYME, b"the hat sat", b"zzz", b"t"):
        expected = [oracle.probability(document[:i], byte) for i, byte in enumerate(document)]
        np.testing.assert_allclose(model.probabilities(document), expected, rtol=1e-12)


@settings(max_examples=40)
@given(documents=DOCUMENTS, asked=st.binary(max_size=9), order=st.integers(1, 5))
def test_it_is_the_formula_for_any_bytes(documents, asked, order):
    model, oracle = Ngram(order).fit(documents), Oracle(documents, order)
    for document in (asked, documents[0]):
        expected = [oracle.probability(document[:i], byte) for i, byte in enumerate(document)]
        np.testing.assert_allclose(model.probabilities(document), expected, rtol=1e-12)


@pytest.mark.parametrize("context", [b"", b"t", b"the c", b"zq", b"on and on", bytes(range(7))])
def test_probabilities_sum_to_one(context):
    model = Ngram(5).fit(RHYME)
    assert sum(model.probabilities(context + bytes([b]))[-1] for b in range(256)) == pytest.approx(1, abs=1e-12)


def test_longer_contexts_help():
    text = " ".join(f"{a} plus {b} is {a + b}." for a in range(30) for b in range(10)).encode()
    documents = [text[i:i + 400] for i in range(0, len(text), 400)]
    cost = [Ngram(order).fit(documents[::2]).nats(documents[1::2]) for order in (1, 2, 3, 5)]
    assert cost == sorted(cost, reverse=True) and cost[-1] < 0.4 * cost[0]


def test_documents_are_scored_each_on_its_own():
    model = Ngram(4).fit(RHYME)
    assert model.nats([b"the cat", b"", b"a dog"]) == pytest.approx(model.nats([b"the cat"]) + model.nats([b"a dog"]))


def test_an_order_below_one_is_refused():
    with pytest.raises(ValueError, match="order must be at least 1"):
        Ngram(0)


def test_nothing_to_count_is_an_error():
    with pytest.raises(ValueError, match="nothing to count"):
        Ngram().fit([b"", b""])


def test_words_of_a_large_vocabulary_are_counted_as_bytes_are():
    """The same text under another numbering of its symbols has the same probabilities, but for the uniform order."""
    spread = np.random.default_rng(0).permutation(50_000)[:256]
    words = [spread[list(d)] for d in RHYME]
    model, other = Ngram(4, 50_000).fit(words), Ngram(4).fit(RHYME)
    for n in range(4):
        assert model.orders[n].discount == other.orders[n].discount
        assert sorted(model.orders[n].counts) == sorted(other.orders[n].counts)
    total = sum(model.probabilities(np.append(words[0][:6], w))[-1] for w in range(0, 50_000))
    assert total == pytest.approx(1, abs=1e-9)
