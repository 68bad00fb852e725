"""Documents from files of every format, in batches: JSONL and Parquet by the block, archives and pages by the record.

What is read is either a document or set aside with its place and reason; records of a web archive that hold no page are
counted by what they are.  A batch has `id`, `text`, `source` (the row's own, else its place) and `url` ("" where there
is none).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from bloomery.core import files
from bloomery.core.files import Quarantine, extension
from bloomery.core.records import text_id
from bloomery.core.unpacking import chunks
from bloomery.curate.encoding import decode
from bloomery.curate.extract import page_text
from bloomery.curate.jsonl import blank, read_jsonl
from bloomery.curate.warc import HEADERS, pages
from bloomery.data import formats, stdlib

READ = pa.schema([("id", pa.string()), ("text", pa.large_string()), ("source", pa.string()), ("url", pa.string())])
BATCH_DOCUMENTS, BATCH_BYTES = 1024, 1 << 24                # a batch ends at whichever comes first


class Reading:
    """One piece being read: what was set aside, passed over, and in which encodings pages came."""

    def __init__(self, *, batch_bytes: int = BATCH_BYTES):
        self.quarantine, self.passed, self.encodings = Quarantine(), Counter(), Counter()
        self.batch_bytes = batch_bytes
        self.first_bad: dict[str, tuple[str, str, list[str]]] = {}             # by source: where, why, its columns
        self.good: Counter = Counter()

    def as_json(self) -> dict:
        return {"quarantine": self.quarantine.entries, "quarantined": dict(self.quarantine.reasons),
                "passed": dict(self.passed), "encodings": dict(self.encodings), "good": dict(self.good),
                "first_bad": self.first_bad}

    def batches(self, pieces: tuple) -> Iterator[pa.RecordBatch]:
        """The documents of pieces in order."""
        waiting, held = [], 0
        for piece in pieces:
            for found in self.read(piece):
                if isinstance(found, pa.Table):
                    yield from flush(waiting)
                    waiting, held = [], 0
                    self.good[piece.source] += found.num_rows
                    yield from self.cut(found)
                elif (row := self.document(found, piece)) is not None:
                    self.good[piece.source] += 1
                    waiting.append(row)
                    held += len(row[1])
                    if len(waiting) == BATCH_DOCUMENTS or held >= self.batch_bytes:
                        yield from flush(waiting)
                        waiting, held = [], 0
        yield from flush(waiting)

    def read(self, piece: object) -> Iterator[pa.Table | dict]:
        if piece.path == stdlib.SOURCE:
            for document in stdlib.documents(self.quarantine):
                yield {"text": document.text, "source": document.source, "where": document.source}
            return
        path = Path(piece.path)
        reader = READERS.get(extension(path))
        if reader:
            yield from reader(self, path, piece)
        else:
            for row, where in files.READERS[extension(path)](path, self.quarantine):
                yield {**row, "where": where}

    def document(self, row: dict, piece: object) -> tuple[str, str, str, str] | None:
        """A row's id, text, source and url; None when it is set aside."""
        where, byte, encoding = row.pop("where"), row.pop("byte", None), row.pop("encoding", "")
        found = formats.document(row, where.removeprefix(piece.base))
        if isinstance(found, str):
            self.quarantine.add(where, found, str(row), byte=byte)
            self.first_bad.setdefault(piece.source, (where, found, [str(name) for name in row]))
            return None
        if encoding:
            self.encodings[encoding] += 1
        return found.id, found.text, found.source, row["url"] if isinstance(row.get("url"), str) else ""

    def cut(self, table: pa.Table) -> Iterator[pa.RecordBatch]:
        """A table of `text`, `source`, `url`, `where` as batches of documents."""
        given = table.column("source")
        absent = pc.or_(pc.is_null(given), pc.equal(pc.fill_null(given, ""), ""))
        source = pc.if_else(absent, table.column("where"), given)
        text = table.column("text").combine_chunks()
        ids = pa.array([text_id(value.as_py()) for value in text], pa.string())
        columns = [ids, text, source.combine_chunks(), pc.fill_null(table.column("url"), "").combine_chunks()]
        whole = pa.RecordBatch.from_arrays(columns, schema=READ)
        sizes, start, held = pc.binary_length(text).to_pylist(), 0, 0
        for row, size in enumerate(sizes):
            held += size
            if row + 1 - start == BATCH_DOCUMENTS or held >= self.batch_bytes or row + 1 == len(sizes):
                yield whole.slice(start, row + 1 - start)
                start, held = row + 1, 0


def flush(rows: list[tuple[str, str, str, str]]) -> Iterator[pa.RecordBatch]:
    if rows:
        yield pa.RecordBatch.from_arrays([pa.array(column, field.type) for column, field in zip(zip(*rows), READ)],
                                         schema=READ)


def jsonl(reading: Reading, path: Path, piece: object) -> Iterator[pa.Table | dict]:
    for found in read_jsonl(path, piece.start, piece.stop, piece.first, piece.place, reading.quarantine):
        if isinstance(found, pa.Table):
            yield found
        else:
            yield from found


def read_parquet(reading: Reading, path: Path, piece: object) -> Iterator[pa.Table | dict]:
    """Row groups by the batch; a batch with bad or missing texts row by row."""
    def documents(batch: pa.RecordBatch, number: int) -> Iterator[pa.Table | dict]:
        table = plain_columns(batch, piece.place, number)
        if table is not None:
            yield table
        else:
            for row, where in files.batch_rows(batch, path, number, reading.quarantine):
                yield {**row, "where": where}

    return files.parquet_batches(path, reading.quarantine, documents, first=piece.start, last=piece.stop,
                                 number=piece.first)


def plain_columns(batch: pa.RecordBatch, place: str, number: int) -> pa.Table | None:
    """A batch of nothing but good texts as a table; None when its rows have to be looked at one by one."""
    columns = {}
    for name in ("text", "source", "url"):
        found = batch.column(name) if name in batch.schema.names else pa.nulls(batch.num_rows, pa.string())
        if not (pa.types.is_string(found.type) or pa.types.is_large_string(found.type)):
            return None
        try:
            found.validate(full=True)
        except pa.ArrowInvalid:
            return None
        columns[name] = found.cast(pa.large_string() if name == "text" else pa.string())
    if columns["text"].null_count or blank(pa.chunked_array([columns["text"]])):
        return None
    where = pa.array([f"{place}:{number + row}" for row in range(batch.num_rows)], pa.string())
    return pa.table({**columns, "where": where})


def plain_text(reading: Reading, path: Path, piece: object) -> Iterator[dict]:
    """The whole file as one document, whatever its encoding."""
    return one_document(reading, path, decode)


def html(reading: Reading, path: Path, piece: object) -> Iterator[dict]:
    """The main text of a page."""
    return one_document(reading, path, page_text)


def one_document(reading: Reading, path: Path, read: Callable[[bytes], tuple[str, str] | str]) -> Iterator[dict]:
    """The text and encoding that are read of a file's bytes, or why there are none; a damaged file is no document."""
    content = intact(reading, path)
    if content is not None:
        found = read(content)
        if isinstance(found, str):
            reading.quarantine.add(f"{path}:1", found, content)
        else:
            yield {"text": found[0], "where": f"{path}:1", "encoding": found[1]}


def intact(reading: Reading, path: Path) -> bytes | None:
    parts = list(chunks(path, reading.quarantine.add))
    return None if None in parts else b"".join(parts)


def archive(reading: Reading, path: Path, piece: object) -> Iterator[dict]:
    """The pages of a web archive."""
    name = extension(path).removesuffix(".gz").removesuffix(".zst")
    return pages(path, HEADERS[name], reading.quarantine, reading.passed)


TEXTS = {".jsonl": jsonl, ".txt": plain_text, ".html": html, ".htm": html, ".xhtml": html,
         **dict.fromkeys(HEADERS, archive)}
READERS = {".parquet": read_parquet} | {name + packed: reader for name, reader in TEXTS.items()
                                        for packed in ("", ".gz", ".zst")}
