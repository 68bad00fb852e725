"""One batch of documents on its way through the steps of a pass.

All local steps see the same text, and all that are not dear the same batch, so that statistics are computed once for
all.  A document bears the reason of the first step that had one.  Edits are applied to what is kept, at the end.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bloomery.curate.account import Ledger
from bloomery.curate.edits import Edits, apply, joined
from bloomery.curate.step import Findings, Step

DROPPED = pa.schema([("id", pa.string()), ("source", pa.string()), ("reason", pa.string()), ("step", pa.string()),
                     ("text", pa.large_string())])
EXCERPT = 4000                                              # characters kept of a dropped text
NUMBER = "number"                                           # of a document in its part, from the first pass on
Write = Callable[[str, pa.RecordBatch], None]


class Sieve:
    """One batch on its way through the steps of a pass."""

    def __init__(self, batch: pa.RecordBatch, ledger: Ledger):
        self.batch, self.ledger = batch, ledger
        self.reasons: list[str | None] = [None] * batch.num_rows
        self.steps: list[str] = [""] * batch.num_rows
        self.rows = np.arange(batch.num_rows)                           # of `batch` in the batch as it came in
        self.verdicts: list[tuple[int, str]] = []                       # rows that went, and why
        self.edits: dict[str, Edits] = {}
        self.marks: dict[str, Edits] = {}
        self.columns: dict[str, tuple[np.ndarray, np.ndarray]] = {}     # name: rows of the incoming batch, values

    def examine(self, name: str, step: Step, *, profile: bool) -> None:
        """One local step: over the whole batch, or if it is dear over what no step before it dropped."""
        spared = getattr(step, "dear", False) and not profile
        rows = np.array([row for row, reason in enumerate(self.reasons) if not (spared and reason)], np.int64)
        batch = self.batch if len(rows) == self.batch.num_rows else self.batch.take(pa.array(rows))
        findings = step.examine(batch) if batch.num_rows else Findings([])
        for rule, limits in getattr(step, "ranges", {}).items():
            if rule in findings.columns:
                self.ledger.border(batch, f"{name}.{rule}", np.asarray(findings.columns[rule], np.float64), limits)
        self.found(name, findings, rows, scores=not hasattr(step, "ranges"))

    def found(self, name: str, findings: Findings, rows: np.ndarray, *, scores: bool = True) -> None:
        """Take down what a step found in those rows of the batch; `scores` are seen by the steps after it."""
        if len(findings.reasons) != len(rows):
            raise ValueError(f"step {name} gave {len(findings.reasons)} reasons for {len(rows)} documents")
        for row, reason in zip(rows.tolist(), findings.reasons):
            if reason is not None and self.reasons[row] is None:
                self.reasons[row], self.steps[row] = reason, name
        for kind, place in ((findings.edits, self.edits), (findings.marks, self.marks)):
            if kind is not None and len(kind):
                place[name] = kind.at(rows)
        verdicts = np.array([reason or "" for reason in findings.reasons], object)
        self.columns[f"{name}.reason"] = self.rows[rows], verdicts
        for column, values in findings.columns.items():
            values = np.asarray(values)
            is_label = values.dtype.kind in "UO"
            self.columns[column if is_label else f"{name}.{column}"] = self.rows[rows], values
            if is_label or scores and values.dtype.kind != "S":
                self.batch = with_column(self.batch, column, spread(rows, values, self.batch.num_rows))

    def settle(self, write: Write) -> None:
        """Let go of what has a reason, apply the edits to the rest, and let go of what they leave empty."""
        gone = np.array([reason is not None for reason in self.reasons], bool)
        self.drop(np.flatnonzero(gone), self.reasons, self.steps, self.marks | self.edits, write)
        places = np.where(gone, -1, np.cumsum(~gone) - 1)
        edits = {name: moved(found, places) for name, found in self.edits.items()}
        self.keep(~gone)
        for name, found in edits.items():
            self.ledger.edit(self.batch, name, found)
        if last := [name for name, found in edits.items() if len(found)][-1:]:
            before = pc.sum(pc.binary_length(self.batch.column("text"))).as_py()
            self.batch = apply(self.batch, joined(list(edits.values())))
            text = self.batch.column("text")
            self.ledger.counts[f"net\t{last[0]}\t\t\tbytes"] += before - pc.sum(pc.binary_length(text)).as_py()
            empty = pc.or_(pc.utf8_is_space(text), pc.equal(pc.binary_length(text), 0)).to_numpy(False)
            self.drop(np.flatnonzero(empty), ["nothing_left"] * len(empty), last * len(empty), {}, write)
            self.keep(~empty)
        self.reasons, self.steps = [None] * self.batch.num_rows, [""] * self.batch.num_rows
        self.edits, self.marks = {}, {}

    def keep(self, mask: np.ndarray) -> None:
        self.batch, self.rows = self.batch.filter(pa.array(mask)), self.rows[mask]

    def drop(self, rows: np.ndarray, reasons: list, steps: list[str], marks: dict[str, Edits], write: Write) -> None:
        """Write the documents that go, each with its step and reason, and count them."""
        if not len(rows):
            return
        lost = self.batch.take(pa.array(rows))
        by, why = [steps[row] for row in rows], [reasons[row] for row in rows]
        for name in dict.fromkeys(by):
            here = np.array([place for place, step in enumerate(by) if step == name])
            places = np.full(self.batch.num_rows, -1)
            places[rows[here]] = np.arange(len(here))
            self.ledger.drop(lost.take(pa.array(here)), name, [why[place] for place in here],
                             moved(marks.get(name, Edits()), places))
            self.verdicts += [(int(self.rows[rows[place]]), f"{name}.{why[place]}") for place in here]
        excerpts = pc.utf8_slice_codeunits(lost.column("text"), 0, EXCERPT)
        columns = [lost.column("id"), lost.column("source"), pa.array(why), pa.array(by), excerpts, lost.column(NUMBER)]
        write("dropped", pa.RecordBatch.from_arrays(columns, [*DROPPED.names, NUMBER]))

    def table(self, incoming: pa.RecordBatch) -> pa.Table:
        """What was found of all documents that came in, null where a step did not look; `dropped` says why one went."""
        columns = {NUMBER: incoming.column(NUMBER), "id": incoming.column("id"), "source": incoming.column("source"),
                   "bytes": pc.cast(pc.binary_length(incoming.column("text")), pa.int64())}
        for name, (rows, values) in self.columns.items():
            columns[name] = spread(rows, values, incoming.num_rows)
        rows, why = zip(*self.verdicts) if self.verdicts else ((), ())
        columns["dropped"] = spread(np.array(rows, np.int64), np.array(why, object), incoming.num_rows)
        return pa.table(columns)


def spread(rows: np.ndarray, values: np.ndarray, count: int) -> pa.Array:
    """Values of some of `count` rows, null in the others; bytes are text that is no label."""
    if values.dtype.kind in "UO":
        full = np.full(count, None, object)
        full[rows] = values
        return pa.array(full.tolist(), pa.string())
    full, unseen = np.zeros(count, values.dtype), np.ones(count, bool)
    full[rows], unseen[rows] = values, False
    found = pa.array(full, mask=unseen)
    return found.cast(pa.string()) if values.dtype.kind == "S" else found


def with_column(batch: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    place = batch.schema.get_field_index(name)
    return batch.append_column(name, column) if place < 0 else batch.set_column(place, name, column)


def moved(edits: Edits, places: np.ndarray) -> Edits:
    """Edits of rows that are now elsewhere: row i at places[i], gone where that is -1."""
    kept = np.flatnonzero(places[edits.row] >= 0) if len(edits) else np.empty(0, np.int64)
    return Edits(places[edits.row[kept]], edits.start[kept], edits.stop[kept], [edits.text[place] for place in kept])
