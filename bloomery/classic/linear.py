"""A linear text classifier: hashed n-grams of words and characters, logistic regression, chances one can believe.

    P(y | text) = softmax( (b + sum over n-grams g of x_g W_g) / T ),      x_g = count, all divided by their length |x|

Counts are damped to 1 + log(count) on demand, so that a long text is not all its commonest letters.

No vocabulary: an n-gram's weights stand in the bucket its hash names (Weinberger et al. 2009), so a model is as large
as it was made and never meets an unknown word.  W minimises cross-entropy plus an L2 penalty by AdaGrad (Duchi et al.
2011), whose steps suit features that are rare.  T is fitted on texts kept apart (Guo et al. 2017): training makes a
classifier too sure of itself.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import numpy as np

from bloomery.classic.words import words
from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import InputError

MADE = "linear.json"
MIX = np.uint64(0x9E3779B97F4A7C15)             # odd: multiplying by it loses nothing
BATCH = 32                                      # texts a step
REMEMBERED = 1 << 20                            # words whose hashes are kept at hand
NOTHING = np.zeros(0, np.uint64)


@dataclass
class Rows:
    """Texts as buckets and values, end to end; text i has those from start[i] to start[i + 1]."""

    start: np.ndarray                           # (B + 1,)
    buckets: np.ndarray                         # (M,)
    values: np.ndarray                          # (M,)

    def __len__(self) -> int:
        return len(self.start) - 1

    def of(self, texts: np.ndarray) -> "Rows":
        """Some of the texts, in the order asked."""
        lengths = np.diff(self.start)[texts]
        start = np.concatenate([[0], lengths.cumsum()])
        places = np.arange(start[-1]) + np.repeat(self.start[texts] - start[:-1], lengths)
        return Rows(start, self.buckets[places], self.values[places])

    def owners(self) -> np.ndarray:
        """Whose each bucket is, (M,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.start))


@dataclass
class Linear:
    """A classifier: `train` makes one, `probabilities` and `predict` use it."""

    classes: list[str]
    weights: np.ndarray                         # (buckets, Y)
    bias: np.ndarray                            # (Y,)
    order: int = 2                              # words of the longest n-gram; 0 for none
    temperature: float = 1.0
    characters: int = 0                         # of the longest n-gram of characters; 0 for none
    damped: bool = False                        # whether counts are
    _hashes: dict[str, int] = field(default_factory=dict, repr=False)

    @classmethod
    def train(cls, texts: Sequence[str], labels: Sequence[str], *, order: int = 2, characters: int = 0,
              damped: bool = False, bits: int = 18, epochs: int = 8, rate: float = 0.5, penalty: float = 1e-6,
              held_out: float = 0.1, seed: int = 0) -> "Linear":
        """Learn from labelled texts; `held_out` of them calibrate and teach nothing.

        Raises `ValueError` for fewer than two classes, or lengths that differ.
        """
        classes = sorted(set(labels))
        if len(classes) < 2 or len(texts) != len(labels):
            raise ValueError(f"{len(texts)} texts with {len(labels)} labels of {len(classes)} classes; two are needed")
        one = cls(classes, np.zeros((1 << bits, len(classes))), np.zeros(len(classes)), order,
                  characters=characters, damped=damped)
        number = {name: place for place, name in enumerate(classes)}
        one.learn(one.rows(texts), np.array([number[label] for label in labels]), epochs=epochs, rate=rate,
                  penalty=penalty, held_out=held_out, seed=seed)
        return one

    def learn(self, rows: Rows, truths: np.ndarray, *, epochs: int, rate: float, penalty: float, held_out: float,
              seed: int) -> None:
        """Go on from the weights as they are; truths are places in `classes`, (B,)."""
        generator = np.random.default_rng(seed)
        kept = generator.permutation(len(rows))
        apart, kept = np.split(kept, [round(held_out * len(rows))])
        squares = np.full_like(self.weights, 1e-8), np.full_like(self.bias, 1e-8)
        for _ in range(epochs):
            generator.shuffle(kept)
            for place in range(0, len(kept), BATCH):
                chosen = kept[place:place + BATCH]
                self.step(rows.of(chosen), truths[chosen], squares, rate, penalty)
        if len(apart):
            self.temperature = fitted_temperature(self.scores(rows.of(apart)), truths[apart])

    def step(self, rows: Rows, truths: np.ndarray, squares: tuple[np.ndarray, np.ndarray], rate: float,
             penalty: float) -> None:
        """One step of AdaGrad on a few texts; the penalty falls on the weights they touch."""
        wrong = softmax(self.scores(rows))                                              # (B, Y)
        wrong[np.arange(len(rows)), truths] -= 1
        buckets, where = np.unique(rows.buckets, return_inverse=True)
        slope = np.zeros((len(buckets), len(self.classes)))
        np.add.at(slope, where, wrong[rows.owners()] * rows.values[:, None])
        slope = slope / len(rows) + penalty * self.weights[buckets]
        squares[0][buckets] += slope**2
        self.weights[buckets] -= rate * slope / np.sqrt(squares[0][buckets])
        squares[1][:] += wrong.mean(axis=0)**2
        self.bias -= rate * wrong.mean(axis=0) / np.sqrt(squares[1])

    def rows(self, texts: Iterable[str]) -> Rows:
        """Texts as hashed n-grams, each text's values of length 1."""
        start, buckets, values = [0], [np.zeros(0, np.int64)], [np.zeros(0)]
        for text in texts:
            found, counts = np.unique(self.hashed(text), return_counts=True)
            buckets.append(found)
            counts = 1 + np.log(counts) if self.damped else counts
            values.append(counts / max(np.linalg.norm(counts), 1e-12))
            start.append(start[-1] + len(found))
        return Rows(np.array(start), np.concatenate(buckets), np.concatenate(values))

    def hashed(self, text: str) -> np.ndarray:
        """The bucket of every n-gram of a text: (h_1 m + h_2) m + h_3 ..., its upper bits."""
        grams = [*ngrams(self.word_hashes(text), self.order), *ngrams(letters(text), self.characters)] or [NOTHING]
        return self.bucket(np.concatenate(grams))

    def bucket(self, hashes: np.ndarray) -> np.ndarray:
        """Where the weights of what has these 64-bit hashes stand."""
        return (hashes >> np.uint64(64 - (len(self.weights) - 1).bit_length())).astype(np.int64)

    def word_hashes(self, text: str) -> np.ndarray:
        """A number for each word, below 2^33; those met lately are remembered."""
        if len(self._hashes) > REMEMBERED:
            self._hashes.clear()
        known = self._hashes
        return np.array([known.get(word) or known.setdefault(word, crc32(word.encode("utf-8", "replace")) + 1)
                         for word in (words(text) if self.order else ())], np.uint64)

    def scores(self, rows: Rows) -> np.ndarray:
        """Logits (B, Y), before the temperature."""
        found = np.zeros((len(rows), len(self.classes)))
        np.add.at(found, rows.owners(), self.weights[rows.buckets] * rows.values[:, None])
        return found + self.bias

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """P(class | text), (B, Y), classes in the order of `classes`."""
        return self.chances(self.rows(texts))

    def chances(self, rows: Rows) -> np.ndarray:
        """The same of texts that are rows already."""
        return softmax(self.scores(rows) / self.temperature)

    def predict(self, texts: Sequence[str]) -> list[str]:
        return [self.classes[place] for place in self.probabilities(texts).argmax(axis=1)]

    def save(self, folder: Path) -> None:
        """Write weights and, last, what they are."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "weights.npy", self.weights.astype(np.float32))
        about = {"classes": self.classes, "bias": self.bias.tolist(), "order": self.order,
                 "temperature": self.temperature, "characters": self.characters, "damped": self.damped}
        write_atomic(folder / MADE, json.dumps(about))

    @classmethod
    def load(cls, folder: Path) -> "Linear":
        """Read one that was saved.  `InputError` where there is none, or its files do not belong together."""
        folder = Path(folder)
        try:
            about = json.loads((folder / MADE).read_text(encoding="utf-8"))
            one = cls(about["classes"], np.load(folder / "weights.npy"), np.array(about["bias"]), about["order"],
                      about["temperature"], about.get("characters", 0), about.get("damped", False))
            if one.weights.shape[1:] != one.bias.shape or one.bias.shape != (len(one.classes),):
                raise ValueError("weights and classes do not belong together")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError("no linear classifier to read", where=str(folder), why=f"{type(error).__name__}: {error}",
                             hint="train it again") from error
        return one


def letters(text: str) -> np.ndarray:
    """A number for each character in lower case, above those of words; white space is one space."""
    plain = f" {' '.join(text.lower().split())} ".encode("utf-32-le", "surrogatepass")
    return np.frombuffer(plain, "<u4").astype(np.uint64) + np.uint64(1 << 33)


def ngrams(units: np.ndarray, order: int) -> list[np.ndarray]:
    """The hashes of all n-grams up to `order`, shortest first."""
    grams = [units * MIX] if order else []
    for n in range(1, min(order, len(units))):
        grams.append((grams[-1][:-1] + units[n:]) * MIX)
    return grams


def softmax(scores: np.ndarray) -> np.ndarray:
    weight = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)


def cross_entropy(scores: np.ndarray, truths: np.ndarray) -> float:
    """Mean nats of the right class, from logits (B, Y)."""
    right = scores[np.arange(len(truths)), truths]
    return float(np.mean(np.logaddexp.reduce(scores, axis=1) - right))


def fitted_temperature(scores: np.ndarray, truths: np.ndarray) -> float:
    """The T from 0.05 to 20 that makes the right classes likeliest: one minimum in 1/T, found by golden sections."""
    low, high, golden = np.log(0.05), np.log(20.0), (np.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if cross_entropy(scores / np.exp(left), truths) <= cross_entropy(scores / np.exp(right), truths):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def calibration_error(probabilities: np.ndarray, truths: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error: how far the chance given to the guessed class lies from how often it is right.

    Guesses go into `bins` equal parts of [0, 1] by their chance; parts count by their guesses.  Naeini et al. 2015.
    """
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truths
    part = np.minimum((sure * bins).astype(int), bins - 1)
    counts = np.bincount(part, minlength=bins)
    gap = np.abs(np.bincount(part, right, bins) - np.bincount(part, sure, bins))
    return float(gap.sum() / counts.sum())


def auc(scores: np.ndarray, truths: np.ndarray) -> float:
    """The chance that a true one scores above a false one, ties counting half: the area under the ROC curve.

    From ranks (Mann and Whitney 1947); NaN where all truths are alike.
    """
    values, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positive = np.asarray(truths, bool)
    true, false = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - true * (true + 1) / 2) / (true * false)) if true and false else float("nan")
