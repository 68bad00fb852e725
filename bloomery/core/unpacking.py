"""The bytes of a file that gzip or Zstandard may have packed, and as many of them as damage has left."""

import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

Tell = Callable[[str, str], None]   # is told where damage is, and what it is

CHUNK = 1 << 16                     # bytes of compressed input at a time
GZIP_HEADER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]")                                   # RFC 1952, deflate only


def chunks(path: Path, tell: Tell) -> Iterator[bytes | None]:
    """The bytes of a file, unpacked; None where damage broke the flow."""
    return {".gz": gzip_chunks, ".zst": zstd_chunks}.get(path.suffix.lower(), plain_chunks)(path, tell)


def plain_chunks(path: Path, tell: Tell) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def zstd_chunks(path: Path, tell: Tell) -> Iterator[bytes | None]:
    """The unpacked bytes of all frames of a Zstandard file, up to the first damage: frames cannot be looked for."""
    with pa.OSFile(str(path)) as file, pa.CompressedInputStream(file, "zstd") as stream:
        try:
            while chunk := stream.read(CHUNK):
                yield chunk
        except OSError as error:
            yield None
            tell(str(path), f"damaged Zstandard file: {error}; what follows is lost")


def gzip_chunks(path: Path, tell: Tell) -> Iterator[bytes | None]:
    """The decompressed bytes of all members of a gzip file; None where damage broke the flow.

    After damage we go on at the next member header, looked for from one chunk before the place where it was noticed:
    inflating garbage fails within a few hundred bytes, so a header is rarely further back.
    """
    with open(path, "rb") as file:
        start = 0                                           # where the current member begins
        while start is not None:
            file.seek(start)
            inflate, taken, damage = zlib.decompressobj(wbits=31), start, ""
            while not inflate.eof and not damage:
                chunk = file.read(CHUNK)
                taken += len(chunk)
                if not chunk:
                    damage = "truncated gzip member: no end"
                    break
                before = inflate.copy()
                try:
                    yield inflate.decompress(chunk)
                except zlib.error as error:
                    damage = f"damaged gzip member: {error}"
                    yield inflate_sound_part(before, chunk)
            end = taken - len(inflate.unused_data)
            if damage:
                yield None
                tell(str(path), f"{damage} in the member that begins at byte {start}")
                start = next_member(file, max(start + 1, taken - 2 * CHUNK))
            else:
                start = next_member(file, end)
                if padding_is_strange(file, end, start):
                    tell(str(path), f"bytes between gzip members: at byte {end}")


def inflate_sound_part(inflate, chunk: bytes) -> bytes:
    """What a chunk gives before it fails: zlib throws a whole call's output away, so byte by byte."""
    pieces = []
    with suppress(zlib.error):
        pieces.extend(inflate.decompress(chunk[i:i + 1]) for i in range(len(chunk)))
    return b"".join(pieces)


def next_member(file, position: int) -> int | None:
    """The offset of the first gzip header at or after `position`, or None."""
    file.seek(position)
    tail = b""
    while chunk := file.read(CHUNK):
        if found := GZIP_HEADER.search(tail + chunk):
            return position - len(tail) + found.start()
        tail, position = (tail + chunk)[-3:], position + len(chunk)
    return None


def padding_is_strange(file, end: int, start: int | None) -> bool:
    """Whether anything but zeros (tape padding) lies between two members; at most one chunk is looked at."""
    file.seek(end)
    return bool(file.read(CHUNK if start is None else min(CHUNK, start - end)).strip(b"\0"))
