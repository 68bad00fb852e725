"""Web archives: pages are read, the rest is counted, and damage costs the record it is in."""

import gzip
import os
import zlib
from collections import Counter
from pathlib import Path

import pytest

from bloomery.core.files import Quarantine
from bloomery.curate.warc import HEADERS, http, pages

DATA = Path(os.environ.get("BLOOMERY_DATA", Path(__file__).parents[3] / "shared" / "data")).absolute() / "warc"
BODY = b"<html><body><p>" + b"The river runs to the sea and it is wide. " * 9 + b"</p></body></html>"


def record(kind, content, url="http://a.org/x", mime="application/http;msgtype=response"):
    return (f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nContent-Type: {mime}\r\n"
            f"Content-Length: {len(content)}\r\n\r\n").encode() + content + b"\r\n\r\n"


def response(body=BODY, status="200 OK", mime="text/html; charset=utf-8", more=""):
    return f"HTTP/1.1 {status}\r\nContent-Type: {mime}\r\n{more}\r\n".encode() + body


def read(path):
    quarantine, passed = Quarantine(), Counter()
    name = path.name.removesuffix(".gz")
    return list(pages(path, HEADERS[name[name.rindex("."):]], quarantine, passed)), quarantine, passed


RECORDS = [record("warcinfo", b"software: x", mime="application/warc-fields"), record("request", b"GET / HTTP/1.1"),
           record("response", response()), record("response", response(status="404 Not Found")),
           record("response", response(b"\x89PNG", mime="image/png")), record("revisit", b"HTTP/1.1 200 OK\r\n\r\n"),
           record("conversion", "extracted, größer".encode(), "http://b.org/", "text/plain"),
           record("response", response(), "http://c.org/")]


@pytest.mark.parametrize("packed", [False, True])
def test_every_record_is_a_page_or_counted(tmp_path, packed):
    path = tmp_path / ("a.warc.gz" if packed else "a.warc")
    path.write_bytes(b"".join(map(gzip.compress, RECORDS)) if packed else b"".join(RECORDS))
    rows, quarantine, passed = read(path)
    assert [(row["url"], row["where"]) for row in rows] == [
        ("http://a.org/x", f"{path}:3"), ("http://b.org/", f"{path}:7"), ("http://c.org/", f"{path}:8")]
    assert rows[0]["text"].startswith("The river runs") and rows[1]["text"] == "extracted, größer"
    assert passed == {"warcinfo record": 1, "request record": 1, "HTTP status 404": 1, "content type image/png": 1,
                      "revisit record": 1} and not len(quarantine)


def test_damage_costs_the_record_it_is_in(tmp_path):
    path = tmp_path / "a.warc.gz"
    packed = [gzip.compress(content, mtime=0) for content in RECORDS]
    packed[2] = packed[2][:60] + b"\xff" * 20 + packed[2][80:]
    path.write_bytes(b"".join(packed)[:-30])                                # and the last is cut off
    rows, quarantine, passed = read(path)
    assert [row["url"] for row in rows] == ["http://b.org/"] and passed.total() == 5
    reasons = " ".join(quarantine.reasons)
    assert "damaged gzip member" in reasons and "truncated gzip member" in reasons
    assert quarantine.reasons["record cut off by damage"] == quarantine.reasons["malformed record"] == 1


def test_a_malformed_header_costs_its_record(tmp_path):
    path = tmp_path / "a.warc"
    broken = RECORDS[2].replace(b"Content-Length", b"Content-Lenght")
    path.write_bytes(RECORDS[0] + broken + b"junk\n" + b"".join(RECORDS[2:]))
    rows, quarantine, _ = read(path)
    assert [row["url"] for row in rows] == ["http://a.org/x", "http://b.org/", "http://c.org/"]
    assert [entry["why"] for entry in quarantine.entries] == ["malformed record: no header announces it"]


def test_content_in_chunks_and_packed_content_is_opened():
    packed = zlib.compress(BODY)
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (packed[:50], packed[50:])) + b"0\r\n\r\n"
    given = response(chunked, more="Transfer-Encoding: chunked\r\nContent-Encoding: deflate\r\n")
    assert http(given, "") == ("200", BODY, "text/html; charset=utf-8")
    assert http(response(more="Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n"), "")[1] == BODY
    assert http(b"220 ftp ready", "text/plain") == ("", b"220 ftp ready", "text/plain")


def test_arc(tmp_path):
    def arc(url, content):
        return f"{url} 1.2.3.4 20080430204825 text/html {len(content)}\n".encode() + content + b"\n"

    path = tmp_path / "a.arc.gz"
    path.write_bytes(b"".join(map(gzip.compress, [
        arc("filedesc://a.arc", b"1 1 InternetArchive\n"), arc("http://a.org/", response()),
        arc("dns:a.org", b"a.org. 1 IN A"), arc("http://b.org/", response(status="302 Found")),
        arc("http://c.org/", response())])))
    rows, quarantine, passed = read(path)
    assert [row["url"] for row in rows] == ["http://a.org/", "http://c.org/"] and not len(quarantine)
    assert passed == {"filedesc record": 1, "dns record": 1, "HTTP status 302": 1}


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no web archives in {DATA}: set BLOOMERY_DATA")
@pytest.mark.parametrize(("name", "records", "least"), [
    ("dolma-sample-0000.warc.gz", 48, 20), ("BL-20140325122341434-00000-32090.warc.gz", 190, 2),
    ("resiliparse-clueweb-quirk.warc.gz", 30, 28), ("whirlwind.wet.warc.gz", 2, 1), ("aut-example.arc.gz", 300, 90)])
def test_real_archives(name, records, least):
    rows, quarantine, passed = read(DATA / name)
    assert len(rows) + len(quarantine) + passed.total() == records and len(rows) >= least
