"""Words and sentences that should not be learned: by a lexicon, by a classifier, or by both.

    lexicon       C4 drops a document with one listed word (Raffel et al. 2020, section 2.2)
    classifier    Dolma cuts sentences whose probability is 0.4 or more (Soldaini et al. 2024, section 3.4)

Either can do either: `unit` says what goes.  A word that begins or ends inside another is not found.  Neither a list
nor a classifier comes with this tool: what is toxic is for its user to say.  Train one with `bloomery toxicity` from a
table like Jigsaw's.
"""

from collections.abc import Iterable
from math import inf
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from bloomery.classic.words import sentence_spans, words
from bloomery.core.config import Input, Settings
from bloomery.core.errors import ConfigError
from bloomery.curate.classifier import label_of, load_judge
from bloomery.curate.edits import Edits, in_bytes
from bloomery.curate.step import Findings
from bloomery.curate.url import entries


class Toxicity(Settings):
    """What is toxic, and what then goes."""

    model: Input | None = Field(None, description="a classifier made by `bloomery toxicity`")
    label: str = Field("", description="the label that is not wanted; default: of two the last, as 1 is of 0 and 1")
    lexicon: Input | list[Input] = Field([], description="files of words and phrases, an entry a line")
    unit: Literal["sentence", "document"] = Field("sentence", description="what goes when one is found")
    threshold: float = Field(0.4, ge=0, le=1, description="probability from which on a sentence or document is toxic")
    most: float = Field(0.5, ge=0, le=1, description="share of a text in toxic sentences beyond which all of it goes")


class Purge:
    """The step that cuts toxic sentences, or drops documents."""

    dear = True

    def __init__(self, options: Toxicity):
        if not (options.model or options.lexicon):
            raise ConfigError("nothing says what is toxic", where="toxicity",
                              hint="give toxicity.lexicon=WORDS.txt, or toxicity.model=CLASSIFIER")
        self.options, self.lexicon = options, Lexicon(entries(options.lexicon))
        self.judge = load_judge(options.model, "toxicity") if options.model else None
        self.toxic = label_of(self.judge, options.label, "toxicity") if self.judge else 0
        if options.unit == "document":
            self.ranges = {"toxicity": (-inf, float(np.nextafter(options.threshold, -inf)))}
        else:
            self.ranges = {"toxic_share": (-inf, options.most)}

    def examine(self, batch: pa.RecordBatch) -> Findings:
        texts, whole = batch.column("text").to_pylist(), self.options.unit == "document"
        spans = [[(0, len(text))] if whole else sentence_spans(text) for text in texts]
        scores = self.scores([text[start:stop] for text, own in zip(texts, spans, strict=True) for start, stop in own])
        worst, shares, cuts = np.zeros(len(texts)), np.zeros(len(texts)), []
        ends = np.cumsum([len(own) for own in spans])[:-1]
        for row, (text, own, given) in enumerate(zip(texts, spans, np.split(scores, ends), strict=True)):
            toxic = [span for span, score in zip(own, given, strict=True) if score >= self.options.threshold]
            worst[row] = given.max(initial=0)
            shares[row] = sum(stop - start for start, stop in toxic) / max(len(text), 1)
            cuts += [(row, *span) for span in in_bytes(text, toxic)]
        marks = Edits.cuts(*np.array(cuts, np.int64).reshape(-1, 3).T)
        if whole:
            return Findings(["toxicity" if score >= self.options.threshold else None for score in worst],
                            {"toxicity": worst}, marks=marks)
        return Findings(["toxic_share" if share > self.options.most else None for share in shares],
                        {"toxicity": worst, "toxic_share": shares}, marks, marks)

    def scores(self, parts: list[str]) -> np.ndarray:
        """How toxic each part is: 1 with a listed word, else what the classifier says."""
        said = self.judge.probabilities(parts)[:, self.toxic] if self.judge else np.zeros(len(parts))
        return np.maximum(said, [self.lexicon.found(part) for part in parts]) if parts else np.zeros(0)


class Lexicon:
    """Words and phrases, found whole and in any case."""

    def __init__(self, listed: Iterable[str]):
        phrases = [tuple(words(entry)) for entry in listed]
        self.phrases = frozenset(filter(None, phrases))
        self.longest = max(map(len, self.phrases), default=0)

    def found(self, text: str) -> bool:
        """Whether one of them stands in the text."""
        said = words(text) if self.phrases else []
        return any(tuple(said[i:i + n]) in self.phrases for n in range(1, self.longest + 1)
                   for i in range(len(said) - n + 1))
