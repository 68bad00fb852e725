"""Generated texts against reference texts: BLEU, ROUGE, chrF and word error rate.

BLEU and chrF are sacrebleu's, so that numbers compare (Post 2018); `bleu_of` is the equation beside it:

    BLEU = BP exp( 1/4 sum over n = 1..4 of ln p_n ),   p_n = clipped n-gram matches / n-grams, summed over the corpus
    BP = exp(1 - r/c) where the output, c tokens, is shorter than the references, r tokens          Papineni et al. 2002

ROUGE is rouge-score's, number for number (Lin 2004).  BLEU and chrF go from 0 to 100, all else from 0 to 1.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from bloomery.classic.edit_distance import levenshtein
from bloomery.core.errors import BloomeryError

ORDER = 4
SMOOTH = {"none": 0.0, "floor": 0.1, "add-k": 1.0, "exp": 0.0}


# --- BLEU ---------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Matches:
    """What BLEU counts: matches and n-grams for n = 1 to 4, tokens of the output and of the closest references."""

    right: tuple[int, ...]
    total: tuple[int, ...]
    length: int
    reference: int

    @property
    def brevity(self) -> float:
        """The brevity penalty."""
        if self.length >= self.reference:
            return 1.0
        return math.exp(1 - self.reference / self.length) if self.length else 0.0


def matches(output: Sequence[str], references: Sequence[Sequence[str]]) -> Matches:
    """Counts of one text, in tokens: an n-gram matches as often as in the reference that has it most often.

    The reference length is that closest to the output's, the shorter one of two as close.
    """
    right, total = [], []
    for n in range(1, ORDER + 1):
        own = ngrams(output, n)
        most: Counter = Counter()
        for reference in references:
            most |= ngrams(reference, n)
        right.append(sum((own & most).values()))
        total.append(sum(own.values()))
    closest = min((abs(len(one) - len(output)), len(one)) for one in references)[1]
    return Matches(tuple(right), tuple(total), len(output), closest)


def ngrams(tokens: Sequence[str], n: int) -> Counter:
    return Counter(zip(*(tokens[start:] for start in range(n))))


def summed(counts: Sequence[Matches]) -> Matches:
    """A corpus: counts are added before anything is divided, so that long texts weigh more."""
    return Matches(tuple(map(sum, zip(*(one.right for one in counts)))), tuple(map(sum, zip(*(
        one.total for one in counts)))), sum(one.length for one in counts), sum(one.reference for one in counts))


def bleu_of(counts: Matches, *, smoothing: str = "exp", effective: bool = False) -> float:
    """BLEU from counts, 0 to 100.  A p_n of 0 would make it 0; `smoothing` says what stands in its place.

    none: 0; floor: 0.1 matches; add-k: one more match and one more n-gram for n > 1; exp: half a match, a quarter, ...
    (Chen and Cherry 2014).  `effective`: n only as far as the text has n-grams, for single sentences.
    """
    if not any(counts.right):
        return 0.0
    logs, half = [], 1.0
    for n, (right, total) in enumerate(zip(counts.right, counts.total), start=1):
        if smoothing == "add-k" and n > 1:
            right, total = right + SMOOTH[smoothing], total + SMOOTH[smoothing]
        if not total:
            if not effective:
                return 0.0
            break
        if not right:
            if smoothing == "exp":
                half *= 2
            right = 1 / half if smoothing == "exp" else SMOOTH[smoothing]
        if not right:
            return 0.0
        logs.append(math.log(right / total))
    return 100 * counts.brevity * math.exp(math.fsum(logs) / len(logs))


def bleu(outputs: Sequence[str], references: Sequence[Sequence[str]], *, tokenize: str = "13a",
         smoothing: str = "exp") -> tuple[float, str]:
    """Corpus BLEU by sacrebleu and its signature, without which the number says little.

    `references[i]` are the references of output i, one at least.  Raises `ValueError` for an empty corpus.
    """
    metric = library().BLEU(tokenize=tokenize, smooth_method=smoothing)
    score = metric.corpus_score(list(outputs), streams(outputs, references)).score
    return score, str(metric.get_signature())


def chrf(outputs: Sequence[str], references: Sequence[Sequence[str]], *, words: int = 0) -> tuple[float, str]:
    """Corpus chrF by sacrebleu, F2 of character 1- to 6-grams, and its signature; `words` 2: chrF++.  Popović 2015."""
    metric = library().CHRF(word_order=words)
    score = metric.corpus_score(list(outputs), streams(outputs, references)).score
    return score, str(metric.get_signature())


def streams(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References as sacrebleu wants them: the first of each output, the second of each, ...; None where it has none."""
    if not outputs or len(outputs) != len(references) or not all(references):
        raise ValueError(f"each of {len(outputs)} outputs needs a reference, and there are {len(references)} lists")
    return [[own[place] if place < len(own) else None for own in references]
            for place in range(max(map(len, references)))]


def library() -> ModuleType:
    """sacrebleu's metrics."""
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise BloomeryError("sacrebleu is not installed", why=str(error),
                            hint="pip install 'bloomery[text]'") from error
    return metrics


# --- ROUGE --------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Overlap:
    """Precision: the share of the output found in the reference; recall: of the reference in the output; their F1."""

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, shared: int, output: int, reference: int) -> "Overlap":
        precision, recall = shared / max(output, 1), shared / max(reference, 1)
        return cls(precision, recall, 2 * precision * recall / (precision + recall) if shared else 0.0)


def rouge(output: str, reference: str, *, stem: Callable[[str], str] | None = None) -> dict[str, Overlap]:
    """ROUGE-1, -2, -L and -Lsum of one text.  `stem`, as of `porter()`, makes one of words of more than three letters.

    L is the longest common subsequence of the texts; Lsum, for summaries of one sentence a line, for each line of the
    reference what any line of the output shares with it.
    """
    out, ref = rouge_tokens(output, stem), rouge_tokens(reference, stem)
    lines, wanted = ([rouge_tokens(line, stem) for line in text.split("\n") if line] for text in (output, reference))
    found = {f"rouge{n}": Overlap.of(sum((ngrams(out, n) & ngrams(ref, n)).values()), max(len(out) - n + 1, 0),
                                     max(len(ref) - n + 1, 0)) for n in (1, 2)}
    return found | {"rougeL": Overlap.of(len(common(ref, out)), len(out), len(ref)),
                    "rougeLsum": Overlap.of(shared_by_lines(wanted, lines), sum(map(len, lines)),
                                            sum(map(len, wanted)))}


def rouge_tokens(text: str, stem: Callable[[str], str] | None = None) -> list[str]:
    """Runs of a-z and 0-9 in lower case."""
    found = re.findall("[a-z0-9]+", text.lower())
    return [stem(word) if len(word) > 3 else word for word in found] if stem else found


def common(a: Sequence[str], b: Sequence[str]) -> list[int]:
    """Places in `a` of a longest common subsequence of both: that which is met first from the end."""
    table = [[0] * (len(b) + 1)]
    for i, one in enumerate(a):
        above, row = table[i], [0]
        for j, other in enumerate(b):
            row.append(above[j] + 1 if one == other else max(above[j + 1], row[j]))
        table.append(row)
    places, i, j = [], len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            places.append(i)
        elif table[i][j - 1] > table[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return places[::-1]


def shared_by_lines(reference: list[list[str]], output: list[list[str]]) -> int:
    """Words of the reference's lines that some line of the output has in common with them, none counted too often."""
    left = [Counter(word for line in lines for word in line) for lines in (reference, output)]
    shared = 0
    for line in reference:
        for place in sorted({place for other in output for place in common(line, other)}):
            if all(one[line[place]] for one in left):
                shared += 1
                for one in left:
                    one[line[place]] -= 1
    return shared


def porter() -> Callable[[str], str]:
    """NLTK's Porter stemmer, rouge-score's own."""
    try:
        from nltk.stem.porter import PorterStemmer
    except ImportError as error:
        raise BloomeryError("nltk is not installed", why=str(error), hint="pip install nltk") from error
    return PorterStemmer().stem


# --- word error rate ----------------------------------------------------------------------------------------------

def word_error_rate(outputs: Sequence[str], references: Sequence[str]) -> float:
    """Words to insert, delete or replace, over the words of all references; above 1 where outputs run on.

    Words stand between spaces and count as they are written.  Raises `ValueError` where references have no word.
    """
    wanted = [reference.split() for reference in references]
    if len(outputs) != len(references) or not any(wanted):
        raise ValueError(f"{len(outputs)} outputs for {len(references)} references, which must have a word")
    return sum(levenshtein(output.split(), words) for output, words in zip(outputs, wanted)) / sum(map(len, wanted))
