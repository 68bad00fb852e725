"""The averaged perceptron (Freund and Schapire 1999; Collins 2002), and the tagger that it makes.

A guess is the class whose weights for the features at hand add up highest.  Only a wrong guess teaches: the features'
weights go up by one for the right class and down by one for the guessed one.  The last weights are those of the last
mistakes; the mean of all weights there ever were is steadier.  With update d at call i of n it is

    mean = sum of d (1 - i/n) = w - u/n,        u = sum of i d
"""

import random
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

Tagged = Sequence[tuple[str, str]]
BEFORE, AFTER = ("<s>", "<s>"), ("</s>", "</s>")


class AveragedPerceptron:
    """Weights of features, a row each, for a fixed set of classes.  On ties the largest class name wins, as in NLTK."""

    def __init__(self, classes: Iterable[str]):
        self.classes = sorted(classes, reverse=True)            # argmax takes the first
        self.calls = 0
        self.rows: dict[str, int] = {}                          # only features that a mistake has touched
        self.weights = np.zeros((1024, len(self.classes)))
        self.moments = np.zeros_like(self.weights)              # u

    def known(self, features: Iterable[str]) -> list[int]:
        rows = self.rows
        return [rows[one] for one in features if one in rows]

    def predict(self, features: Iterable[str]) -> int:
        """The number of the class."""
        return int(self.weights[self.known(features)].sum(axis=0).argmax())

    def update(self, truth: int, guess: int, features: Sequence[str]) -> None:
        """Learn from one guess; a right one counts as a call and changes nothing."""
        self.calls += 1
        if truth == guess:
            return
        for one in features:
            self.rows.setdefault(one, len(self.rows))
        while len(self.rows) > len(self.weights):
            self.weights, self.moments = (np.concatenate([one, np.zeros_like(one)])
                                          for one in (self.weights, self.moments))
        rows = self.known(features)
        for number, sign in ((truth, 1), (guess, -1)):
            self.weights[rows, number] += sign
            self.moments[rows, number] += sign * self.calls

    def averaged(self) -> "AveragedPerceptron":
        """The mean of the weights after every call, to three decimals as NLTK keeps them."""
        mean = AveragedPerceptron(self.classes)
        mean.rows, mean.calls = dict(self.rows), self.calls
        mean.weights = np.round(self.weights - self.moments / max(self.calls, 1), 3)
        return mean


class PerceptronTagger:
    """Tags from left to right; the two tags before are features of the next."""

    kind = "perceptron"

    def __init__(self, model: AveragedPerceptron, words: Iterable[str]):
        self.model, self.words = model, set(words)              # the words it was taught

    @classmethod
    def train(cls, sentences: Iterable[Tagged], *, epochs: int = 8, seed: int = 0) -> "PerceptronTagger":
        """Learn from tagged sentences, in another order each time.  `ValueError` without a single word."""
        sentences = [one for one in sentences if one]
        if not sentences:
            raise ValueError("a tagger needs at least one tagged word")
        model = AveragedPerceptron({tag for one in sentences for _, tag in one})
        number, order = {tag: place for place, tag in enumerate(model.classes)}, random.Random(seed)
        read = [(surface([word for word, _ in one]), [number[tag] for _, tag in one]) for one in sentences]
        for _ in range(epochs):
            order.shuffle(read)
            for given, truths in read:
                before, last = BEFORE
                for fixed, truth in zip(given, truths):
                    features = fixed + history(before, last, fixed)
                    guess = model.predict(features)
                    model.update(truth, guess, features)
                    before, last = last, model.classes[guess]       # its own guess, as when it will be used
        return cls(model.averaged(), (word for one in sentences for word, _ in one))

    def tag(self, words: Sequence[str]) -> list[str]:
        """The tags of a sentence."""
        tags = list(BEFORE)
        for fixed in surface(words):
            features = fixed + history(tags[-2], tags[-1], fixed)
            tags.append(self.model.classes[self.model.predict(features)])
        return tags[2:]

    def state(self) -> dict:
        """What `restored` makes the same tagger of; weights of zero are left out."""
        names = self.model.classes
        weights = {feature: {names[one]: float(own[one]) for one in own.nonzero()[0]}
                   for feature, own in zip(self.model.rows, self.model.weights)}
        return {"classes": names, "weights": {feature: own for feature, own in weights.items() if own},
                "words": sorted(self.words)}

    @classmethod
    def restored(cls, state: dict) -> "PerceptronTagger":
        model = AveragedPerceptron(state["classes"])
        number = {name: place for place, name in enumerate(model.classes)}
        model.rows = {feature: row for row, feature in enumerate(state["weights"])}
        model.weights = np.zeros((len(model.rows), len(number)))
        for row, own in enumerate(state["weights"].values()):
            for name, weight in own.items():
                model.weights[row, number[name]] = weight
        return cls(model, state["words"])


# --- what the tagger looks at: Ratnaparkhi 1996, with word shapes --------------------------------------------------

def surface(words: Sequence[str]) -> list[list[str]]:
    """Features of each word that do not depend on tags; the first two are the word and its ending."""
    lower = list(chain(BEFORE, map(normal, words), AFTER))
    shapes = list(chain(BEFORE, map(shape, words), AFTER))
    found = []
    for place, word in enumerate(words, start=2):
        own, small = lower[place], words[place - 2].lower()
        back, after = lower[place - 1], lower[place + 1]
        found.append([
            f"word {own}", f"end3 {small[-3:]}", f"end1 {small[-1:]}", f"end2 {small[-2:]}", f"end4 {small[-4:]}",
            f"begin1 {small[:1]}", f"begin3 {small[:3]}", f"exact {word}", f"shape {shapes[place]}",
            f"first {place == 2} {shapes[place]}", f"back {back}", f"back2 {lower[place - 2]}", f"back end {back[-3:]}",
            f"next {after}", f"next2 {lower[place + 2]}", f"next end {after[-3:]}", f"around {back} {after}",
            f"next shape {shapes[place + 1]}", f"back shape {shapes[place - 1]}", "any"])
    return found


def history(before: str, last: str, fixed: list[str]) -> list[str]:
    """Features with the two tags before."""
    word, ending, after = fixed[0], fixed[1], fixed[13]
    return [f"last {last}", f"two {before} {last}",
            f"last {last} {word}", f"last {last} {ending}", f"last {last} {after}"]


def normal(word: str) -> str:
    """Lower case; numbers, which are endless, by their kind."""
    if word[:1].isdigit() or word[1:2].isdigit():
        return "!year" if word.isdigit() and len(word) == 4 else "!digits"
    return "!hyphen" if "-" in word[1:-1] and len(word) > 8 else word.lower()


def shape(word: str) -> str:
    """`Mc-Donald9` is `XxxXxd`: kinds of characters, runs no longer than two."""
    kinds = "".join("X" if one.isupper() else "x" if one.islower() else "d" if one.isdigit() else one for one in word)
    return "".join(one for place, one in enumerate(kinds) if kinds[max(0, place - 2):place] != one * 2)[:8]
