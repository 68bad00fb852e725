"""The linear classifier learns what is linear, says how sure it may be, and is the same from its files."""

import numpy as np
import pytest

from bloomery.classic.linear import (
    Linear,
    calibration_error,
    cross_entropy,
    fitted_temperature,
    softmax,
)
from bloomery.core.errors import InputError

NOUNS = ("river", "boat", "sea", "stone", "field", "garden", "winter", "road")


def made(count: int, seed: int, noise: float = 0.0) -> tuple[list[str], list[str]]:
    """Texts of nouns whose class is their word of judgement, `not` before it turns it; `noise` is the share of lies."""
    generator, texts, labels = np.random.default_rng(seed), [], []
    for _ in range(count):
        good, turned = generator.integers(2, size=2)
        texts.append(" ".join(["the", *generator.choice(NOUNS, 4), "is", *["not"] * turned, ("bad", "good")[good]]))
        labels.append(("-", "+")[(good ^ turned) ^ int(generator.random() < noise)])
    return texts, labels


def accuracy(model: Linear, texts: list[str], labels: list[str]) -> float:
    return np.mean([a == b for a, b in zip(model.predict(texts), labels)])


def test_pairs_of_words_say_what_words_cannot():
    """`not good` is bad: with single words the task is XOR and cannot be learned."""
    train, test = made(600, 0), made(200, 1)
    pairs = Linear.train(*train, bits=12)
    assert accuracy(pairs, *test) == 1 and pairs.classes == ["+", "-"]
    assert accuracy(Linear.train(*train, bits=12, order=1), *test) < 0.7
    assert Linear.train(*train, bits=12).probabilities(test[0]) == pytest.approx(pairs.probabilities(test[0]), abs=0)


def test_chances_are_as_often_right_as_they_say():
    train, test = made(2000, 0, noise=0.2), made(2000, 1, noise=0.2)
    model = Linear.train(*train, bits=14, epochs=20, order=3)
    truths = np.array([model.classes.index(label) for label in test[1]])
    found = model.probabilities(test[0])
    raw = softmax(model.scores(model.rows(test[0])))
    assert model.temperature > 1.2                                          # it learned lies by heart
    assert calibration_error(found, truths) < 0.07 and calibration_error(found, truths) < calibration_error(raw, truths)
    assert found.argmax(axis=1).tolist() == raw.argmax(axis=1).tolist()


def test_the_gradient_is_that_of_the_loss():
    """One step from nothing goes down along every weight by the rate, as the first step of AdaGrad does."""
    texts, truths = ["good boat", "bad sea"], np.array([0, 1])
    model = Linear(["+", "-"], np.zeros((256, 2)), np.zeros(2))
    rows = model.rows(texts)
    loss = cross_entropy(model.scores(rows), truths)
    assert loss == pytest.approx(np.log(2))
    bucket = rows.buckets[0]
    model.weights[bucket, 0] = 1e-6
    slope = (cross_entropy(model.scores(rows), truths) - loss) / 1e-6
    model.weights[bucket, 0] = 0
    squares = np.zeros_like(model.weights), np.full_like(model.bias, 1e-8)
    model.step(rows, truths, squares, rate=1e-3, penalty=0.0)
    assert squares[0][bucket, 0] == pytest.approx(slope**2, rel=1e-3)
    assert model.weights[bucket, 0] == pytest.approx(-1e-3 * np.sign(slope))


def test_a_temperature_is_found():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(20_000, 3))
    truths = np.array([generator.choice(3, p=row) for row in softmax(scores)])
    assert fitted_temperature(4 * scores, truths) == pytest.approx(4, rel=0.05)
    assert fitted_temperature(scores / 3, truths) == pytest.approx(1 / 3, rel=0.05)


def test_calibration_by_hand():
    chances = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    assert calibration_error(chances, np.array([0, 1, 0, 0]), bins=10) == pytest.approx((2 * 0.4 + 2 * 0.1) / 4)


def test_it_is_the_same_from_its_files(tmp_path):
    texts, labels = made(200, 0)
    model = Linear.train(texts, labels, bits=10)
    model.save(tmp_path / "kept")
    again = Linear.load(tmp_path / "kept")
    assert again.probabilities(["", *texts]) == pytest.approx(model.probabilities(["", *texts]), abs=1e-5)
    np.save(tmp_path / "kept" / "weights.npy", model.weights[:, :1])
    with pytest.raises(InputError, match="no linear classifier") as caught:
        Linear.load(tmp_path / "kept")
    assert "belong together" in caught.value.why
    with pytest.raises(InputError, match="no linear classifier"):
        Linear.load(tmp_path / "nothing")


def test_one_class_is_an_error():
    with pytest.raises(ValueError, match="two are needed"):
        Linear.train(["a", "b"], ["x", "x"])
