"""Hidden Markov models: hidden states in a row, each emitting what is seen.  Everything in natural logarithms.

    P(x, y) = P(y_1) prod P(y_t | y_t-1) prod P(x_t | y_t)

`viterbi` finds the likeliest path of states, `forward_backward` sums over all of them (Rabiner 1989).  `HmmTagger` tags
by pairs of tags, and what it has not seen it guesses from the end of the word, as TnT does (Brants 2000).  Left out:
TnT's third tag.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

Tagged = Sequence[tuple[str, str]]          # a sentence: words and their tags
SUFFIX = 8                                  # letters of a word's end that are looked at, as far as rare words had them
RARE = 10                                   # a word seen more often says little about words never seen


def viterbi(initial: np.ndarray, transition: np.ndarray, emission: np.ndarray) -> tuple[np.ndarray, float]:
    """The likeliest states (T,) and the log-probability of them and what was seen; the first state on ties.

    Log-probabilities: `initial` (Y,), `transition` (Y, Y) from row to column, `emission` (T, Y) of what was seen.
    """
    best, before = initial + emission[0], np.zeros(emission.shape, np.int64)
    for t in range(1, len(emission)):
        ways = best[:, None] + transition                                               # (Y, Y)
        before[t] = ways.argmax(axis=0)
        best = ways.max(axis=0) + emission[t]
    path = [int(best.argmax())]
    for t in range(len(emission) - 1, 0, -1):
        path.append(int(before[t, path[-1]]))
    return np.array(path[::-1]), float(best.max())


def forward_backward(initial: np.ndarray, transition: np.ndarray, emission: np.ndarray) -> tuple[float, np.ndarray]:
    """The log-likelihood of what was seen, and the probability of every state at every place, (T, Y)."""
    forward, backward = np.empty_like(emission), np.zeros_like(emission)
    forward[0] = initial + emission[0]
    for t in range(1, len(emission)):
        forward[t] = np.logaddexp.reduce(forward[t - 1][:, None] + transition, axis=0) + emission[t]
    for t in range(len(emission) - 2, -1, -1):
        backward[t] = np.logaddexp.reduce(transition + emission[t + 1] + backward[t + 1], axis=1)
    likelihood = np.logaddexp.reduce(forward[-1])
    return float(likelihood), np.exp(forward + backward - likelihood)


@dataclass
class HmmTagger:
    """Tags by Viterbi from counts: of tags, of tags in a row, of words with their tags.

    `k` is added to every count of two tags; `trust` is how many sightings of a word its ending is worth.
    """

    tags: list[str]
    starts: list[int]                                       # sentences that begin with each tag
    pairs: list[list[int]]                                  # (Y, Y): a tag and the next
    words: dict[str, dict[str, int]]                        # a word's tags
    k: float = 0.1
    trust: float = 1.0
    _endings: dict[str, np.ndarray] = field(init=False, repr=False)
    _guessed: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    kind = "hmm"

    @classmethod
    def train(cls, sentences: Iterable[Tagged], *, k: float = 0.1, trust: float = 1.0) -> "HmmTagger":
        """Count; `ValueError` without a single word."""
        sentences = [one for one in sentences if one]
        if not sentences:
            raise ValueError("a tagger needs at least one tagged word")
        tags = sorted({tag for one in sentences for _, tag in one})
        first = Counter(one[0][1] for one in sentences)
        following = Counter((a, b) for one in sentences for (_, a), (_, b) in zip(one, one[1:]))
        words: dict[str, dict[str, int]] = {}
        for word, tag in (pair for one in sentences for pair in one):
            own = words.setdefault(word, {})
            own[tag] = own.get(tag, 0) + 1
        return cls(tags, [first[tag] for tag in tags], [[following[a, b] for b in tags] for a in tags], words, k, trust)

    def __post_init__(self) -> None:
        number = {tag: place for place, tag in enumerate(self.tags)}
        self._seen = {word: np.array([own.get(tag, 0) for tag in self.tags], float) for word, own in self.words.items()}
        counts = sum(self._seen.values())                                               # (Y,)
        self._prior = counts / counts.sum()
        starts, pairs = np.array(self.starts, float) + self.k, np.array(self.pairs, float) + self.k
        with np.errstate(divide="ignore"):
            self._initial = np.log(starts / starts.sum())
            self._transition = np.log(pairs / pairs.sum(axis=1, keepdims=True))
        self._endings = {}
        for word, own in self.words.items():
            if sum(own.values()) <= RARE:
                for ending in endings(word):
                    found = self._endings.setdefault(ending, np.zeros(len(number)))
                    for tag, count in own.items():
                        found[number[tag]] += count

    def guess(self, word: str) -> np.ndarray:
        """P(tag | ending), (Y,): each longer ending corrects the shorter one before it.  Brants 2000, eq. 7 to 10.

            P(t | e_i) = (share of t among words with e_i + theta P(t | e_i-1)) / (1 + theta)

        theta is the standard deviation of the tags' own probabilities.
        """
        if word not in self._guessed:
            theta, chance = self._prior.std(ddof=1) if len(self.tags) > 1 else 1.0, self._prior
            for ending in endings(word):
                if ending in self._endings:
                    found = self._endings[ending]
                    chance = (found / found.sum() + theta * chance) / (1 + theta)
            self._guessed[word] = chance
        return self._guessed[word]

    def emission(self, words: Sequence[str]) -> np.ndarray:
        """log P(word | tag), less log P(word), which no path depends on: log P(tag | word) - log P(tag), (T, Y)."""
        rows = []
        for word in words:
            seen, guess = self._seen.get(word, 0.0), self.guess(word)
            total = np.sum(seen)
            rows.append((seen + self.trust * guess) / (total + self.trust))
        with np.errstate(divide="ignore"):
            return np.log(np.array(rows)) - np.log(self._prior)

    def tag(self, words: Sequence[str]) -> list[str]:
        """The tags of a sentence."""
        if not words:
            return []
        path, _ = viterbi(self._initial, self._transition, self.emission(words))
        return [self.tags[state] for state in path]

    def state(self) -> dict:
        """What `restored` makes the same tagger of."""
        return {"tags": self.tags, "starts": self.starts, "pairs": self.pairs, "words": self.words, "k": self.k,
                "trust": self.trust}

    @classmethod
    def restored(cls, state: dict) -> "HmmTagger":
        return cls(**state)


def endings(word: str) -> list[str]:
    """The ends of a word, shortest first; words with a capital (as in TnT) and words with a digit have their own."""
    mark = ("A" if word[:1].isupper() else "a") + "0" * any(map(str.isdigit, word)) + ":"
    lower = word.lower()
    return [mark + lower[len(lower) - n:] for n in range(min(SUFFIX, len(lower)) + 1)]
