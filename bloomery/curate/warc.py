"""Web archives: WARC (ISO 28500) with WET's conversion records, and the older ARC (version 1), plain or packed.

A record is a header that says how long its body is.  It holds a page when it is a response with status 200 and HTML or
plain text, a resource of those types, or a conversion.  Others (requests, metadata, images, revisits, whose payload is
elsewhere) are counted as passed over, none is lost silently.  Damage costs the record it is in: reading goes on at the
next header.  (fastwarc 2.0 is faster at framing, ends at the first malformed header and needs a stream that can seek,
which a damaged gzip file is not; extraction takes ten times as long as either.)
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from bloomery.core.files import Quarantine
from bloomery.core.unpacking import chunks
from bloomery.curate.encoding import decode
from bloomery.curate.extract import LARGEST, page_text

PAGES = ("text/html", "application/xhtml+xml")
WARC_HEADER = re.compile(rb"WARC/\d\.\d+ ?\r?\n((?:[^\r\n]+\r?\n)*)\r?\n")
ARC_HEADER = re.compile(rb"([a-z][a-z0-9+.-]*:[^ \n]*) [\w.:-]+ \d{8,14} ([^ \n]+) (\d+)\n")   # URL IP date type size
FIELD = re.compile(rb"^([!-9;-~]+)[ \t]*:[ \t]*(.*?)[ \t]*\r?$", re.MULTILINE)
HEADER = 1 << 16                    # bytes within which a header ends
CHARSET = re.compile(rb"charset=[\"']?([\w.:-]+)", re.IGNORECASE)
CHUNK = re.compile(rb"([0-9a-fA-F]+)[^\r\n]*\r?\n")

END = object()

Fields = dict[str, str]
Header = tuple[int, int, int, Fields]                       # first byte, the one behind, length of the body, fields


class Flow:
    """The unpacked bytes of a file up to the next damage; `again` goes on behind it, and is False at the end."""

    def __init__(self, path: Path, quarantine: Quarantine):
        self.source, self.is_open, self.more = chunks(path, quarantine.add), True, True

    def read(self) -> bytes:
        while self.is_open:
            chunk = next(self.source, END)
            if chunk is END or chunk is None:
                self.is_open, self.more = False, chunk is None
            elif chunk:
                return chunk
        return b""

    def again(self) -> bool:
        self.is_open = self.more
        return self.more


def records(path: Path, header: Callable[[bytes], Header | None],
            quarantine: Quarantine) -> Iterator[tuple[str, Fields, bytes]]:
    """Every whole record: its place (`path:number`), header fields and body."""
    flow, waiting, number, lost = Flow(path, quarantine), b"", 0, False
    while True:
        while len(waiting) < HEADER and (chunk := flow.read()):
            waiting += chunk
        found = header(waiting)
        if (not found and waiting.strip()) or (found and waiting[:found[0]].strip()):
            if not lost:
                number += 1
                quarantine.add(f"{path}:{number}", "malformed record: no header announces it", waiting)
            lost = True
        if not found:
            waiting = waiting[-HEADER // 2:] if flow.is_open and len(waiting) >= HEADER else b""
            if not waiting and not flow.is_open and not flow.again():
                return
            continue
        number, lost = number + 1, False
        _, start, size, fields = found
        pieces, held = [waiting[start:start + size]], min(len(waiting) - start, size)
        waiting = waiting[start + size:]
        while held < size and (chunk := flow.read()):
            pieces.append(chunk[:size - held] if size <= 4 * LARGEST else b"")
            waiting, held = chunk[size - held:], min(held + len(chunk), size)
        if held < size:
            quarantine.add(f"{path}:{number}", "record cut off by damage", b"".join(pieces))
            waiting = b""
        else:
            yield f"{path}:{number}", fields, b"".join(pieces)


def fields_of(head: bytes) -> Fields:
    return {name.decode("latin-1").lower(): value.decode("utf-8", "replace") for name, value in FIELD.findall(head)}


def warc_header(content: bytes) -> Header | None:
    """The first header with a length."""
    for found in WARC_HEADER.finditer(content):
        fields = fields_of(found[1])
        if fields.get("content-length", "").isdecimal():
            return found.start(), found.end(), int(fields["content-length"]), fields
    return None


def arc_header(content: bytes) -> Header | None:
    found = ARC_HEADER.search(content)
    if not found:
        return None
    url, mime, size = found.groups()
    return found.start(), found.end(), int(size), {
        "warc-target-uri": url.decode("utf-8", "replace"), "content-type": mime.decode("latin-1"),
        "warc-type": "response" if url.startswith((b"http:", b"https:")) else url.partition(b":")[0].decode("latin-1")}


# --- pages --------------------------------------------------------------------------------------------------------

def pages(path: Path, header: Callable[[bytes], Header | None], quarantine: Quarantine,
          passed: Counter) -> Iterator[dict]:
    """The pages of an archive as rows with `text`, `url`, `where` and `encoding`; the rest is counted in `passed`."""
    for where, fields, body in records(path, header, quarantine):
        kind, mime, charset = fields.get("warc-type", "unknown").lower(), fields.get("content-type", ""), ""
        if kind == "response":
            status, body, mime = http(body, mime)
        is_page = mime.partition(";")[0].strip().lower() in (*PAGES, "text/plain")
        if kind not in ("response", "resource", "conversion"):
            passed[f"{kind} record"] += 1
        elif kind == "response" and status != "200":
            passed[f"HTTP status {status}" if status else "not an HTTP response"] += 1
        elif not is_page:
            passed[f"content type {mime.partition(';')[0].strip().lower() or 'unknown'}"] += 1
        else:
            stated = CHARSET.search(mime.encode("utf-8"))
            charset = stated[1].decode("ascii", "ignore") if stated else ""
            found = page_text(body, charset) if mime.lower().startswith(PAGES) else decode(body, charset)
            if isinstance(found, str) or not found[0].strip():
                quarantine.add(where, found if isinstance(found, str) else "empty text", body)
            else:
                url = fields.get("warc-target-uri", "").strip("<> ")
                yield {"text": found[0], "url": url, "where": where, "encoding": found[1]}


def http(body: bytes, mime: str) -> tuple[str, bytes, str]:
    """Status, content and content type of a response, "" for what is none; chunks are joined, packed content opened."""
    head, blank, content = body.partition(b"\r\n\r\n") if b"\r\n\r\n" in body[:HEADER] else body.partition(b"\n\n")
    if not (head.startswith(b"HTTP/") and blank):
        return "", body, mime
    status, fields = (head.split(None, 2)[1:2] or [b""])[0].decode("latin-1"), fields_of(head)
    if "chunked" in fields.get("transfer-encoding", "").lower():
        content = unchunked(content)
    if fields.get("content-encoding", "").lower() in ("gzip", "x-gzip", "deflate"):
        content = inflated(content)
    return status, content, fields.get("content-type", mime if mime in PAGES else "")


def unchunked(content: bytes) -> bytes:
    """The content of chunks (RFC 9112, section 7.1); as it is where the archive has joined them already."""
    pieces, place = [], 0
    while found := CHUNK.match(content, place):
        size = int(found[1], 16)
        pieces.append(content[found.end():found.end() + size])
        place = found.end() + size + 2
        if not size:
            return b"".join(pieces)
    return content if not pieces else b"".join(pieces)


def inflated(content: bytes) -> bytes:
    """Unpacked content, no more than a page may have; as it is where the archive has unpacked it already."""
    try:
        return zlib.decompressobj(wbits=47).decompress(content, LARGEST + 1)
    except zlib.error:
        return content


HEADERS = {".warc": warc_header, ".wet": warc_header, ".arc": arc_header}
