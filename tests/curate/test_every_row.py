"""A corpus with everything wrong with it: every row of it is counted, in exactly one of three places."""

import gzip
import json
import zlib
from collections import Counter

import pytest
from pyarrow import parquet

from bloomery.curate import jobs
from bloomery.curate.run import Config, run

PROSE = "the river runs to the sea and it is wide with boats that have sails, number "
MEGABYTE = 1_000_000


def line(**row):
    return json.dumps(row).encode()


def warc(kind, body, number):
    return (f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a.org/{number}\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body + b"\r\n\r\n"


@pytest.fixture
def damaged(tmp_path):
    """The folder, and of each file how many rows are good, the same as another, too short, and unusable."""
    folder, good = tmp_path / "corpus", iter(range(10**6))
    folder.mkdir()

    def fresh():
        return f"{PROSE * 5}{next(good)}"

    bad = [b'{"text": "caf\xff"}', line(text=17), line(text=None), b'[{"text": "in a list"}]', b'{"text": "cut of',
           line(text=" \n"), line(title="no text"), b'{"text": "\\ud800 alone"}', b"null", b"\xff\xfe\x00"]
    rows = [line(text=fresh()) for _ in range(100)] + [line(text="too short")] * 3 + [line(text=f"{PROSE * 5}0")] * 2
    (folder / "bad.jsonl").write_bytes(b"\n\n".join(rows + bad))                         # empty lines are no rows
    (folder / "big.jsonl").write_bytes(b"\n".join((line(text=fresh()), line(text="word " * (10 * MEGABYTE)),
                                                   line(text=fresh()), b"{" + b"x" * 5 * MEGABYTE)))
    whole = gzip.compress(b"".join(line(text=fresh()) + b"\n" for _ in range(4000)), mtime=0)
    cut = whole[:len(whole) // 2]
    left = zlib.decompressobj(31).decompress(cut).count(b"\n")
    (folder / "cut.jsonl.gz").write_bytes(cut)
    records = [gzip.compress(warc("conversion" if number else "warcinfo", fresh().encode(), number), mtime=0)
               for number in range(12)]
    records[4] = records[4][:10] + b"\xff" * 20 + records[4][30:]                         # no such kind of block
    (folder / "damaged.warc.gz").write_bytes(b"".join(records))
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "table.csv").write_text(f'text\n"{fresh()}"\n""\n')
    return folder, {"bad.jsonl": (100, 2, 3, len(bad)), "big.jsonl": (2, 0, 1, 1), "cut.jsonl.gz": (left, 0, 0, 2),
                    "damaged.warc.gz": (10, 0, 0, 1), "empty.jsonl": (0, 0, 0, 0), "empty.txt": (0, 0, 0, 1),
                    "table.csv": (1, 0, 0, 1)}


def test_kept_dropped_and_quarantined_are_every_row(damaged, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "JOB_BYTES", 5_000)
    (folder, expected), out = damaged, tmp_path / "out"
    out.mkdir()
    metrics = run(Config(source=str(folder), steps=["exact", "gopher"], gopher={"without": ["stop_words"]}), out)
    kept, dropped = (parquet.read_table(out / f"{name}.parquet").to_pylist() for name in ("documents", "dropped"))
    quarantined = [json.loads(entry) for entry in (out / "quarantine.jsonl").read_text().splitlines()]
    found = {name: Counter() for name in expected}
    for place, rows in (("kept", kept), ("dropped", dropped)):
        for row in rows:
            found[row["source"].partition(":")[0]][row.get("reason", place)] += 1
    for entry in quarantined:
        found[entry["where"].removeprefix(f"{folder}/").partition(":")[0]]["quarantined"] += 1
    reasons = "kept", "exact_duplicate", "word_count", "quarantined"
    assert {name: tuple(at[reason] for reason in reasons) for name, at in found.items()} == {
        name: (good, same + max(short - 1, 0), min(short, 1), bad)              # of short ones, too, one is the first
        for name, (good, same, short, bad) in expected.items()}
    totals = [sum(column) for column in zip(*expected.values())]
    assert (metrics["documents_kept"], metrics["documents_read"], metrics["quarantined"]) == (
        totals[0], sum(totals[:3]), totals[3])
    sources = [row["source"] for row in kept + dropped]
    assert len(sources) == len(set(sources)) == metrics["documents_read"]
    assert json.loads((out / "curation.json").read_text())["passed_over"] == {"warcinfo record": 1}
