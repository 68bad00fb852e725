"""A curation step: a batch of documents in, for each row None (keep) or the reason to drop it.

A batch is an Arrow record batch with the columns of `SCHEMA`.  A step may remember what it has seen (a duplicate filter
does), so each run makes its own, and batches reach it in source order.  A rule about one document at a time is a plain
function `reason(document) -> str | None`; `ByDocument` makes a step of it.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import pyarrow as pa

from bloomery.core.records import Document

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.large_string()), ("source", pa.string())])


class Step(Protocol):
    """Anything that can say, for each row of a batch, why it should be dropped."""

    def reasons(self, batch: pa.RecordBatch) -> list[str | None]: ...


class ByDocument:
    """A step from a function of one document."""

    def __init__(self, reason: Callable[[Document], str | None]):
        self.reason = reason

    def reasons(self, batch: pa.RecordBatch) -> list[str | None]:
        return [self.reason(document) for document in documents_of(batch)]


def batch_of(documents: Iterable[Document]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"id": d.id, "text": d.text, "source": d.source} for d in documents], SCHEMA)


def documents_of(batch: pa.RecordBatch) -> list[Document]:
    return [Document(**row) for row in batch.to_pylist()]
