"""Smoothing: every method against its formula written out with dictionaries, the discounts, and kenlm and NLTK."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.classic.grams import tallied
from bloomery.classic.jelinek_mercer import fit_interpolated
from bloomery.classic.lexicon import END, START, Lexicon
from bloomery.classic.ngram import Ngram
from bloomery.classic.smoothing import (
    FALLBACK,
    SMOOTHING,
    add_k,
    discounts,
    interpolated,
    kneser_ney,
    mle,
    nltk_kneser_ney,
)

SENTENCES = [line.split() for line in (
    "the cat sat on the mat", "the dog sat on the mat", "a cat and a dog sat", "the cat", "on the mat the cat sat",
    "a dog on a mat", "the log and the dog", "a cat sat", "the mat", "dogs")]
ASKED = [line.split() for line in ("the dog sat", "a cat on the log", "cats and dogs", "mat", "the the the")]


def oracle(name: str, sentences: list[list[str]], order: int, size: int, weight: float = 0.5):
    """p(word | history) of a smoothing, one gram at a time; histories hold their `<s>`."""
    padded = [("<s>", *sentence, "</s>") for sentence in sentences]
    grams = {n: Counter(s[i:i + n] for s in padded for i in range(len(s) - n + 1)) for n in range(1, order + 2)}
    del grams[1]["<s>",]
    if "kneser_ney" in name:
        for n in range(1, order):
            left = defaultdict(set)
            for gram in grams[n + 1]:
                left[gram[1:]].add(gram[0])
            grams[n] = Counter({gram: len(left[gram]) or count for gram, count in grams[n].items()})

    def probability(history: tuple[str, ...], word: str, n: int) -> float:
        if n == 0:
            return 1 / size
        counts = grams[n]
        context = history[len(history) - n + 1:]
        after = {gram: c for gram, c in counts.items() if gram[:-1] == context and c}
        total, own, kinds = sum(after.values()), after.get((*context, word), 0), len(after)
        if name == "add_k":
            return (own + 0.5) / (total + 0.5 * size)
        if name == "mle":
            return own / total if total else 0
        lower = probability(history, word, n - 1)
        if not total:
            return lower
        if name == "witten_bell":
            return (own + kinds * lower) / (total + kinds)
        if name == "interpolated":
            return weight * own / total + (1 - weight) * lower
        n1, n2, n3, n4 = (sum(c == k for c in counts.values()) for k in (1, 2, 3, 4))
        d1 = d2 = d3 = n1 / (n1 + 2 * n2) if n1 else 0.5
        if name.startswith("modified"):
            d1, d2, d3 = FALLBACK
            if n1 and n2 and n3:
                y = n1 / (n1 + 2 * n2)
                found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
                d1, d2, d3 = found if all(0 <= d <= k + 1 for k, d in enumerate(found)) else FALLBACK

        def taken(count: int) -> float:
            return {0: 0, 1: d1, 2: d2}.get(count, d3)
        return (max(own - taken(own), 0) + sum(map(taken, after.values())) * lower) / total

    return lambda history, word: probability(history, word, min(order, len(history) + 1))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["mle", "add_k", "interpolated", "witten_bell", "absolute", "kneser_ney",
                                  "modified_kneser_ney"])
def test_it_is_the_formula(name, order):
    lexicon, ids = Lexicon.counted(SENTENCES)
    smoothing = add_k(0.5) if name == "add_k" else SMOOTHING[name]()
    model = Ngram(order, len(lexicon), smoothing=smoothing, start=START).fit(ids)
    expected = oracle(name, SENTENCES, order, lexicon.predictable)
    for sentence in (*ASKED, *SENTENCES):
        padded = ("<s>", *(word if word in lexicon.numbers else "<unk>" for word in sentence), "</s>")
        wanted = [expected(padded[:i], padded[i]) for i in range(1, len(padded))]
        np.testing.assert_allclose(model.probabilities(lexicon.ids(sentence)), wanted, rtol=1e-12)


@settings(max_examples=30)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6), min_size=1, max_size=6), st.integers(1, 4),
       st.sampled_from(["witten_bell", "absolute", "kneser_ney", "modified_kneser_ney"]))
def test_rows_sum_to_one_whatever_the_text(sentences, order, name):
    lexicon, ids = Lexicon.counted(sentences)
    model = Ngram(order, len(lexicon), smoothing=SMOOTHING[name](), start=START).fit(ids)
    for sentence in sentences:
        assert model.distribution(lexicon.ids(sentence)[:-1]).sum() == pytest.approx(1, abs=1e-9)
        assert model.distribution(lexicon.ids(sentence)[:-1]).min() >= 0


def test_the_last_word_of_a_text_is_no_history():
    """Errata 1.3: dividing by the count of a word, not by its count as a history, makes rows that do not sum to 1."""
    model = Ngram(2, 3, smoothing=mle()).fit([[0, 1, 0, 2, 0]])
    np.testing.assert_allclose(model.distribution([0]), [0, 0.5, 0.5])             # 2 of 3 zeros go on: not 1/3 each
    assert model.distribution([0]).sum() == 1


def test_the_discounts_of_modified_kneser_ney():
    """n1..n4 = 10, 5, 2, 1: Y = 1/2, D1 = 1 - 1/2, D2 = 2 - 3/2 * 2/5, D3+ = 3 - 2 * 1/2."""
    counts = [1] * 10 + [2] * 5 + [3] * 2 + [4]
    text = [symbol for symbol, count in enumerate(counts) for _ in range(count)]
    tally = tallied([text], 1, len(counts), size=len(counts))[0]
    assert discounts(tally) == pytest.approx((0.5, 1.4, 2.0))


def test_a_text_too_small_for_discounts_has_those_of_kenlm():
    assert discounts(tallied([[0, 1, 2]], 1, 3, size=3)[0]) == FALLBACK


def test_kneser_ney_prefers_the_versatile_word_to_the_frequent_one():
    """`francisco` is frequent but follows only `san`: after a new word it is the less likely."""
    text = "san francisco . " * 8 + "my glasses . your glasses . new glasses . a b c ."
    lexicon, ids = Lexicon.counted([text.split()])
    model = Ngram(2, len(lexicon), smoothing=kneser_ney(0.75), start=START).fit(ids)
    after = model.distribution(lexicon.ids(["c"])[:-1])
    flat = Ngram(1, len(lexicon), smoothing=mle(), start=START).fit(ids).distribution([START])
    glasses, francisco = lexicon.numbers["glasses"], lexicon.numbers["francisco"]
    assert flat[francisco] > flat[glasses] and after[glasses] > after[francisco]


def test_held_out_weights_are_the_best_there_are():
    lexicon, ids = Lexicon.counted(SENTENCES[:6])
    held_out = [lexicon.ids(sentence) for sentence in SENTENCES[6:]]
    model = Ngram(3, len(lexicon), start=START)
    weights = fit_interpolated(model, ids, held_out, rounds=200)
    best = model.nats(held_out)
    for n in range(3):
        for step in (-0.02, 0.02):
            moved = tuple(min(max(w + step * (i == n), 0), 1) for i, w in enumerate(weights))
            other = Ngram(3, len(lexicon), start=START, smoothing=interpolated(moved)).fit(ids)
            assert other.nats(held_out) >= best - 1e-3


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="k must be above 0"):
        add_k(0)
    with pytest.raises(ValueError, match="weights must lie"):
        Ngram(1, 2, smoothing=interpolated(1.5)).fit([[0, 1]])


def test_words_that_were_never_seen_are_unknown():
    lexicon = Lexicon(["cat", "<unk>", "sat"])
    assert lexicon.words == ["<unk>", "<s>", "</s>", "cat", "sat"] and lexicon.predictable == 4
    assert lexicon.ids(["cat", "dog"]).tolist() == [START, 3, 0, END]
    assert lexicon.sentence([START, 3, 0, END]) == ["cat", "<unk>"]


@pytest.mark.parametrize(("name", "order"), [("mle", 2), ("mle", 3), ("add_k", 2), ("add_k", 3),
                                             ("nltk_kneser_ney", 2)])
def test_it_is_what_nltk_has(name, order):
    """NLTK counts left neighbours differently above order 2, and `<s>` among the words of Witten-Bell's first order."""
    lm, ngrams = pytest.importorskip("nltk.lm"), pytest.importorskip("nltk.util").ngrams
    theirs, ours = {"mle": (lm.MLE(order), mle()), "add_k": (lm.Lidstone(0.5, order), add_k(0.5)),
                    "nltk_kneser_ney": (lm.KneserNeyInterpolated(order, 0.1), nltk_kneser_ney(0.1))}[name]
    padded = [["<s>", *sentence, "</s>"] for sentence in SENTENCES]
    theirs.fit([[gram for n in range(1, order + 1) for gram in ngrams(s, n)] for s in padded],
               [word for s in padded for word in s])
    lexicon, ids = Lexicon.counted(SENTENCES)
    model = Ngram(order, len(lexicon), smoothing=ours, start=START, size=len(theirs.vocab)).fit(ids)
    for sentence in SENTENCES[:4]:
        words = ["<s>", *sentence, "</s>"]
        expected = [theirs.score(words[i], words[i - order + 1:i]) for i in range(order - 1, len(words))]
        np.testing.assert_allclose(model.probabilities(lexicon.ids(sentence))[order - 2:], expected, rtol=1e-9)
