"""JSON lines, fast where they are sound and patient where they are not.

A block of lines is parsed at once by Arrow; when anything in it is not as expected (a broken line, invalid UTF-8, a
text that is a number), the block is read again line by line, and each bad line is set aside with its line number, byte
offset and reason.  `core/files.py` holds what a good line is: both ways give the same rows.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from bloomery.core.files import BadRow, Quarantine, decode, json_object
from bloomery.core.unpacking import chunks

WANTED = pa.schema([("text", pa.large_string()), ("source", pa.string()), ("url", pa.string())])
BLOCK = 1 << 22                     # bytes parsed at once, more where one line is longer


def blocks(path: Path, start: int, stop: int | None, first: int,
           quarantine: Quarantine) -> Iterator[tuple[bytes, int, int]]:
    """Whole lines, some MB at a time, with the number of the first and the byte it begins at."""
    source = plain_range(path, start, stop) if stop is not None else chunks(path, quarantine.add)
    offset, number, waiting, held = start, first, [], 0
    for chunk in source:
        if chunk is not None:
            waiting.append(chunk)
            held += len(chunk)
        if chunk is None or (held >= BLOCK and b"\n" in chunk):
            whole, _, rest = b"".join(waiting).rpartition(b"\n")
            if whole:
                yield whole, number, offset
            moved = len(whole) + 1 if whole or held > len(rest) else 0
            number, offset = number + (whole.count(b"\n") + 1 if moved else 0), offset + moved
            if chunk is None and rest:
                quarantine.add(f"{path}:{number}", "line cut off by damage", rest, byte=offset)
                number, offset, rest = number + 1, offset + len(rest), b""
            waiting, held = [rest], len(rest)
    if held:
        yield b"".join(waiting), number, offset


def plain_range(path: Path, start: int, stop: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        while start < stop and (chunk := file.read(min(BLOCK, stop - start))):
            start += len(chunk)
            yield chunk


def read_jsonl(path: Path, start: int, stop: int | None, first: int, place: str,
               quarantine: Quarantine) -> Iterator[pa.Table | list[dict]]:
    """Tables of `text`, `source`, `url` and `where` (`place:line`), or lists of rows, as `rows_of` has them."""
    for block, number, offset in blocks(path, start, stop, first, quarantine):
        table = parsed(block, number, place)
        yield list(rows_of(block, number, offset, str(path), quarantine)) if table is None else table


def parsed(block: bytes, number: int, place: str) -> pa.Table | None:
    """A block of nothing but good lines; None when it has to be read line by line."""
    if b"\0" in block or block.startswith(b"\xef\xbb\xbf"):
        return None
    try:
        table = arrow_json.read_json(
            pa.BufferReader(block), arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            arrow_json.ParseOptions(explicit_schema=WANTED, unexpected_field_behavior="ignore"))
        table = table.combine_chunks()
        for column in table.columns:
            column.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    lines = block.count(b"\n") + 1
    text = table.column("text")
    if table.num_rows != lines or text.null_count or blank(text):
        return None
    return table.append_column("where", pa.array([f"{place}:{number + line}" for line in range(lines)], pa.string()))


def blank(text: pa.ChunkedArray) -> bool:
    """Whether any text has nothing but white space."""
    return pc.any(pc.or_(pc.utf8_is_space(text), pc.equal(pc.binary_length(text), 0))).as_py() is True


def rows_of(block: bytes, number: int, offset: int, path: str, quarantine: Quarantine) -> Iterator[dict]:
    """The good rows of a block, each with its place (`where`) and byte offset (`byte`)."""
    lines = block.split(b"\n")
    offsets = np.concatenate([[offset], offset + np.cumsum([len(line) + 1 for line in lines])]).tolist()
    for line, byte, here in zip(lines, offsets, range(number, number + len(lines))):
        if line.strip():
            try:
                yield {**json_object(decode(line)), "where": f"{path}:{here}", "byte": byte}
            except BadRow as error:
                quarantine.add(f"{path}:{here}", str(error), line, byte=byte)
