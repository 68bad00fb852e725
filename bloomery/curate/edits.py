"""Edits: spans of documents to be replaced, found in one pass and applied once, when a document is written.

Offsets are bytes into the UTF-8 text and always lie on character boundaries.  Spans of one document that overlap are
merged: they become one cut if any of them is a cut, else the text of the first stands for all.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Edits:
    """M spans: bytes start to stop of the document in that row become `text` ("" is a cut)."""

    row: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))              # (M,) int64
    start: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))            # (M,) int64
    stop: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))             # (M,) int64
    text: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.row)

    @staticmethod
    def cuts(row: np.ndarray, start: np.ndarray, stop: np.ndarray) -> "Edits":
        """Spans that go without a replacement."""
        return Edits(*(np.asarray(part, np.int64) for part in (row, start, stop)), [""] * len(row))

    def at(self, rows: np.ndarray) -> "Edits":
        """Edits of a selection as edits of the batch it was taken from: row i becomes rows[i]."""
        return Edits(rows[self.row], self.start, self.stop, self.text)

    def within(self, low: int, high: int) -> "Edits":
        """The edits of rows low to high, counted from low; the rows are sorted."""
        first, last = np.searchsorted(self.row, (low, high))
        return Edits(self.row[first:last] - low, self.start[first:last], self.stop[first:last], self.text[first:last])

    def by_row(self) -> "Edits":
        """The same edits, sorted by row and start."""
        order = np.lexsort((self.start, self.row))
        return Edits(self.row[order], self.start[order], self.stop[order], [self.text[place] for place in order])


def in_bytes(text: str, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ascending spans of characters as spans of bytes of the UTF-8 text."""
    place = size = 0
    for start, stop in spans:
        first = size + len(text[place:start].encode("utf-8"))
        place, size = stop, first + len(text[start:stop].encode("utf-8"))
        yield first, size


def joined(parts: list[Edits]) -> Edits:
    """All edits of several steps on one batch."""
    if not parts:
        return Edits()
    row, start, stop = (np.concatenate([getattr(part, name) for part in parts]) for name in ("row", "start", "stop"))
    return Edits(row, start, stop, [text for part in parts for text in part.text])


def merged(edits: Edits) -> Edits:
    """The same edits by row and start, none overlapping another; spans that only touch stay apart."""
    order = np.lexsort((-edits.stop, edits.start, edits.row))
    rows, starts, stops, texts = [], [], [], []
    for place in order.tolist():
        row, start, stop = int(edits.row[place]), int(edits.start[place]), int(edits.stop[place])
        if rows and row == rows[-1] and start < stops[-1]:
            stops[-1] = max(stops[-1], stop)
            texts[-1] = texts[-1] and edits.text[place] and texts[-1]
        else:
            rows.append(row), starts.append(start), stops.append(stop), texts.append(edits.text[place])
    return Edits(np.array(rows, np.int64), np.array(starts, np.int64), np.array(stops, np.int64), texts)


def apply(batch: pa.RecordBatch, edits: Edits) -> pa.RecordBatch:
    """The batch with its texts edited; rows without an edit keep their bytes."""
    if not len(edits):
        return batch
    edits, column = merged(edits), batch.column("text")
    if edits.row.min() < 0 or edits.row.max() >= batch.num_rows:
        raise ValueError(f"edits of rows {edits.row.min()} to {edits.row.max()}, the batch has {batch.num_rows}")
    texts, bounds = column.to_pylist(), np.searchsorted(edits.row, np.arange(batch.num_rows + 1))
    for row in np.unique(edits.row).tolist():
        content, pieces, position = texts[row].encode("utf-8"), [], 0
        for place in range(bounds[row], bounds[row + 1]):
            pieces += content[position:edits.start[place]], edits.text[place].encode("utf-8")
            position = int(edits.stop[place])
        texts[row] = b"".join([*pieces, content[position:]]).decode("utf-8")
    return batch.set_column(batch.schema.get_field_index("text"), "text", pa.array(texts, pa.large_string()))
