"""What a curation leaves: parts become one file each of documents, of what was dropped, and of statistics.

Row groups are cut by the documents alone, so that a file's bytes do not depend on how the work was divided.
"""

import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bloomery.core.files import parquet_writer
from bloomery.curate.decisions import spooled
from bloomery.curate.distribution import Ranges
from bloomery.curate.sieve import DROPPED, NUMBER
from bloomery.curate.step import SCHEMA

GROUP_DOCUMENTS, GROUP_BYTES = 8192, 1 << 24                # a row group ends at whichever comes first


def write_documents(parts: list[Path], path: Path) -> None:
    """The documents of the last pass, with what labels they have; `url` only where any has one."""
    labels, any_url = [], False
    for batch in every(parts, "documents"):
        labels += [field.name for field in batch.schema if pa.types.is_string(field.type) and field.name not in labels
                   and field.name not in SCHEMA.names]
        any_url = any_url or pc.any(pc.not_equal(batch.column("url"), "")).as_py()
    extra = [name for name in labels if name != "url" or any_url]
    schema = pa.schema([*SCHEMA, *(pa.field(name, pa.string()) for name in extra)])
    with parquet_writer(path, schema) as writer:
        for table in groups(select(batch, schema) for batch in every(parts, "documents")):
            writer.write_table(table)


def write_dropped(passes: list[list[Path]], path: Path) -> None:
    """What was dropped by any pass, in source order; `passes` has the parts of each."""
    with parquet_writer(path, DROPPED) as writer:
        for table in groups(batch for parts in zip(*passes) for batch in in_order(parts)):
            writer.write_table(table)


def in_order(parts: tuple[Path, ...]) -> Iterator[pa.RecordBatch]:
    """What the passes dropped of one part, by the number of the document."""
    found = [batch for part in parts for batch in spooled(part / "dropped.arrow")]
    if found:
        yield from pa.Table.from_batches(found).sort_by(NUMBER).select(DROPPED.names).combine_chunks().to_batches()


def write_statistics(passes: list[list[Path]], path: Path, ranges: Ranges, steps: list[dict]) -> None:
    """One row a document read: what every step measured, `dropped` ("step.reason") or null, and the rules over it.

    The rules, and the kinds of steps, stand in the file's metadata: `rethreshold.py` needs nothing else.
    """
    tables = [statistics(parts) for parts in zip(*passes)]
    schema = pa.unify_schemas([table.schema for table in tables if table.num_rows] or
                              [pa.schema([("id", pa.string())])], promote_options="permissive")
    rules = {name: [value if isfinite(value) else None for value in limits] for name, limits in ranges.items()}
    schema = schema.with_metadata({"rules": json.dumps(rules), "steps": json.dumps(steps)})
    with parquet_writer(path, schema) as writer:
        for group in groups(select(table, schema) for table in tables if table.num_rows):
            writer.write_table(group)


def statistics(parts: tuple[Path, ...]) -> pa.Table:
    """The statistics of one part's documents, joined over the passes by the number of the document."""
    whole = None
    for part in parts:
        batches = list(spooled(part / "statistics.arrow"))
        if not batches:
            continue
        table = pa.Table.from_batches(batches)
        if whole is None:
            whole = table
            continue
        places = np.full(whole.num_rows, -1)
        places[table.column(NUMBER).to_numpy()] = np.arange(table.num_rows)
        table = table.take(pa.array(places, mask=places < 0))
        for name in table.column_names:
            if name == "dropped":
                merged = pc.coalesce(whole.column(name), table.column(name))
                whole = whole.set_column(whole.schema.get_field_index(name), name, merged)
            elif name not in whole.column_names:
                whole = whole.append_column(name, table.column(name))
    return pa.table({}) if whole is None else whole.drop_columns([NUMBER])


def every(parts: list[Path], name: str) -> Iterator[pa.RecordBatch]:
    for part in parts:
        yield from spooled(part / f"{name}.arrow")


def select(rows: pa.RecordBatch | pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a schema, null where a batch has none."""
    return pa.table([rows.column(field.name).cast(field.type) if field.name in rows.schema.names
                     else pa.nulls(rows.num_rows, field.type) for field in schema], schema=schema)


def groups(batches: Iterator[pa.RecordBatch | pa.Table]) -> Iterator[pa.Table]:
    """The same rows in groups whose ends depend on the rows alone."""
    waiting, documents, size = [], 0, 0
    for batch in batches:
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        sizes = pc.binary_length(table.column("text")).to_numpy() if "text" in table.column_names else \
            np.zeros(table.num_rows, np.int64)
        start = 0
        for row, length in enumerate(sizes.tolist()):
            documents, size = documents + 1, size + length
            if documents == GROUP_DOCUMENTS or size >= GROUP_BYTES:
                yield pa.concat_tables([*waiting, table.slice(start, row + 1 - start)])
                waiting, documents, size, start = [], 0, 0, row + 1
        waiting.append(table.slice(start))
    if documents:
        yield pa.concat_tables(waiting)
