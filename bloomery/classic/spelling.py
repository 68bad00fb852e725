"""Spelling correction: which word was meant, when this was typed.

The noisy channel (Kernighan, Church & Gale 1990; Mays, Damerau & Mercer 1991):

    argmax_w  ln p(w | words beside it) - sum of the costs of the edits that make what was typed of w

p(w) are counts, or a bigram model where neighbours are known; a cost is -ln of how often an edit happens, learned from
pairs of what was meant and typed (`ErrorCosts.learned`) or as it stands.  Candidates come from deletions: two words
within distance k share a word that is either without at most k letters (Mor & Fraenkel 1982; SymSpell, Garbe 2012), so
that looking up some thirty strings finds them all in any dictionary.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, pairwise
from math import log

import numpy as np

from bloomery.classic.edit_distance import Costs, Edit, alignment, levenshtein, osa, text
from bloomery.classic.lexicon import END, START, UNKNOWN, Lexicon
from bloomery.classic.ngram import Ngram
from bloomery.classic.smoothing import modified_kneser_ney

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
VOWELS = frozenset("aeiouy")
PREFIX = 7                      # letters of a word that its deletions are taken of; more tell little
SWAPS = Costs(transpose=1)
# -ln p of an edit: `ErrorCosts.learned` from the misspellings that GNU Aspell is tested with (528 pairs), rounded.
TYPICAL = {("insert", ""): 7.1, ("insert", "first"): 7.6, ("insert", "double"): 4.6,
           ("delete", ""): 2.9, ("delete", "first"): 4.6, ("delete", "double"): 1.1,
           ("substitute", ""): 6.2, ("substitute", "first"): 7.0, ("substitute", "vowel"): 3.9,
           ("transpose", ""): 4.8, ("transpose", "first"): 7.0}


def normal(word: str) -> str:
    """A word as it is counted: lower case, accents composed, straight apostrophes."""
    return text(word.lower()).replace("’", "'")


def words_of(string: str) -> list[str]:
    """The words of a text as they are counted."""
    return WORD.findall(normal(string))


def closest(word: str, dictionary: Sequence[str], *, frequency: Mapping[str, int] | None = None,
            max_distance: int | None = None, distance: Callable[[str, str], float] = levenshtein) -> list[str]:
    """The words at the least distance: frequent ones first, then as the dictionary has them."""
    distances = [distance(word, other) for other in dictionary]
    least = min(distances, default=0)
    if max_distance is not None and least > max_distance:
        return []
    found = [other for other, far in zip(dictionary, distances) if far == least]
    return sorted(found, key=lambda other: -(frequency or {}).get(other, 0))


# --- how likely an error is -------------------------------------------------------------------------------------------

class ErrorCosts:
    """-ln p of an edit of a letter, by what it does and where: `ErrorCosts.learned(pairs)`, or as `TYPICAL` has it."""

    def __init__(self, table: Mapping[tuple[str, str], float] | None = None):
        self.table = dict(TYPICAL if table is None else table)

    @classmethod
    def learned(cls, pairs: Iterable[tuple[str, str]]) -> "ErrorCosts":
        """From (meant, typed): how often an edit was made of how often it could have been, half a time added."""
        made, chances, alphabet = Counter(), Counter(), set()
        for meant, typed in pairs:
            alphabet.update(meant, typed)
            made.update((edit.kind, where) for edit, where in edits_of(meant, typed))
            chances.update({"": len(meant), "double": len(meant), "first": 1,
                            "vowel": sum(map(VOWELS.__contains__, meant)),
                            "doubled": sum(a == b for a, b in pairwise(meant))})
        ways = {"insert": max(len(alphabet), 1), "substitute": max(len(alphabet) - 1, 1), "delete": 1, "transpose": 1}

        def cost(kind: str, where: str) -> float:
            possible = chances["doubled" if (kind, where) == ("delete", "double") else where]
            letters = {"double": 1, "vowel": len(VOWELS) - 1}.get(where, ways[kind])        # that it could have been
            return -log((made[kind, where] + 0.5) / (possible + 1) / letters)

        return cls({key: cost(*key) for key in TYPICAL})

    def of(self, meant: str, typed: str) -> float:
        """-ln p(typed | meant) along one cheapest alignment."""
        return sum(self.table[edit.kind, where] for edit, where in edits_of(meant, typed))


def edits_of(meant: str, typed: str) -> Iterator[tuple[Edit, str]]:
    """What was changed, and where: the `first` letter, a `double` one, a `vowel` for another, or "" for elsewhere."""
    letter = 0
    for edit in alignment(meant, typed, SWAPS):
        behind = letter + len(edit.before)
        beside = meant[max(letter - 1, 0):letter] + meant[behind:behind + 1]
        if edit.kind == "keep":
            pass
        elif letter == 0:
            yield edit, "first"
        elif edit.kind in ("insert", "delete") and (edit.before or edit.after) in beside:
            yield edit, "double"
        else:
            yield edit, "vowel" if edit.kind == "substitute" and VOWELS.issuperset(edit.before + edit.after) else ""
        letter = behind


# --- candidates -------------------------------------------------------------------------------------------------------

def deletions(word: str, most: int) -> set[str]:
    """The beginning of a word without up to `most` of its letters."""
    head = word[:PREFIX]
    sizes = range(max(len(head) - most, 0), len(head) + 1)
    return {"".join(kept) for size in sizes for kept in combinations(head, size)}


class Neighbours:
    """An index of words by their deletions."""

    def __init__(self, words: Sequence[str], max_distance: int = 2):
        self.words, self.max_distance = words, max_distance
        self.by_deletion: defaultdict[str, list[int]] = defaultdict(list)
        for number, word in enumerate(words):
            for shorter in deletions(word, max_distance):
                self.by_deletion[shorter].append(number)

    def near(self, word: str) -> list[tuple[str, int]]:
        """Every word within `max_distance`, with its distance (neighbours may be swapped)."""
        most, index = self.max_distance, self.by_deletion
        shared = {number for shorter in deletions(word, most) for number in index.get(shorter, ())}
        alike = [other for number in sorted(shared) if abs(len(other := self.words[number]) - len(word)) <= most]
        return [(other, distance) for other in alike if (distance := osa(other, word)) <= most]


@dataclass(frozen=True)
class Candidate:
    """A word that may have been meant: ln p(word) where nothing else is known, and -ln p(typed | word)."""

    word: str
    distance: int
    prior: float
    error: float


@dataclass(frozen=True)
class Correction:
    """A place in a text, what is typed there, what was meant (empty: nothing is near), what else it might be."""

    start: int
    end: int
    typed: str
    word: str
    others: tuple[str, ...]


class Speller:
    """Corrects words by how often they are counted, and in texts, given a bigram model, by their neighbours."""

    def __init__(self, counts: Mapping[str, int], *, costs: ErrorCosts | None = None, max_distance: int = 2,
                 lexicon: Lexicon | None = None, bigrams: Ngram | None = None):
        if not counts:
            raise ValueError("a speller needs words")
        self.counts, self.costs, self.max_distance = dict(counts), costs or ErrorCosts(), max_distance
        self.total, self.lexicon, self.bigrams = sum(self.counts.values()), lexicon, bigrams

    @classmethod
    def taught(cls, texts: Iterable[str], *, context: bool = True, **settings: object) -> "Speller":
        """A speller of the words of texts and, with `context`, of the pairs within their lines."""
        lines = [words for string in texts for line in string.split("\n") if (words := words_of(line))]
        counts = Counter(word for line in lines for word in line)
        if not context:
            return cls(counts, **settings)
        lexicon, ids = Lexicon.counted(lines)
        bigrams = Ngram(2, len(lexicon), start=START, smoothing=modified_kneser_ney()).fit(ids)
        return cls(counts, lexicon=lexicon, bigrams=bigrams, **settings)

    @cached_property
    def neighbours(self) -> Neighbours:
        return Neighbours(list(self.counts), self.max_distance)

    def knows(self, word: str) -> bool:
        """Whether a word was counted, as it is or before `'s`."""
        return word in self.counts or word.removesuffix("'s") in self.counts

    def candidates(self, word: str) -> list[Candidate]:
        """All words that may have been meant, likeliest first; equal ones by distance, then by the alphabet."""
        found = [Candidate(other, distance, log(self.counts[other] / self.total), self.costs.of(other, word))
                 for other, distance in self.neighbours.near(word)]
        return sorted(found, key=lambda c: (c.error - c.prior, c.distance, c.word))

    def correct(self, word: str) -> str:
        """The likeliest word; a known one and one that nothing is near stay as they are."""
        return word if self.knows(word) else next((c.word for c in self.candidates(word)), word)

    def corrections(self, string: str, *, names: bool = False, real_words: float = 0.0,
                    keep: int = 8) -> list[Correction]:
        """What to change in a text (composed, NFC) and the words that nothing is near; a line is a sentence.

        Known words stay, unless `real_words`, the chance that one was typed for another, is above 0.  Single letters
        stay, and what begins with a capital inside a line is taken for a name; `names` corrects them too.  The
        likeliest `keep` candidates of a word are weighed with their neighbours.
        """
        found, begin = [], 0
        for line in string.split("\n"):
            matches = list(WORD.finditer(line))
            lattice = [self.choices(match, names, real_words)[:keep] for match in matches]
            for match, choices, chosen in zip(matches, lattice, self.likeliest(lattice)):
                if not choices or chosen != normal(match[0]):
                    others = [c.word for c in choices if c.word not in (chosen, normal(match[0]))]
                    found.append(Correction(begin + match.start(), begin + match.end(), match[0],
                                            cased(chosen, match[0]) if choices else "",
                                            tuple(cased(word, match[0]) for word in others)))
            begin += len(line) + 1
        return found

    def choices(self, match: re.Match, names: bool, real_words: float) -> list[Candidate]:
        """What may have been meant at one place; none where nothing is near."""
        typed, known = normal(match[0]), self.knows(normal(match[0]))
        name = match.start() > 0 and match[0][0].isupper() or len(typed) == 1
        prior = log(self.counts.get(typed, 1) / self.total)
        if (known and not real_words) or (name and not names):
            return [Candidate(typed, 0, prior, 0.0)]
        if not known:
            return self.candidates(typed)
        others = [replace(c, error=c.error - log(real_words)) for c in self.candidates(typed) if c.word != typed]
        return sorted([Candidate(typed, 0, prior, -log(1 - real_words)), *others], key=lambda c: c.error - c.prior)

    def likeliest(self, lattice: list[list[Candidate]]) -> list[str]:
        """One word of each place, "" where there is none: the likeliest path by bigrams (Viterbi 1967)."""
        places = [choices for choices in lattice if choices]
        if self.bigrams is None or not places:
            return [choices[0].word if choices else "" for choices in lattice]
        numbers = [np.array([self.lexicon.numbers.get(c.word, UNKNOWN) for c in choices]) for choices in places]
        numbers = [np.array([START]), *numbers, np.array([END])]
        pairs = [np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1).reshape(-1, 2) for a, b in pairwise(numbers)]
        p = np.log(self.bigrams.rows(np.concatenate(pairs))[:, 1])
        steps = [piece.reshape(len(a), len(b)) for piece, (a, b) in
                 zip(np.split(p, np.cumsum([len(pair) for pair in pairs])[:-1]), pairwise(numbers))]
        score, back = np.zeros(1), []
        for step, choices in zip(steps, [*places, [Candidate("", 0, 0, 0)]]):
            whole = score[:, None] + step                   # (choices before, choices here)
            back.append(whole.argmax(axis=0))
            score = whole.max(axis=0) - np.array([c.error for c in choices])
        path = [0]
        for origin in back[:0:-1]:
            path.append(int(origin[path[-1]]))
        chosen = iter(choices[i].word for choices, i in zip(places, path[:0:-1]))
        return [next(chosen) if choices else "" for choices in lattice]


def corrected(string: str, corrections: Sequence[Correction]) -> str:
    """A text with its corrections made."""
    pieces, end = [], 0
    for correction in corrections:
        pieces += string[end:correction.start], correction.word or correction.typed
        end = correction.end
    return "".join(pieces) + string[end:]


def cased(word: str, typed: str) -> str:
    """A word with the capitals of what was typed."""
    if len(typed) > 1 and typed.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if typed[:1].isupper() else word
