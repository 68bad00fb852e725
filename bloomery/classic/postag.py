"""Parts of speech: two taggers behind one interface, how right they are, their files, and tagged texts in CoNLL-U.

A tagger is trained on sentences of (word, tag), and tags a sentence of words: `HmmTagger` counts and is trained in no
time, `PerceptronTagger` learns from its mistakes and is right more often.
"""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from bloomery.classic.hmm import HmmTagger
from bloomery.classic.perceptron import PerceptronTagger
from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, byte_lines

Tagged = list[tuple[str, str]]
COLUMNS = {"upos": 3, "xpos": 4}                # of CoNLL-U: the 17 universal tags, those of the treebank
TOKEN = re.compile(r"""(?:[^\W\d_]\.){2,}             # e.g. U.S.
    | \d+(?:[.,:/]\d+)+                               # 1,000.5 10:30
    | \w+(?=n['’]t\b) | n['’]t\b | ['’](?:s|m|d|re|ve|ll)\b    # do n't, 's
    | \w+(?:[-.@/]\w+)* | (\W)\1+ | [^\w\s]          # a word, an address, a run of one mark, a mark
    """, re.VERBOSE | re.IGNORECASE)


class Tagger(Protocol):
    kind: str
    words: Collection[str]                      # those it was taught

    def tag(self, words: Sequence[str]) -> list[str]: ...

    def state(self) -> dict: ...


def accuracy(tagger: Tagger, sentences: Iterable[Tagged]) -> dict[str, float]:
    """Shares of words tagged right: of all, and of those the training did not have. A share of nothing is 0."""
    right = unknown_right = tokens = unknown = 0
    for sentence in sentences:
        for (word, truth), guess in zip(sentence, tagger.tag([word for word, _ in sentence]), strict=True):
            new = word not in tagger.words
            right, tokens = right + (guess == truth), tokens + 1
            unknown_right, unknown = unknown_right + (new and guess == truth), unknown + new
    return {"accuracy": right / max(tokens, 1), "unknown_accuracy": unknown_right / max(unknown, 1), "tokens": tokens,
            "unknown": unknown}


def tokens(sentence: str) -> list[str]:
    """Words and marks of a sentence as English treebanks part them: `don't` is `do n't`, `it's` is `it 's`."""
    return [found[0] for found in TOKEN.finditer(sentence) if not found[0].isspace()]


def read_conllu(path: Path, column: str = "upos") -> list[Tagged]:
    """The sentences of a CoNLL-U file, plain or compressed.  `InputError` says which line is wrong.

    Ranges (1-2) and empty nodes (1.1) are left out: what they stand for is there as words, or was never written.
    """
    quarantine, found, sentence = Quarantine(), [], []
    for line, where in byte_lines(Path(path), quarantine):
        fields = line.decode("utf-8", "replace").rstrip("\r\n").split("\t")
        if fields == [""] and sentence:
            found.append(sentence)
            sentence = []
        elif fields[0].isdigit():
            if len(fields) != 10 or not (fields[1] and fields[COLUMNS[column]]):
                raise InputError("a line that is not CoNLL-U", where=where, why=f"it has {len(fields)} columns",
                                 hint="each word has ten columns, tabs between them, none of them empty")
            sentence.append((fields[1], fields[COLUMNS[column]]))
    if sentence:
        found.append(sentence)
    if len(quarantine) or not found:
        reasons = ", ".join(quarantine.reasons) or "no line begins with a number and a tab"
        raise InputError("no tagged sentences to read", where=str(path), why=reasons, hint="files of "
                         "universaldependencies.org end in .conllu")
    return found


def save(tagger: Tagger, path: Path) -> None:
    """Write a tagger to one JSON file, complete or not at all."""
    write_atomic(Path(path), json.dumps({"tagger": tagger.kind, **tagger.state()}, ensure_ascii=False))


def load(path: Path) -> Tagger:
    """Read a tagger.  `InputError` where there is none."""
    try:
        state = json.loads(Path(path).read_text(encoding="utf-8"))
        return TAGGERS[state.pop("tagger")].restored(state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("no tagger to read", where=str(path), why=f"{type(error).__name__}: {error}",
                         hint="make one: bloomery text tag --train FILE.conllu --save TAGGER.json") from error


TAGGERS = {"hmm": HmmTagger, "perceptron": PerceptronTagger}
