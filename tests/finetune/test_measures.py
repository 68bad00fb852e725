"""Figures of tasks against scikit-learn and scipy."""

import numpy as np
import pytest

from bloomery.finetune.measures import any_label, matthews, numbers, one_label, spans, tags

DRAW = np.random.default_rng(0)


@pytest.mark.parametrize("classes", [2, 5])
def test_one_label_is_scored_as_scikit_learn_does(classes):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, truths = DRAW.normal(size=(300, classes)), DRAW.integers(0, classes, 300)
    scores[np.arange(200), truths[:200]] += 1.5
    figures, card = one_label(scores, truths, [f"c{i}" for i in range(classes)])
    guesses = scores.argmax(1)
    assert figures["accuracy"] == metrics.accuracy_score(truths, guesses)
    assert figures["macro_f1"] == pytest.approx(metrics.f1_score(truths, guesses, average="macro"))
    assert figures["matthews"] == pytest.approx(metrics.matthews_corrcoef(truths, guesses))
    assert card["confusion"] == metrics.confusion_matrix(truths, guesses).tolist()
    assert sum(each["count"] for each in card["reliability"]) == 300
    assert figures["ece_calibrated"] < figures["ece"] + 0.05
    assert matthews(np.array([[5, 0], [3, 0]])) == 0


def test_any_label_and_numbers_are_scored_as_scikit_learn_and_scipy_do():
    metrics, stats = pytest.importorskip("sklearn.metrics"), pytest.importorskip("scipy.stats")
    scores, truths = DRAW.normal(size=(200, 4)), DRAW.integers(0, 2, (200, 4))
    figures, _ = any_label(scores, truths, list("abcd"))
    assert figures["micro_f1"] == pytest.approx(metrics.f1_score(truths, scores > 0, average="micro"))
    assert figures["macro_f1"] == pytest.approx(metrics.f1_score(truths, scores > 0, average="macro"))
    assert figures["exact_match"] == metrics.accuracy_score(truths, scores > 0)
    x, y = np.round(DRAW.normal(size=(80, 1)), 1), np.round(DRAW.normal(size=(80, 1)), 1)
    found, _ = numbers(x, y, ())
    assert found["pearson"] == pytest.approx(stats.pearsonr(x[:, 0], y[:, 0])[0])
    assert found["spearman"] == pytest.approx(stats.spearmanr(x[:, 0], y[:, 0])[0])


def test_tags_are_scored_by_the_tag_and_by_the_whole_span():
    true = [["B-P", "I-P", "O", "B-L"], ["O", "I-L"]]
    said = [["B-P", "O", "O", "B-L"], ["O", "B-L"]]
    assert spans(true[0]) == {(0, 2, "P"), (3, 4, "L")} and spans(["B-P", "B-P"]) == {(0, 1, "P"), (1, 2, "P")}
    figures, card = tags(said, true)
    assert figures["accuracy"] == 4 / 6
    assert (figures["span_precision"], figures["span_recall"]) == (2 / 3, 2 / 3)    # a span that is cut is wrong
    assert card["per_class"]["B-P"]["f1"] == 1.0
