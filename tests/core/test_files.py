"""Reading survives every kind of damage: only the bad row is lost, and it is named."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from bloomery.core import files, unpacking
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, rows


def read(path, quarantine=None):
    return [(row, where.rpartition(":")[2]) for row, where in rows(path, quarantine or Quarantine())]


def write(folder, name, content):
    (folder / name).write_bytes(content)
    return folder / name


def test_bad_json_lines_cost_only_themselves(tmp_path):
    path = write(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a":1}\n{bad\n[1]\n\n{"a":"\xff"}\n{"a":"\\ud800"}\n'
                                      b'{"a":"\\ud83d\\ude00"}\n{"a":3}')
    quarantine = Quarantine()
    assert read(path, quarantine) == [({"a": 1}, "1"), ({"a": "😀"}, "7"), ({"a": 3}, "8")]
    assert [entry["where"] for entry in quarantine.entries] == [f"{path}:{line}" for line in (2, 3, 5, 6)]
    assert list(quarantine.reasons) == ["invalid JSON", "not an object", "invalid UTF-8", "not text"]


def test_a_line_longer_than_a_chunk_is_one_row(tmp_path):
    text = "x" * (3 * unpacking.CHUNK + 7)
    path = write(tmp_path, "a.jsonl", json.dumps({"text": text}).encode() + b'\n{"text": "y"}\n')
    assert read(path) == [({"text": text}, "1"), ({"text": "y"}, "2")]


def test_json_list_object_and_concatenation(tmp_path):
    path = write(tmp_path, "a.json", b'[{"a": 1},\n {"a": [2, "]"]}]\n')
    assert read(path) == [({"a": 1}, "1"), ({"a": [2, "]"]}, "2")]
    assert read(write(tmp_path, "b.json", b'{"a":\n 1}')) == [({"a": 1}, "1")]
    assert read(write(tmp_path, "c.json", b'{"a": 1}\n{"a": 2}')) == [({"a": 1}, "1"), ({"a": 2}, "2")]


def test_bad_elements_of_a_json_list_cost_only_themselves(tmp_path):
    quarantine = Quarantine()
    path = write(tmp_path, "a.json", b'[{"a":1},\n {bad: [{}], "x":"]}"},\n 3, nan2,\n'
                                     b' {"a":"\xff"}, {"a":5}, {"a": "cut')
    assert read(path, quarantine) == [({"a": 1}, "1"), ({"a": 5}, "4")]
    assert [entry["where"].rpartition(":")[2] for entry in quarantine.entries] == ["2", "3", "3", "4", "4"]


def member(*values):
    return gzip.compress("".join(json.dumps({"a": value}) + "\n" for value in values).encode())


def test_all_members_of_a_gzip_file_are_read(tmp_path):
    quarantine = Quarantine()
    path = write(tmp_path, "a.jsonl.gz", member(1, 2) + member(3) + b"\0" * 512)
    assert [row["a"] for row, _ in read(path, quarantine)] == [1, 2, 3]
    assert len(quarantine) == 0


def test_a_truncated_last_member_keeps_what_can_be_read(tmp_path):
    quarantine, values = Quarantine(), [f"value {n * n}" for n in range(2000)]
    whole = member(*values)
    path = write(tmp_path, "a.jsonl.gz", member("first") + whole[:len(whole) // 2])
    read_back = [row["a"] for row, _ in read(path, quarantine)]
    assert read_back[0] == "first"
    assert read_back[1:] == values[:len(read_back) - 1]
    assert len(read_back) > 500
    assert quarantine.reasons["truncated gzip member"] == 1
    assert quarantine.reasons["line cut off by damage"] == 1


def test_members_after_a_damaged_one_are_read(tmp_path):
    quarantine = Quarantine()
    broken = bytearray(member(*(f"value {n * n}" for n in range(2000))))
    broken[len(broken) // 2:len(broken) // 2 + 64] = b"\xff" * 64
    path = write(tmp_path, "a.jsonl.gz", member("first") + bytes(broken) + member("last"))
    read_back = [row["a"] for row, _ in read(path, quarantine)]
    assert read_back[0] == "first"
    assert read_back[-1] == "last"
    assert "value 0" in read_back
    assert quarantine.reasons["damaged gzip member"] == 1


def test_bad_csv_records_cost_only_themselves(tmp_path):
    quarantine = Quarantine()
    path = write(tmp_path, "a.csv", b'a,b\r\n1,2\r\n"x\r\ny",3\r\n1,"oops\r\n5,6\r\n7,"q,u"\r\n1,2,3\r\n\r\n\xff,1\r\n'
                                    b'"a""b",2\r\n8,"never closed\r\n9,10\r\n')
    found = [tuple(row.values()) for row, _ in read(path, quarantine)]
    assert found == [("1", "2"), ("x\ny", "3"), ("5", "6"), ("7", "q,u"), ('a"b', "2"), ("9", "10")]
    assert dict(quarantine.reasons) == {"invalid CSV": 2, "wrong number of fields": 1, "invalid UTF-8": 1}


def test_long_csv_fields_are_read_and_oversize_ones_set_aside(tmp_path, monkeypatch):
    text = "word " * 40_000                                 # the csv module's own limit is 131,072 characters
    path = write(tmp_path, "a.csv", f'text\n"{text}"\nshort\n'.encode())
    assert [row["text"] for row, _ in read(path)] == [text, "short"]
    monkeypatch.setattr(files, "MAX_RECORD", 1000)
    quarantine = Quarantine()
    assert [row["text"] for row, _ in read(path, quarantine)] == ["short"]
    assert quarantine.entries[0]["where"] == f"{path}:2"


def test_parquet_round_trip_and_a_corrupt_row_group(tmp_path):
    path = tmp_path / "a.parquet"
    with parquet.ParquetWriter(path, pa.schema([("text", pa.string())]), compression="gzip") as writer:
        for group in range(3):
            writer.write_table(pa.table({"text": [f"{group} {n * n}" for n in range(500)]}))
    assert [row["text"] for row, _ in read(path)] == [f"{group} {n * n}" for group in range(3) for n in range(500)]
    column = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    content, start = bytearray(path.read_bytes()), column.data_page_offset
    content[start:start + 200] = b"\xff" * 200
    path.write_bytes(content)
    quarantine = Quarantine()
    found = read(path, quarantine)
    assert {row["text"][0] for row, _ in found} == {"0", "2"}
    assert len(found) == 1000
    assert found[-1][1] == "1500"
    assert "500 rows lost" in quarantine.entries[0]["why"]


def test_an_unreadable_parquet_file_is_quarantined(tmp_path):
    quarantine = Quarantine()
    assert read(write(tmp_path, "a.parquet", b"PAR1 not really"), quarantine) == []
    assert quarantine.reasons["unreadable Parquet file"] == 1


def test_text_files_are_one_row(tmp_path):
    assert read(write(tmp_path, "a.txt", b"one\ntwo\n")) == [({"text": "one\ntwo\n"}, "1")]
    assert read(write(tmp_path, "a.txt.gz", gzip.compress(b"zipped"))) == [({"text": "zipped"}, "1")]
    quarantine = Quarantine()
    assert read(write(tmp_path, "b.txt", b"\xff"), quarantine) == []
    assert read(write(tmp_path, "b.txt.gz", gzip.compress(b"zipped" * 99)[:-9]), quarantine) == []
    assert list(quarantine.reasons) == ["invalid UTF-8", "truncated gzip member"]


def test_folders_are_read_in_sorted_order_without_hidden_files(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name, text in (("b.txt", "2"), ("sub/c.txt", "3"), ("a.TXT", "1"), (".x.txt", "no"), (".hidden/d.txt", "no")):
        (tmp_path / name).write_text(text)
    (tmp_path / "notes.md").write_text("strange")
    quarantine = Quarantine()
    assert [row["text"] for row, _ in read(tmp_path, quarantine)] == ["1", "2", "3"]
    assert dict(quarantine.reasons) == {"unknown extension": 1}


@pytest.mark.parametrize(("name", "message"), [
    ("documents.jsonl", "documents.json?"), ("data.xlsx", "unknown file format"), ("empty", "nothing to read"),
    ("no/such", "does not exist either")])
def test_meaningless_requests_are_errors_at_once(tmp_path, name, message):
    (tmp_path / "documents.json").write_text("[]")
    (tmp_path / "data.xlsx").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        rows(tmp_path / name, Quarantine())
    assert message in str(error.value)


def test_quarantine_counts_what_it_does_not_keep(tmp_path):
    quarantine = Quarantine(keep=2)
    for n in range(5):
        quarantine.add(f"a:{n}", f"bad: {n}", "\ud800" + "x" * 300)
    quarantine.write(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert len(quarantine) == 5
    assert [line["where"] for line in lines[:2]] == ["a:0", "a:1"]
    assert lines[2] == {"more": 3}
    assert quarantine.reasons == {"bad": 5}


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=8), st.integers(1, 40))
def test_rows_do_not_depend_on_chunks_or_compression(tmp_path_factory, texts, chunk):
    folder = tmp_path_factory.mktemp("rows")
    lines = "".join(json.dumps({"t": text}, ensure_ascii=False) + "\n" for text in texts).encode()
    plain, zipped = write(folder, "a.jsonl", lines), write(folder, "a.jsonl.gz", gzip.compress(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpacking, "CHUNK", chunk)
        expected = [({"t": text}, str(line)) for line, text in enumerate(texts, 1)]
        assert read(plain) == read(zipped) == expected


LINES = b'{"a": 1}\n{"a": 2}\n'


@pytest.mark.parametrize(("name", "content"), [
    ("a.jsonl", LINES), ("a.json", b'[{"a": 1}, {"a": 2}]'), ("a.csv", b"a\n1\n2\n"), ("a.tsv", b"a\n1\n2\n")])
def test_every_text_format_may_be_packed(tmp_path, name, content):
    plain = [row for row, _ in read(write(tmp_path, name, content))]
    half = len(content) // 2
    frames = b"".join(pa.compress(part, "zstd", asbytes=True) for part in (content[:half], content[half:]))
    assert [row for row, _ in read(write(tmp_path, name + ".gz", gzip.compress(content)))] == plain
    assert [row for row, _ in read(write(tmp_path, name + ".zst", frames))] == plain
    assert [int(row["a"]) for row in plain] == [1, 2]


def test_a_damaged_zstandard_file_keeps_what_comes_before(tmp_path):
    quarantine, values = Quarantine(), [{"a": f"value {n * n}"} for n in range(40_000)]
    whole = pa.compress("".join(json.dumps(value) + "\n" for value in values).encode(), "zstd", asbytes=True)
    found = [row for row, _ in read(write(tmp_path, "a.jsonl.zst", whole[:len(whole) // 2]), quarantine)]
    assert 0 < len(found) < len(values) and found == values[:len(found)]
    assert quarantine.reasons["damaged Zstandard file"] == 1


def test_a_hole_in_a_packed_list_joins_no_two_values(tmp_path):
    quarantine = Quarantine()
    halves = [gzip.compress(b'[{"a": 1}, {"a": "left'), gzip.compress(b' right"}, {"a": 3}]')]
    path = write(tmp_path, "a.json.gz", halves[0][:-8] + halves[1])                     # the first lost its checksum
    assert "left right" not in str(read(path, quarantine)) and len(quarantine) >= 1


@pytest.mark.parametrize("opened", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow_files_and_streams(tmp_path, opened):
    table = pa.table({"a": [1, 2, 3], "b": ["x", None, "z"]})
    with opened(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    assert read(tmp_path / "a.arrow") == [({"a": 1, "b": "x"}, "1"), ({"a": 2, "b": None}, "2"),
                                          ({"a": 3, "b": "z"}, "3")]


def test_a_corrupt_arrow_batch_costs_only_itself(tmp_path):
    quarantine, table = Quarantine(), pa.table({"a": ["y", "z", "abcd", "efg", "y", "z"]})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    whole, offsets = (tmp_path / "a.arrow").read_bytes(), np.array([0, 4, 7], dtype=np.int32).tobytes()
    assert whole.count(offsets) == 1
    write(tmp_path, "a.arrow", whole.replace(offsets, np.array([0, 5000, 7], dtype=np.int32).tobytes()))
    assert [(row["a"], where) for row, where in read(tmp_path / "a.arrow", quarantine)] == [
        ("y", "1"), ("z", "2"), ("y", "5"), ("z", "6")]
    assert list(quarantine.reasons) == ["corrupt Arrow batch"]
    assert read(write(tmp_path, "b.arrow", b"no Arrow at all"), quarantine) == []
    assert quarantine.reasons["unreadable Arrow file"] == 1


def test_tab_separated_lines_with_and_without_names(tmp_path):
    quarantine = Quarantine()
    path = write(tmp_path, "a.tsv", b'question\tanswer\r\n"Why?"\tso\n\none\n')
    assert read(path, quarantine) == [({"question": '"Why?"', "answer": "so"}, "2")]
    assert list(quarantine.reasons) == ["wrong number of fields"]
    assert read(write(tmp_path, "b.tsv", b"Is it so?\tyes\n")) == [({"1": "Is it so?", "2": "yes"}, "1")]


def test_what_the_datasets_library_writes_beside_its_rows_is_no_data(tmp_path):
    quarantine = Quarantine()
    write(tmp_path, "a.jsonl", b'{"a": 1}')
    write(tmp_path, "dataset_info.json", b'{"citation": ""}')
    assert read(tmp_path, quarantine) == [({"a": 1}, "1")]
    assert list(quarantine.reasons) == ["metadata, not rows"]
