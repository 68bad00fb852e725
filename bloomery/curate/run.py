"""The curation stage: documents in, a corpus and an account of every document that is not in it.

Batches flow through the steps in source order, each step seeing what the one before it kept.  Every document read is
either in `documents.parquet` or in `dropped.parquet` with its step and reason; every row that was no document is in
`quarantine.jsonl`; `curation.json` has the counts.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import Field, field_validator

from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, parquet_writer
from bloomery.core.metrics import progress, say
from bloomery.core.records import Document
from bloomery.curate.exact import Exact
from bloomery.curate.heuristics import (
    Generated,
    Gopher,
    Heuristic,
    Repetition,
    generated_statistics,
    quality_statistics,
    repetition_statistics,
)
from bloomery.curate.step import SCHEMA, Step, batch_of
from bloomery.data import formats

DROPPED = pa.schema([("id", pa.string()), ("source", pa.string()), ("reason", pa.string()), ("step", pa.string()),
                     ("text", pa.large_string())])
BATCH_DOCUMENTS, BATCH_CHARACTERS = 1024, 1 << 24           # a batch ends at whichever comes first
EXCERPT = 4000                                              # characters kept of a dropped text


StepName = Literal["exact", "generated", "gopher", "repetition"]


class Config(Settings):
    """Clean, filter and deduplicate documents; what is dropped is kept beside them with its reason."""

    source: Input | list[Input] = Field(description="files or folders with a `text` column, or python:stdlib")
    steps: tuple[StepName, ...] = Field(("exact", "generated", "gopher", "repetition"),
                                        description="what documents go through, in this order")
    generated: Generated = Generated()
    gopher: Gopher = Gopher()
    repetition: Repetition = Repetition()

    @field_validator("steps")
    @classmethod
    def each_step_once(cls, steps: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(steps)) < len(steps):
            raise ValueError("a step is named twice")
        return steps


class Tally:
    """Documents and bytes, kept and dropped for each step and reason."""

    def __init__(self, steps: Sequence[str]):
        self.read, self.kept = [0, 0], [0, 0]
        self.dropped = {step: defaultdict(lambda: [0, 0]) for step in steps}

    def account(self) -> list[dict]:
        """One entry a step: what it dropped and what was left after it."""
        documents, size, entries = *self.read, []
        for step, reasons in self.dropped.items():
            documents -= sum(count for count, _ in reasons.values())
            size -= sum(size for _, size in reasons.values())
            entries.append({"step": step, "documents_left": documents, "bytes_left": size,
                            "reasons": {reason: {"documents": reasons[reason][0], "bytes": reasons[reason][1]}
                                        for reason in sorted(reasons)}})
        return entries


def run(config: Config, out: Path) -> dict:
    """Curate `source` into `documents.parquet`; `InputError` when nothing is read or nothing is left."""
    sources = [config.source] if isinstance(config.source, str) else config.source
    quarantine, tally = Quarantine(), Tally(config.steps)
    steps = {name: STEPS[name](config) for name in config.steps}
    found = chain.from_iterable(formats.documents(source, quarantine) for source in sources)
    with (parquet_writer(out / "documents.parquet", SCHEMA) as kept,
          parquet_writer(out / "dropped.parquet", DROPPED) as dropped):
        for batch in batches(progress(found, name="curate documents")):
            kept.write_batch(sift(batch, steps, tally, dropped.write_batch))
    quarantine.write(out)
    if not tally.read[0]:
        raise InputError("the corpus is empty", where=", ".join(sources), why=f"{len(quarantine)} rows were unusable",
                         hint="see quarantine.jsonl for the reasons" if len(quarantine) else "add documents")
    account = tally.account()
    write_atomic(out / "curation.json", json.dumps({
        "read": tally.read[0], "bytes_read": tally.read[1], "kept": tally.kept[0], "bytes_kept": tally.kept[1],
        "quarantined": len(quarantine), "quarantine_reasons": dict(sorted(quarantine.reasons.items())),
        "steps": account}, indent=1))
    counts = report(account, tally, quarantine)
    if not tally.kept[0]:
        worst = max(tally.dropped, key=lambda step: sum(count for count, _ in tally.dropped[step].values()))
        rule = max(tally.dropped[worst], key=lambda reason: tally.dropped[worst][reason])
        mend = f"relax or leave out the rule {worst}.{rule}" if worst in Config.model_fields else f"leave out {worst}"
        raise InputError("curation dropped every document", where=", ".join(sources),
                         why=", ".join(f"{reason} {count}" for reason, count in counts.items()),
                         hint=f"{mend}; see what it dropped with: bloomery show {out}")
    return {"documents_read": tally.read[0], "documents_kept": tally.kept[0], "bytes_read": tally.read[1],
            "bytes_kept": tally.kept[1], "quarantined": len(quarantine),
            **{f"dropped/{reason}": count for reason, count in counts.items()}}


def batches(documents: Iterable[Document]) -> Iterator[pa.RecordBatch]:
    """Record batches of a bounded number of documents and characters."""
    waiting, size = [], 0
    for document in documents:
        waiting.append(document)
        size += len(document.text)
        if len(waiting) == BATCH_DOCUMENTS or size >= BATCH_CHARACTERS:
            yield batch_of(waiting)
            waiting, size = [], 0
    if waiting:
        yield batch_of(waiting)


def sift(batch: pa.RecordBatch, steps: dict[str, Step], tally: Tally,
         drop: Callable[[pa.RecordBatch], None]) -> pa.RecordBatch:
    """What all steps keep of a batch; the rest goes to `drop` with reasons, and everything is counted."""
    count(tally.read, batch)
    for name, step in steps.items():
        reasons = step.reasons(batch)
        lost = batch.filter(pa.array([reason is not None for reason in reasons], pa.bool_()))
        given = [reason for reason in reasons if reason is not None]
        for text, reason in zip(lost.column("text").to_pylist(), given):
            entry = tally.dropped[name][reason]
            entry[0], entry[1] = entry[0] + 1, entry[1] + len(text.encode("utf-8"))
        excerpts = [text[:EXCERPT] for text in lost.column("text").to_pylist()]
        drop(pa.RecordBatch.from_pydict({"id": lost.column("id"), "source": lost.column("source"), "reason": given,
                                         "step": [name] * len(given), "text": excerpts}, DROPPED))
        batch = batch.filter(pa.array([reason is None for reason in reasons], pa.bool_()))
    count(tally.kept, batch)
    return batch


def count(total: list[int], batch: pa.RecordBatch) -> None:
    total[0] += batch.num_rows
    total[1] += sum(len(text.encode("utf-8")) for text in batch.column("text").to_pylist())


def report(account: list[dict], tally: Tally, quarantine: Quarantine) -> dict[str, int]:
    """Say what each step dropped; documents by reason."""
    counts: dict[str, int] = defaultdict(int)
    say(f"  curate: {tally.read[0]} documents, {tally.read[1] / 1e6:.1f} MB read, {len(quarantine)} rows quarantined")
    for entry in account:
        for reason, lost in entry["reasons"].items():
            counts[reason] += lost["documents"]
        lost = ", ".join(f"{reason} {lost['documents']}" for reason, lost in entry["reasons"].items()) or "nothing"
        say(f"  {entry['step']}: dropped {lost}; {entry['documents_left']} left, {entry['bytes_left'] / 1e6:.1f} MB")
    return dict(counts)


STEPS: dict[str, Callable[[Config], Step]] = {
    "exact": lambda config: Exact(),
    "generated": lambda config: Heuristic(generated_statistics, config.generated),
    "gopher": lambda config: Heuristic(quality_statistics, config.gopher),
    "repetition": lambda config: Heuristic(repetition_statistics, config.repetition),
}
