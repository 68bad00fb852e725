"""The perplexity gate: how surprising a text is to a language model of texts that are known to be good.

The model is counted here, from the user's own texts: byte-level BPE, then a modified Kneser-Ney 5-gram over its ids
(`classic/ngram.py`), both of simplified texts (lower case, digits to 0, no punctuation).  A document's perplexity is
e^(nats a token).  As in CCNet (Wenzek et al. 2020, section 3.3, and its thresholds) documents fall into head, middle
and tail: up to the 30th percentile of all, up to the 60th, and the rest; or up to fixed `limits`.

High perplexity is not low quality: lists and code have it too.  CCNet therefore keeps the tail apart, not away.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from bloomery.classic.ngram import Ngram
from bloomery.classic.smoothing import modified_kneser_ney
from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import say
from bloomery.curate.exact import NORMALISED
from bloomery.curate.step import Findings, Gathered
from bloomery.data import formats
from bloomery.text.tokenizer import load_tokenizer, train_tokenizer

BUCKETS = ("head", "middle", "tail")


class Perplexity(Settings):
    """What the model is counted from, and which part is kept."""

    reference: Input | list[Input] = Field("", description="files or folders with texts that are known to be good")
    characters: int = Field(10_000_000, ge=1, description="how much of them is read, from the beginning")
    tokenizer: Input | None = Field(None, description="folder with a tokenizer; none: one is made of the reference")
    vocabulary: int = Field(8192, ge=259, description="ids of the tokenizer that is made")
    order: int = Field(5, ge=1, le=8, description="tokens a gram")
    normalise: Literal["none", "space", "ccnet"] = Field("ccnet", description="how texts are simplified first")
    percentiles: tuple[float, float] = Field((30, 60), description="of all documents: end of head, end of middle")
    limits: tuple[float, float] | None = Field(None, description="perplexities in place of percentiles")
    keep: tuple[Literal["head", "middle", "tail"], ...] = Field(("head", "middle"), description="which parts stay")

    @model_validator(mode="after")
    def ordered(self) -> "Perplexity":
        low, high = self.limits or self.percentiles
        if not 0 <= low <= high or not self.limits and high > 100:
            raise ValueError("the end of the head comes before that of the middle, and percentiles end at 100")
        return self


class PerplexityGate:
    """The step: the model is made when the step is, scores are gathered, and all of them part head from tail."""

    def __init__(self, options: Perplexity):
        self.options, self.normal = options, NORMALISED[options.normalise]
        texts = list(reference(options))
        self.tokenizer = load_tokenizer(Path(options.tokenizer)) if options.tokenizer else \
            train_tokenizer(map(self.normal, texts), vocabulary=options.vocabulary)
        ids = self.encoded(texts)
        self.model = Ngram(options.order, self.tokenizer.size, start=self.tokenizer.eos,
                           smoothing=modified_kneser_ney()).fit(ids)
        for order in self.model.orders:
            _ = order.grams.slots                           # made at first use, which must not be that of two threads
        say(f"  perplexity: a {options.order}-gram of {len(texts)} documents, {sum(map(len, ids)) / 1e6:.1f}M tokens")

    def encoded(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of simplified texts, each opened by the token between texts."""
        found = self.tokenizer.encode_batch([self.normal(text) for text in texts])
        return [np.array([self.tokenizer.eos, *ids], np.int64) for ids in found]

    def perplexities(self, texts: list[str]) -> np.ndarray:
        """(N,) e^(nats a token); infinite where nothing is left to be read."""
        found = self.model.batched(self.encoded(texts)) if texts else []
        return np.exp([-np.log(p).mean() if len(p) else np.inf for p in found])

    def gather(self, batch: pa.RecordBatch) -> dict[str, np.ndarray]:
        return {"perplexity": self.perplexities(batch.column("text").to_pylist())}

    def decide(self, gathered: Gathered) -> Findings:
        values = np.asarray(gathered["perplexity"])
        finite = values[np.isfinite(values)]
        ends = self.options.limits or (np.percentile(finite, self.options.percentiles) if len(finite) else (0, 0))
        part = np.searchsorted(ends, values)                            # up to an end is before it
        names = np.array(BUCKETS, object)[part]
        counts = np.bincount(part, minlength=len(BUCKETS)).tolist()
        return Findings([None if name in self.options.keep else f"perplexity_{name}" for name in names],
                        {"perplexity": values, "bucket": names},
                        account={"ends": [float(end) for end in ends], "documents": dict(zip(BUCKETS, counts))})


def reference(options: Perplexity) -> Iterator[str]:
    """The texts a model is made of; `InputError` where there are none."""
    places = [options.reference] if isinstance(options.reference, str) else options.reference
    if not any(places):
        raise InputError("perplexity to what?", why="the gate compares with texts that are known to be good",
                         hint="perplexity.reference=good.jsonl, a file or folder with a column text")
    read = 0
    for document in (found for place in places for found in formats.documents(place, Quarantine())):
        if read >= options.characters:
            return
        read += len(document.text)
        yield document.text
    if not read:
        raise InputError("no text to learn perplexity from", where=", ".join(places))
