"""Counted models of texts: n-gram models of words, tokens or bytes as `bloomery text ngram` has them, and spellers.

Words stand between spaces and a line is a sentence, between `<s>` and `</s>`, as kenlm and WikiText count; tokens and
bytes run through a whole text.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path

import numpy as np

from bloomery.classic import arpa
from bloomery.classic.jelinek_mercer import fit_interpolated
from bloomery.classic.lexicon import END, START, UNKNOWN, Lexicon
from bloomery.classic.ngram import Ngram
from bloomery.classic.pmi import MEASURES, Collocation, pmi3
from bloomery.classic.pmi import collocations as top
from bloomery.classic.pruning import by_entropy, cut
from bloomery.classic.smoothing import SMOOTHING, Smoothing
from bloomery.classic.spelling import ErrorCosts, Speller, words_of
from bloomery.classic.words import STOP_WORDS, sentences, words
from bloomery.core.config import nearest
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine, rows
from bloomery.core.metrics import say
from bloomery.data import stdlib
from bloomery.text.tokenizer import Tokenizer, load_tokenizer

UNITS = ("words", "tokens", "bytes")
OFTEN = 3                   # uses that make a word right where no others are given: "teh" stands once in Python


@dataclass
class Units:
    """A text as symbols and back: words by a lexicon, tokens by a tokenizer, or bytes where there is neither."""

    lexicon: Lexicon | None = None
    tokenizer: Tokenizer | None = None

    def documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        if self.lexicon:
            return [self.lexicon.ids(found) for text in texts for line in text.split("\n") if (found := line.split())]
        if self.tokenizer:
            return [np.array(ids, np.int32) for ids in self.tokenizer.encode_batch(list(texts)) if ids]
        return [np.frombuffer(text.encode(), np.uint8) for text in texts if text]

    def text(self, ids: Sequence[int]) -> str:
        if self.lexicon:
            return " ".join(self.lexicon.sentence(ids))
        return self.tokenizer.decode(ids) if self.tokenizer else bytes(ids).decode("utf-8", "replace")

    def history(self, text: str) -> np.ndarray:
        """What a text to go on with is: words after `<s>`, without `</s>`."""
        if self.lexicon:
            return self.lexicon.ids(text.split())[:-1]
        return self.documents([text])[0] if text else np.zeros(0, np.int64)

    @property
    def size(self) -> int:
        return self.tokenizer.size if self.tokenizer else 256

    @property
    def names(self) -> list[str]:
        """Each symbol as one word of an ARPA file."""
        if self.lexicon:
            return self.lexicon.words
        if self.tokenizer:
            return [self.tokenizer.name(number) for number in range(self.size)]
        return [f"<0x{byte:02X}>" for byte in range(256)]


@dataclass
class Counted:
    """An n-gram model and what its symbols are."""

    model: Ngram
    units: Units

    def describe(self) -> dict:
        return {"order": len(self.model.orders), "vocabulary": self.model.vocabulary,
                "grams": [len(order.grams) for order in self.model.orders]}

    def score(self, texts: Sequence[str]) -> dict:
        """What texts cost; numbers that are infinite are None, which JSON can say."""
        documents = self.units.documents(texts)
        found = self.model.score(documents)
        unknown = sum(int((ids == UNKNOWN).sum()) for ids in documents) if self.units.lexicon else 0
        size = sum(len(text.encode()) for text in texts)
        numbers = {"nats": found.nats_per_symbol, "bits": found.bits_per_symbol, "perplexity": found.perplexity,
                   "bits_per_byte": found.bits_per_symbol * found.symbols / size}
        return {"symbols": found.symbols, "unknown": unknown} | {
            name: value if isfinite(value) else None for name, value in numbers.items()}

    def sample(self, count: int, *, history: str = "", length: int = 40, seed: int = 0) -> list[str]:
        """Texts drawn from the model, each after a history; words up to the end of their sentence."""
        past, stop = self.units.history(history), END if self.units.lexicon else None
        return [self.units.text([*past.tolist(), *self.model.sample(length, history=past, stop=stop, seed=seed + i)])
                for i in range(count)]

    def save(self, path: Path) -> int:
        return arpa.write(self.model, self.units.names, path)


def fit(texts: Sequence[str], *, order: int = 5, unit: str = "words", smoothing: str = "modified_kneser_ney",
        k: float = 1.0, tokenizer: str = "", held_out: Sequence[str] = (), minimum: Sequence[int] = (),
        prune: float = 0.0) -> Counted:
    """Count and smooth an n-gram model of texts. `held_out` texts learn the weights of `interpolated`."""
    method = smoothing_named(smoothing, k)
    if unit not in UNITS:
        raise ConfigError(f"{unit} cannot be counted", where="--unit", hint=f"one of {', '.join(UNITS)}")
    if (unit == "tokens") != bool(tokenizer):
        raise ConfigError("tokens need a tokenizer, and nothing else does", where="--tokenizer",
                          hint="--unit tokens --tokenizer FOLDER")
    if prune and method.alone:
        raise ConfigError(f"{smoothing} never backs off, so it cannot be pruned", where="--prune",
                          hint="--smoothing witten_bell")
    if unit == "words":
        lexicon, ids = Lexicon.counted(found for text in texts for line in text.split("\n") if (found := line.split()))
        units, model = Units(lexicon), Ngram(order, len(lexicon), smoothing=method, start=START)
    else:
        units = Units(tokenizer=load_tokenizer(Path(tokenizer)) if tokenizer else None)
        ids, model = units.documents(texts), Ngram(order, units.size, smoothing=method)
    if smoothing == "interpolated" and held_out:
        weights = fit_interpolated(model, ids, units.documents(held_out))
        say(f"  weights of the orders: {', '.join(f'{w:.3f}' for w in weights)}")
    else:
        model.fit(ids)
    model = cut(model, minimum) if minimum else model
    return Counted(by_entropy(model, prune) if prune else model, units)


def smoothing_named(name: str, k: float) -> Smoothing:
    if name not in SMOOTHING:
        near = nearest(name, list(SMOOTHING))
        raise ConfigError(f"no smoothing is called {name}", where="--smoothing",
                          hint=f"did you mean {near}?" if near else f"one of {', '.join(SMOOTHING)}")
    if not k > 0:
        raise ConfigError(f"k is {k}", where="--k", why="what is added to every count must be above 0", hint="--k 0.1")
    return SMOOTHING[name](k) if name == "add_k" else SMOOTHING[name]()


def opened(path: Path) -> Counted:
    """The model of words of an ARPA file."""
    model, lexicon = arpa.read(path)
    if "<0x20>" in lexicon.numbers:
        raise InputError("this is a model of bytes", where=str(path), why="only models of words are read back",
                         hint="count the text again with --unit bytes")
    return Counted(model, Units(lexicon))


# --- words that come together -----------------------------------------------------------------------------------------

def collocations(texts: Sequence[str], *, measure: str, triples: bool, window: int, directed: bool, min_count: int,
                 stop_words: bool) -> list[Collocation]:
    """Pairs or triples of the words of sentences, best first; `stop_words` says whether those count."""
    if measure not in MEASURES:
        near = nearest(measure, list(MEASURES))
        raise ConfigError(f"no measure is called {measure}", where="--measure",
                          hint=f"did you mean {near}?" if near else f"one of {', '.join(MEASURES)}")
    if triples and (window, directed, measure) != (2, True, "npmi"):
        raise ConfigError("triples are three neighbours in order, by PMI", where="--triples",
                          hint="leave --window, --directed and --measure out")
    found, stops = [words(sentence) for text in texts for sentence in sentences(text)], () if stop_words else STOP_WORDS
    return pmi3(found, min_count=min_count, stop_words=stops) if triples else \
        top(found, measure=measure, window=window, directed=directed, min_count=min_count, stop_words=stops)


# --- spelling ---------------------------------------------------------------------------------------------------------

def speller(texts: Sequence[str], right: Sequence[str], pairs: Sequence[tuple[str, str]], *, context: bool,
            max_distance: int) -> Speller:
    """A speller of the words of texts that are `right`.

    Where there are none: of those of Python's documentation and of `texts` that are used `OFTEN`.
    """
    make = partial(Speller, costs=ErrorCosts.learned(pairs) if pairs else None, max_distance=max_distance)
    if right:
        return Speller.taught(right, context=context, costs=make.keywords["costs"], max_distance=max_distance)
    say("the words of Python's own documentation are taken for right: --words FILE, a large text, knows more")
    known = [*texts, *(document.text for document in stdlib.documents(Quarantine()))]
    counts = Counter(word for text in known for word in words_of(text))
    return make({word: count for word, count in counts.items() if count >= OFTEN})


def misspellings(path: Path) -> list[tuple[str, str]]:
    """(meant, typed) from lines `meant: typed typed`, as lists of misspellings have them, or from rows of both."""
    quarantine, found = Quarantine(), []
    for row, _ in rows(path, quarantine):
        if {"meant", "typed"} <= set(row):
            found.append((str(row["meant"]).lower(), str(row["typed"]).lower()))
        for line in str(row.get("text", "")).splitlines():
            meant, colon, typed = line.partition(":")
            if colon:
                found += [(meant.strip().lower(), word.lower()) for word in typed.split()]
    if not found:
        raise InputError("no misspellings here", where=str(path),
                         why="no line reads `meant: typed typed`, and no row has fields meant and typed",
                         hint="one would be `beginning: begining biginning`")
    return [(meant, typed) for meant, typed in found if meant != typed]
