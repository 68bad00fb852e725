"""Rows from files of every ordinary format, streamed; what cannot be read is set aside, never in the way of the rest.

A row is a dict and comes with its place (`file:line`).  One bad row costs that row: broken JSON, invalid UTF-8, a gzip
member cut off or damaged, a field too large, a corrupt Parquet row group.  It goes to the `Quarantine` with its place
and the reason.  Only what makes the whole request meaningless is an error, and before any work: no such file, a format
we do not know, an empty folder.  Memory is bounded by one row, except `.json`, a single value that is read whole.
Every text format may be packed by gzip or Zstandard (`.gz`, `.zst`).
"""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow import parquet

from bloomery.core.artifacts import sync_folder, write_atomic
from bloomery.core.errors import InputError
from bloomery.core.unpacking import chunks

Row = tuple[dict, str]
T = TypeVar("T")

MAX_RECORD = 1 << 24                # bytes of one CSV record; beyond it a quote was surely never closed
SURROGATE = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")
NAME = re.compile(r"[A-Za-z_][\w .-]{0,40}", re.ASCII)            # of a column, as a header line has them
DATASETS_METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class BadRow(Exception):
    """Why one row cannot be used; never leaves this file."""


class Quarantine:
    """Rows that could not be used: every one is counted by reason, the first `keep` are kept with place and excerpt."""

    def __init__(self, *, keep: int = 10_000):
        self.keep, self.entries, self.reasons = keep, [], Counter()

    def add(self, where: str, why: str, excerpt: str | bytes = "", *, byte: int | None = None) -> None:
        """Set one row aside. `why` reads "reason: detail"; what stands before the colon is what is counted.

        `byte` is how far into the (unpacked) file the row begins, where that is known.
        """
        self.reasons[why.partition(":")[0]] += 1
        if len(self.entries) < self.keep:
            text = excerpt[:800].decode("utf-8", "backslashreplace") if isinstance(excerpt, bytes) else excerpt[:200]
            shown = text[:200].encode("utf-8", "backslashreplace").decode("utf-8")
            place = {"where": where} if byte is None else {"where": where, "byte": byte}
            self.entries.append({**place, "why": why, "excerpt": shown})

    def __len__(self) -> int:
        return self.reasons.total()

    def __bool__(self) -> bool:
        return True                                         # an empty one is still one: `quarantine or ...` is no trap

    def write(self, folder: Path) -> None:
        """Write `quarantine.jsonl`; a last line counts what was not kept in full. No bad row, an empty file."""
        lines = self.entries + [{"more": len(self) - len(self.entries)}] * (len(self) > len(self.entries))
        write_jsonl(Path(folder) / "quarantine.jsonl", lines)


def rows(path: str | Path, quarantine: Quarantine) -> Iterator[Row]:
    """Every row of a file, or of all files below a folder in sorted order, with its place.

    `InputError` at once for a missing path, an unknown extension or a folder without readable files; files of unknown
    extension beside readable ones are quarantined.
    """
    files = data_files(path, quarantine)
    return (row for file in files for row in READERS[extension(file)](file, quarantine))


def extension(path: Path) -> str:
    """The part of a name that tells its format, in lower case: `.jsonl.gz`, `.parquet`."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    return "".join(suffixes[-2:]) if suffixes[-1:] in ([".gz"], [".zst"]) else "".join(suffixes[-1:])


def data_files(path: str | Path, quarantine: Quarantine, also: Collection[str] = ()) -> list[Path]:
    """The readable files that `path` stands for, sorted; hidden ones are not data. `also` are extensions to take."""
    path = Path(path)
    if path.is_dir():
        found = (p for p in path.rglob("*") if p.is_file())
        visible = sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts))
        metadata = [p for p in visible if p.name in DATASETS_METADATA]                  # of Hugging Face's `datasets`
        files = [p for p in visible if (extension(p) in READERS or extension(p) in also) and p not in metadata]
        if not files:
            raise InputError("nothing to read in this folder", where=str(path),
                             why=f"{len(visible)} files, none of them {KNOWN}",
                             hint="point at the data files")
        for stranger in sorted(set(visible) - set(files)):
            quarantine.add(str(stranger), "metadata, not rows" if stranger in metadata else "unknown extension")
        return files
    if not path.exists():
        siblings = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        near = get_close_matches(path.name, siblings, n=1)
        raise InputError("no such file or folder", where=str(path),
                         why="" if path.parent.is_dir() else f"the folder {path.parent} does not exist either",
                         hint=f"did you mean {path.parent / near[0]}?" if near else "check the path")
    if extension(path) not in READERS and extension(path) not in also:
        raise InputError("unknown file format", where=str(path), why=f"'{extension(path)}' is not one we read",
                         hint=f"convert it to one of {KNOWN}")
    return [path]


def byte_lines(path: Path, quarantine: Quarantine) -> Iterator[tuple[bytes, str]]:
    """The lines of a plain or packed file with their places. A line that damage cut off is set aside."""
    number, pieces = 1, []
    for chunk in chunks(path, quarantine.add):
        if chunk is None:
            if any(pieces):
                quarantine.add(f"{path}:{number}", "line cut off by damage", b"".join(pieces))
            pieces, number = [], number + bool(pieces)
            continue
        head, *rest = chunk.split(b"\n")
        pieces.append(head)
        for line in rest:                                   # each newline ends what was gathered so far
            yield b"".join(pieces), f"{path}:{number}"
            pieces, number = [line], number + 1
    if any(pieces):
        yield b"".join(pieces), f"{path}:{number}"


def decode(line: bytes) -> str:
    """Strict UTF-8 without a byte-order mark; `BadRow` says where it is not."""
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRow(f"invalid UTF-8: byte 0x{line[error.start]:02x} at {error.start}") from None


def json_object(text: str) -> dict:
    """One JSON object; `BadRow` says what else it is. Lone surrogates are refused: they are not text."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise BadRow("invalid JSON: nested too deep") from None
    except ValueError as error:
        raise BadRow(f"invalid JSON: {error}") from None
    return checked_object(value, text)


def checked_object(value: object, text: str) -> dict:
    if not isinstance(value, dict):
        raise BadRow(f"not an object: {type(value).__name__}")
    if SURROGATE.search(text):                              # half a pair, or a pair: the full check tells
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise BadRow("not text: a lone surrogate or an invalid UTF-8 byte") from None
    return value


def read_jsonl(path: Path, quarantine: Quarantine) -> Iterator[Row]:
    for line, where in byte_lines(path, quarantine):
        if line.strip():
            try:
                row = json_object(decode(line))
            except BadRow as error:
                quarantine.add(where, str(error), line)
            else:
                yield row, where


def read_json(path: Path, quarantine: Quarantine) -> Iterator[Row]:
    """The objects of a list, one object, or objects one after another; the place is the line an object begins on."""
    pieces = [b"\0" if chunk is None else chunk for chunk in chunks(path, quarantine.add)]  # JSON holds no raw \0
    text = b"".join(pieces).decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    position, line, counted, decoder = re.match(r"\s*\[?", text).end(), 1, 0, json.JSONDecoder()
    while (position := re.compile(r"[\s,]*").match(text, position).end()) < len(text) and text[position] != "]":
        line, counted = line + text.count("\n", counted, position), position
        start, where = position, f"{path}:{line}"
        try:
            value, position = decoder.raw_decode(text, start)
            row = checked_object(value, text[start:position])
        except BadRow as error:
            quarantine.add(where, str(error), text[start:position])
        except (ValueError, RecursionError) as error:
            position = skip_value(text, start)
            quarantine.add(where, f"invalid JSON: {error}", text[start:position])
        else:
            yield row, where


def skip_value(text: str, start: int) -> int:
    """Where a broken JSON value ends: its brackets balance again, or the next comma or line for a bare word."""
    if text[start] not in "[{":
        bare = re.compile(r"[^,\n]*[,\n]").match(text, start)
        return bare.end() if bare else len(text)
    depth = 0
    for token in JSON_TOKEN.finditer(text, start):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
    return len(text)


def read_parquet(path: Path, quarantine: Quarantine) -> Iterator[Row]:
    """Row group by row group, 1,024 rows at a time."""
    return parquet_batches(path, quarantine, lambda batch, number: batch_rows(batch, path, number, quarantine))


def parquet_batches(path: Path, quarantine: Quarantine, read: Callable[[pa.RecordBatch, int], Iterator[T]], *,
                    first: int = 0, last: int | None = None, number: int = 1) -> Iterator[T]:
    """What `read` finds in batches of row groups, `first` to the one before `last`; it is told a batch's first row.

    Rows count from `number`.  A group that fails loses only what it had not yet given.
    """
    try:
        file = parquet.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        quarantine.add(str(path), f"unreadable Parquet file: {error}")
        return
    with file:
        for group in range(first, file.num_row_groups if last is None else last):
            after = number + file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(batch_size=1024, row_groups=[group]):
                    yield from read(batch, number)
                    number += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                quarantine.add(f"{path}:{number}", f"corrupt Parquet row group: {after - number} rows lost, {error}")
            number = after


def read_arrow(path: Path, quarantine: Quarantine) -> Iterator[Row]:
    """Record batch by record batch, of a file or a stream (what `datasets` saves); a batch that fails is lost whole."""
    number = 1
    try:
        with pa.memory_map(str(path)) as source:
            try:
                file = pa.ipc.open_file(source)
                batches = (file.get_batch(index) for index in range(file.num_record_batches))
            except pa.ArrowInvalid:
                source.seek(0)
                batches = pa.ipc.open_stream(source)
            for batch in batches:
                try:
                    batch.validate(full=True)               # a wrong offset would be read from anywhere in memory
                except pa.ArrowInvalid as error:
                    quarantine.add(f"{path}:{number}", f"corrupt Arrow batch: {batch.num_rows} rows lost, {error}")
                else:
                    yield from batch_rows(batch, path, number, quarantine)
                number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        quarantine.add(f"{path}:{number}", f"unreadable Arrow file: {error}")


def batch_rows(batch: pa.RecordBatch, path: Path, number: int, quarantine: Quarantine) -> Iterator[Row]:
    """The rows of a batch, the first of them the file's `number`th."""
    for index in range(batch.num_rows):
        where = f"{path}:{number + index}"
        try:
            row = batch.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            quarantine.add(where, f"invalid UTF-8: {error.reason} at {error.start}")
        else:
            yield row, where


def read_tsv(path: Path, quarantine: Quarantine) -> Iterator[Row]:
    """Fields between tabs, no quotes (IANA text/tab-separated-values).

    A first line that is no list of names is a row already: then the columns are called "1", "2", ...
    """
    header = None
    for line, where in byte_lines(path, quarantine):
        try:
            fields = decode(line.removesuffix(b"\r")).split("\t")
        except BadRow as error:
            quarantine.add(where, str(error), line)
            continue
        if header is None:
            named = all(NAME.fullmatch(field) for field in fields) and len(set(fields)) == len(fields)
            header = fields if named else [str(number + 1) for number in range(len(fields))]
            if named:
                continue
        if len(fields) == len(header):
            yield dict(zip(header, fields)), where
        elif line.strip():
            quarantine.add(where, f"wrong number of fields: {len(fields)}, the first line has {len(header)}", line)


def read_csv(path: Path, quarantine: Quarantine) -> Iterator[Row]:
    """RFC 4180 records under a header line.

    A record ends where its quotes balance.  When lines joined that way do not parse, the first of them is the bad row
    and the others are looked at again: a quote that is never closed costs its own line, not the file.
    """
    header, lines, again = None, byte_lines(path, quarantine), []
    while record := gather_record(lines, again):
        joined, where = b"\n".join(line.removesuffix(b"\r") for line, _ in record), record[0][1]
        try:
            fields = split_csv(joined.decode("utf-8-sig", "surrogateescape"))
            decode(joined)
        except csv.Error as error:
            quarantine.add(where, f"invalid CSV: {error}", record[0][0])
            again += reversed(record[1:])
            continue
        except BadRow as error:
            quarantine.add(where, str(error), joined)
            continue
        if header is None:
            header = fields
            if len(set(header)) < len(header):
                quarantine.add(where, "two columns of one name: no row can be read", joined)
                return
        elif len(fields) == len(header):
            yield dict(zip(header, fields)), where
        elif fields:
            quarantine.add(where, f"wrong number of fields: {len(fields)}, the header has {len(header)}", joined)


def gather_record(lines: Iterator[tuple[bytes, str]], again: list[tuple[bytes, str]]) -> list[tuple[bytes, str]]:
    """The next lines up to balanced quotes or `MAX_RECORD` bytes, first those to be looked at `again` (a stack)."""
    record, size, is_open = [], 0, False
    while (not record or is_open) and size <= MAX_RECORD:
        item = again.pop() if again else next(lines, None)
        if item is None:
            break
        record.append(item)
        size, is_open = size + len(item[0]) + 1, is_open ^ (item[0].count(b'"') % 2 == 1)
    return record


def split_csv(record: str) -> list[str]:
    """The fields of one record, none for a blank line; `csv.Error` says why not."""
    csv.field_size_limit(MAX_RECORD)                        # its own limit, 131,072, is below a long document
    return next(csv.reader([line + "\n" for line in record.split("\n")], strict=True), [])


def read_text(path: Path, quarantine: Quarantine) -> Iterator[Row]:
    """The whole file as one row `{"text": ...}`; a damaged one is none."""
    pieces = list(chunks(path, quarantine.add))
    if None in pieces:
        return                                              # where it is damaged is said already
    content = b"".join(pieces)
    try:
        row = {"text": decode(content)}
    except BadRow as error:
        quarantine.add(f"{path}:1", str(error), content)
    else:
        yield row, f"{path}:1"


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema) -> Iterator[parquet.ParquetWriter]:
    """Write a Parquet file batch by batch; it bears its name only when it is whole and on the disk."""
    temporary = Path(path).with_name(f".tmp-{Path(path).name}")
    with parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        yield writer
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(Path(path).parent)


def write_jsonl(path: Path, values: Iterable[dict]) -> int:
    """One JSON object a line, atomically; the number of lines."""
    lines = [json.dumps(value, ensure_ascii=False) + "\n" for value in values]
    write_atomic(path, "".join(lines))
    return len(lines)


TEXTS = {".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv, ".tsv": read_tsv, ".txt": read_text,
         ".tokens": read_text}                                                          # WikiText's own name for text
READERS = TEXTS | {".parquet": read_parquet, ".arrow": read_arrow} | {
    name + packed: reader for name, reader in TEXTS.items() for packed in (".gz", ".zst")}
KNOWN = f"{', '.join(TEXTS)} (each also .gz or .zst), .parquet, .arrow"
