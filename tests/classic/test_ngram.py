"""N-grams: probabilities that sum to one, equal to a dictionary written straight from the formula."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.classic.ngram import Ngram
from bloomery.classic.smoothing import SMOOTHING

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
        assert sorted(model.orders[n].counts) == sorted(other.orders[n].counts)
        np.testing.assert_allclose(sorted(model.orders[n].share), sorted(other.orders[n].share), rtol=1e-12)
    total = sum(model.probabilities(np.append(words[0][:6], w))[-1] for w in range(0, 50_000))
    assert total == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", SMOOTHING)
@pytest.mark.parametrize("history", [b"", b"t", b"the c", b"on and on"])
def test_every_smoothing_is_a_distribution_after_what_it_has_seen(name, history):
    model = Ngram(4, smoothing=SMOOTHING[name]()).fit(RHYME)
    assert model.distribution(history).sum() == pytest.approx(1, abs=1e-12)
    each = [model.probabilities(history + bytes([b]))[-1] for b in range(256)]
    np.testing.assert_allclose(model.distribution(history), each, atol=1e-15)


def test_a_long_text_is_scored_in_chunks_as_in_one(monkeypatch):
    text = b"".join(RHYME) * 3
    whole = Ngram(5).fit(RHYME).probabilities(text)
    monkeypatch.setattr("bloomery.classic.ngram.CHUNK", 7)
    chunked = Ngram(5).fit(RHYME)
    np.testing.assert_array_equal(chunked.probabilities(text), whole)
    together = chunked.batched([text, b"", b"the cat", text])
    np.testing.assert_array_equal(together[0], whole)
    assert [len(p) for p in together] == [len(text), 0, 7, len(text)]
    np.testing.assert_array_equal(together[2], chunked.probabilities(b"the cat"))


def test_the_start_symbol_is_a_context_and_is_never_predicted():
    documents = [[0, 1, 2], [0, 2, 2, 1]]
    model = Ngram(3, 3, start=0).fit(documents)
    assert model.size == 2
    assert len(model.probabilities([0, 1, 2])) == 2
    assert model.score(documents).symbols == 5
    assert model.distribution([0])[0] == 0 and model.distribution([0]).sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="must begin with the start symbol 0"):
        Ngram(2, 3, start=0).fit([[1, 2]])


def test_nats_bits_and_perplexity_are_one_number_in_three_units():
    score = Ngram(1, 8, smoothing=SMOOTHING["add_k"](1e9)).fit([list(range(8))]).score([[1, 2, 3]])
    assert score.bits_per_symbol == pytest.approx(3) and score.perplexity == pytest.approx(8)
    assert score.nats_per_symbol == pytest.approx(2.0794415416798357)


def test_what_is_impossible_costs_infinitely_much_and_is_no_error():
    score = Ngram(2, smoothing=SMOOTHING["mle"]()).fit([b"ab"]).score([b"aa"])
    assert score.nats == float("inf") and score.perplexity == float("inf")


def test_samples_follow_the_text_and_end_where_they_shall():
    model = Ngram(3, smoothing=SMOOTHING["mle"]()).fit([b"abcabcabc."])
    assert bytes(model.sample(5, history=b"ab")) == b"cabca" or bytes(model.sample(5, history=b"ab"))[:1] == b"c"
    drawn = [bytes(model.sample(50, history=b"ab", stop=ord("."), seed=seed)) for seed in range(20)]
    assert all(text.endswith(b".") for text in drawn) and len(set(drawn)) > 3
    assert model.sample(5, history=b"c.") == []             # nothing ever followed


def test_sampling_draws_in_proportion():
    model = Ngram(1, 4, smoothing=SMOOTHING["mle"]()).fit([[0, 1, 1, 3]])
    drawn = np.bincount(model.sample(4000, seed=1), minlength=4) / 4000
    np.testing.assert_allclose(drawn, [0.25, 0.5, 0, 0.25], atol=0.03)


def test_symbols_outside_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"symbols must lie in \[0, 4\), got 4"):
        Ngram(2, 4).fit([[0, 4]])
    with pytest.raises(ValueError, match=r"got -1"):
        Ngram(2, 4).fit([[0, 1]]).probabilities([-1])


def test_hashing_finds_the_same_grams_as_a_direct_table(monkeypatch):
    text = np.random.default_rng(0).integers(0, 50, 3000)
    direct = Ngram(4, 50).fit([text]).probabilities(text[::-1])
    monkeypatch.setattr("bloomery.classic.grams.DIRECT", 0)
    hashed = Ngram(4, 50).fit([text])
    assert len(hashed.orders[3].grams.slots) < 3 * 4096 and (hashed.orders[3].grams.slots >= 0).sum() == \
        len(hashed.orders[3].grams)
    np.testing.assert_array_equal(hashed.probabilities(text[::-1]), direct)
