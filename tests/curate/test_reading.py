"""Reading: every row of a corpus with everything wrong with it ends in exactly one place, whatever its format."""

import gzip
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from bloomery.core.files import Quarantine
from bloomery.curate import jobs, jsonl
from bloomery.curate.encoding import decode
from bloomery.curate.extract import page_text, stated_charset
from bloomery.curate.jobs import plan
from bloomery.curate.reading import Reading


def read(path, *, batch_bytes=1 << 24):
    reading, listed = Reading(batch_bytes=batch_bytes), Quarantine()
    batches = [batch for job in plan([str(path)], listed) for batch in reading.batches(job.pieces)]
    rows = [row for batch in batches for row in batch.to_pylist()]
    return rows, listed.entries + reading.quarantine.entries, reading


def line(**row):
    return json.dumps(row).encode()


def test_a_corpus_with_everything_wrong_keeps_all_that_is_right(tmp_path):
    big = "x y " * (50_000_000 // 4)
    lines = [line(text=f"good {n}", source="mine" if n % 2 else "") for n in range(20)]
    lines[3] = b'{"text": "caf\xff"}'
    lines[5] = line(text=17)
    lines[7] = b'[{"text": "in a list"}]'
    lines[9] = b'{"text": "cut of'
    lines[11] = b""
    lines[13] = line(text="  \n")
    lines[15] = line(title="no text")
    lines[17] = b'{"text": "\\ud800 alone"}'
    lines[19] = line(text=big)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "b.jsonl").write_bytes(b"")
    whole = gzip.compress(b"".join(line(text=f"packed {n} " + "w" * n) + b"\n" for n in range(5000)), mtime=0)
    (tmp_path / "c.jsonl.gz").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "notes.docx").write_bytes(b"x")
    rows, bad, _ = read(tmp_path)
    assert [row["text"] for row in rows if row["text"].startswith("good")] == [
        f"good {n}" for n in (0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 18)]
    assert rows[1]["source"] == "mine" and rows[0]["source"] == "a.jsonl:1" and rows[3]["source"] == "a.jsonl:5"
    assert any(row["text"] == big for row in rows)
    packed = [row["text"] for row in rows if row["text"].startswith("packed")]
    assert 1000 < len(packed) < 5000 and packed == [f"packed {n} " + "w" * n for n in range(len(packed))]
    where = {entry["where"].removeprefix(f"{tmp_path}/"): entry for entry in bad}
    reasons = {place: entry["why"].partition(":")[0] for place, entry in where.items()}
    assert reasons.pop(f"c.jsonl.gz:{len(packed) + 1}") == "line cut off by damage"
    assert reasons == {
        "a.jsonl:4": "invalid UTF-8", "a.jsonl:6": "text is not a string", "a.jsonl:8": "not an object",
        "a.jsonl:10": "invalid JSON", "a.jsonl:14": "empty text", "a.jsonl:16": "no column text",
        "a.jsonl:18": "not text", "c.jsonl.gz": "truncated gzip member", "notes.docx": "unknown extension"}
    at = sum(len(content) + 1 for content in lines[:9])
    assert where["a.jsonl:10"]["byte"] == at and where["a.jsonl:10"]["excerpt"] == '{"text": "cut of'


@pytest.mark.parametrize("block", [64, 1 << 22])
def test_fast_and_patient_reading_agree(tmp_path, monkeypatch, block):
    monkeypatch.setattr(jsonl, "BLOCK", block)
    texts = [f"line {n} é\u2028日" * (n % 7 + 1) for n in range(200)]
    (tmp_path / "a.jsonl").write_bytes(b"\r\n".join(line(text=text, url=f"u{n}", extra=[n])
                                                    for n, text in enumerate(texts)) + b"\n")
    fast, _, _ = read(tmp_path / "a.jsonl")
    monkeypatch.setattr(jsonl, "parsed", lambda *_: None)
    patient, _, _ = read(tmp_path / "a.jsonl")
    assert fast == patient and [row["text"] for row in fast] == texts
    assert [row["source"] for row in fast] == [f"a.jsonl:{n + 1}" for n in range(200)] and fast[7]["url"] == "u7"


def test_a_large_file_is_read_in_ranges_that_change_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(line(text=f"document {n}") if n % 10 else b"" for n in range(3000)))
    whole, _, _ = read(path)
    monkeypatch.setattr(jobs, "JOB_BYTES", 5000)
    monkeypatch.setattr(jobs, "SCAN", 700)
    pieces = [piece for job in plan([str(path)], Quarantine()) for piece in job.pieces]
    assert len(pieces) > 5 and pieces[-1].stop == path.stat().st_size
    assert [a.stop for a in pieces[:-1]] == [b.start for b in pieces[1:]]
    assert read(path)[0] == whole


def test_batches_are_bounded(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(line(text="t" * 100) for _ in range(3000)))
    reading = Reading(batch_bytes=5000)
    sizes = [batch.num_rows for job in plan([str(tmp_path)], Quarantine()) for batch in reading.batches(job.pieces)]
    assert sum(sizes) == 3000 and max(sizes) == 50


def test_parquet_by_row_groups_with_bad_texts_and_a_damaged_group(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    texts = [f"row {n} " + "word " * 50 for n in range(400)]
    texts[150] = None
    parquet.write_table(pa.table({"text": texts, "source": ["s"] * 400}), path, row_group_size=100,
                        use_dictionary=False, write_page_checksum=True)
    rows, bad, _ = read(path)
    assert len(rows) == 399 and [entry["where"] for entry in bad] == [f"{path}:151"]
    monkeypatch.setattr(jobs, "JOB_BYTES", 1000)
    assert len(plan([str(path)], Quarantine())) == 4 and read(path)[0] == rows
    content = bytearray(path.read_bytes())
    offset = parquet.read_metadata(path).row_group(2).column(0).data_page_offset
    content[offset:offset + 200] = b"\xff" * 200
    path.write_bytes(bytes(content))
    rows, bad, _ = read(path)
    assert len(rows) == 299 and "corrupt Parquet row group: 100 rows lost" in bad[-1]["why"]


def test_tables_pages_and_texts(tmp_path):
    (tmp_path / "a.csv").write_text('text,source\n"one, two",x\n"three",\n')
    (tmp_path / "b.txt").write_bytes("año de la canción, señor".encode("latin-1"))
    prose = "<p>" + "The river runs to the sea and it is wide. " * 9 + "</p>"
    (tmp_path / "c.html").write_bytes(f"<html><nav>Menu Home</nav><main>{prose}</main></html>".encode())
    (tmp_path / "d.json").write_text('[{"text": "four"}]')
    (tmp_path / "e.txt").write_bytes(b"\xef\xbb\xbfwith a mark")
    rows, bad, reading = read(tmp_path)
    texts = [row["text"] for row in rows]
    assert texts[:3] == ["one, two", "three", "año de la canción, señor"] and texts[4:] == ["four", "with a mark"]
    assert texts[3].startswith("The river runs") and "Menu" not in texts[3] and not bad
    assert [row["source"] for row in rows] == ["x", "a.csv:3", "b.txt:1", "c.html:1", "d.json:1", "e.txt:1"]
    assert reading.encodings == {"cp1252": 1, "utf-8": 2}


def test_encodings_are_what_pages_say_and_never_guessed_into_nonsense():
    text = "Привет, мир. Это страница о реке и море. " * 4
    assert decode(text.encode("koi8-r"), "koi8-r") == (text, "koi8-r")
    assert decode("\ufefftext".encode("utf-16")[2:], "")[0].strip("\ufeff") == "text"
    assert isinstance(decode(bytes(range(256)) * 9), str)
    page = f'<html><head><meta http-equiv="Content-Type" content="text/html; charset=windows-1251"></head><p>{text}</p>'
    assert stated_charset(page.encode("cp1251")) == "windows-1251"
    assert text[:20] in page_text(page.encode("cp1251"))[0]
    assert page_text(b"<html><body></body></html>") == "no main text in the page"
