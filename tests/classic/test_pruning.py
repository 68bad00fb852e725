"""Smaller models: still distributions, the right grams gone, and Stolcke's measure against the whole sum."""

import numpy as np
import pytest

from bloomery.classic.lexicon import START, Lexicon
from bloomery.classic.ngram import Ngram
from bloomery.classic.pruning import by_entropy, cut, opening, paths, without
from bloomery.classic.smoothing import SMOOTHING, mle, witten_bell

SENTENCES = [line.split() for line in (
    "the cat sat on the mat", "the dog sat on the mat", "a cat and a dog sat", "the cat", "on the mat the cat sat",
    "a dog on a mat", "the log and the dog", "a cat sat", "the mat", "dogs")]


def fitted(name: str = "witten_bell", order: int = 3) -> tuple[Ngram, Lexicon, list[np.ndarray]]:
    lexicon, ids = Lexicon.counted(SENTENCES)
    return Ngram(order, len(lexicon), smoothing=SMOOTHING[name](), start=START).fit(ids), lexicon, ids


def histories(model: Ngram) -> list[np.ndarray]:
    return [row[:-1] for n in range(1, len(model.orders) + 1) for row in paths(model.orders, n)]


@pytest.mark.parametrize("name", ["witten_bell", "interpolated", "modified_kneser_ney"])
def test_a_cut_model_is_a_distribution_and_smaller(name):
    model, _, ids = fitted(name)
    small = cut(model, (1, 1, 2))
    assert len(small.orders[2].grams) == (model.orders[2].counts >= 2).sum() < len(model.orders[2].grams)
    assert len(small.orders[1].grams) == len(model.orders[1].grams)
    assert small.nats(ids) > model.nats(ids)
    for history in histories(model):
        assert small.distribution(history).sum() == pytest.approx(1, abs=1e-12)


def test_grams_that_open_longer_ones_stay():
    model, *_ = fitted()
    small = cut(model, (1, 99, 1))
    assert len(small.orders[2].grams) == len(model.orders[2].grams)
    assert len(small.orders[1].grams) == opening(model.orders, 2).sum()
    np.testing.assert_array_equal(paths(small.orders, 3), paths(model.orders, 3))


def test_everything_cut_is_the_order_below():
    model, lexicon, ids = fitted("interpolated", 2)
    unigrams = Ngram(1, len(lexicon), smoothing=SMOOTHING["interpolated"](), start=START).fit(ids)
    np.testing.assert_allclose(cut(model, (99,)).probabilities(ids[0]), unigrams.probabilities(ids[0]), rtol=1e-12)


def test_entropy_pruning_keeps_a_distribution_and_more_pruning_costs_more():
    model, _, ids = fitted()
    sizes, costs = [], []
    for threshold in (0, 1e-4, 1e-3, 1e-2, 1):
        small = by_entropy(model, threshold)
        sizes.append(sum(len(order.grams) for order in small.orders))
        costs.append(small.nats(ids))
        for history in histories(model):
            assert small.distribution(history).sum() == pytest.approx(1, abs=1e-9)
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[2] > sizes[-1] and costs[-1] > costs[0]


def test_what_one_gram_is_worth_is_the_divergence_summed_out():
    """Drop each trigram alone: p(h) sum_w p(w|h) ln(p / p') lies on the side of the threshold it was sorted to."""
    model, *_ = fitted()
    rows = paths(model.orders, 3)
    lost = []
    for history in rows[:, :-1]:
        first = 1.0 if history[0] == START else model.distribution([])[history[0]]
        lost.append(first * model.distribution(history[:1])[history[1]])
    divergence = []
    for row, weight in zip(rows, lost):
        order = model.orders[2]
        p = model.distribution(row[:-1])
        lower = model.distribution(row[1:-1])
        kept = order.grams.symbol[order.grams.following(model.number(row[:-1]))]
        kept = kept[kept != row[-1]]
        share = (1 - p[kept].sum()) / (1 - lower[kept].sum())
        after = np.where(np.isin(np.arange(len(p)), kept), p, share * lower)
        seen = p > 0
        divergence.append(weight * (p[seen] * np.log(p[seen] / after[seen])).sum())
    threshold = float(np.expm1(np.median(divergence))) * (1 + 1e-9)
    gone = {tuple(row) for row in rows} - {tuple(row) for row in paths(by_entropy(model, threshold).orders, 3)}
    assert gone == {tuple(row) for row, value in zip(rows, divergence) if np.expm1(value) < threshold}


def test_dropping_nothing_changes_nothing():
    model, _, ids = fitted()
    order = model.orders[1]
    same = without(model.orders, 2, np.zeros(len(order.grams), bool), order.own, order.share)
    np.testing.assert_array_equal(same[2].grams.keys, model.orders[2].grams.keys)
    np.testing.assert_array_equal(by_entropy(model, 0).probabilities(ids[0]), model.probabilities(ids[0]))


def test_what_never_backs_off_cannot_be_pruned_by_entropy():
    model = Ngram(2, 3, smoothing=mle()).fit([[0, 1, 2]])
    with pytest.raises(ValueError, match="never backs off"):
        by_entropy(model, 1e-8)
    assert len(by_entropy(Ngram(2, 3, smoothing=witten_bell()).fit([[0, 1, 2]]), 0).orders) == 2
