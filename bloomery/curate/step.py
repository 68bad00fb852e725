"""A curation step: what it finds in a batch of documents, for each row None (keep) or the reason to drop it.

A batch is an Arrow record batch with the columns of `SCHEMA`, perhaps `url`, and the labels of steps before it
(`language`).  Every offset is in bytes of the UTF-8 text.  There are two kinds of step:

    local     examine(batch) -> Findings           one document at a time; any order, any batch, any machine
    global    gather(batch) -> arrays, then        a duplicate needs the others: fixed-width arrays are gathered from
              decide(Gathered) -> Findings         every batch into files, and decided on when all are there

Both must be functions of the documents alone: batches may be cut anywhere and run in any order.  A step is built
once a process and shared by its threads.  A rule about one document is a plain `reason(document) -> str | None`;
`ByDocument` makes a step of it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from bloomery.core.records import Document
from bloomery.curate.edits import Edits

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.large_string()), ("source", pa.string())])


@dataclass(frozen=True)
class Findings:
    """What a step finds in N documents.

    `columns` are arrays of N: numbers go to the statistics table, and so do bytes (the id of another document); text
    (a label, as `language`) also stays with the document and is seen by later steps.  `edits` are applied to documents
    that are kept; `marks` are spans that show why a document was dropped.  `account` is what a global step has to tell
    beyond counts (its largest clusters).
    """

    reasons: list[str | None]
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    edits: Edits | None = None
    marks: Edits | None = None
    account: dict = field(default_factory=dict)


class Step(Protocol):
    """A local step.

    May have `ranges`, {rule: (low, high)}: it drops where the column of a rule's name is outside, for the first such
    rule in this order, and for nothing else; then thresholds can be changed without reading a text again.
    `dear = True` asks to be spared the documents that a step before it dropped.
    """

    def examine(self, batch: pa.RecordBatch) -> Findings: ...


class GlobalStep(Protocol):
    """A step that needs all documents: arrays are concatenated over all batches in source order, name by name.

    An array may have a row a document or a row an element (with an array of counts a document beside it).
    """

    def gather(self, batch: pa.RecordBatch) -> dict[str, np.ndarray]: ...

    def decide(self, gathered: "Gathered") -> Findings: ...


@dataclass(frozen=True)
class Gathered(Mapping):
    """What `gather` gave for `documents` documents: arrays by name, memory-mapped where they are large.

    `memory` is how many bytes a decision should stay below; `texts(rows)` fetches texts, in the order asked for.
    """

    arrays: dict[str, np.ndarray]
    documents: int
    texts: Callable[[np.ndarray], list[str]] = lambda rows: []
    memory: int = 1 << 32

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


class ByDocument:
    """A step from a function of one document."""

    def __init__(self, reason: Callable[[Document], str | None]):
        self.reason = reason

    def examine(self, batch: pa.RecordBatch) -> Findings:
        return Findings([self.reason(document) for document in documents_of(batch)])


def decide_alone(step: GlobalStep, batches: Iterable[pa.RecordBatch], **rest: int) -> Findings:
    """What a global step decides on batches that are all in memory."""
    batches = list(batches)
    parts = [step.gather(batch) for batch in batches]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
    texts = [text for batch in batches for text in batch.column("text").to_pylist()]
    return step.decide(Gathered(arrays, len(texts), lambda rows: [texts[row] for row in rows], **rest))


def batch_of(documents: Iterable[Document]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"id": d.id, "text": d.text, "source": d.source} for d in documents], SCHEMA)


def documents_of(batch: pa.RecordBatch) -> list[Document]:
    return [Document(*row) for row in zip(*(batch.column(name).to_pylist() for name in SCHEMA.names))]
