"""The account of a curation: what became of every document, by step, rule and source, with examples to look at.

A ledger is kept for each part of the work and added up in order; sums are whole numbers and samples are those of the
smallest hash, so that the account is the same however the work was cut.  Tokens are estimated at `TOKEN_BYTES` a token.
"""

import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bloomery.core.errors import Defect
from bloomery.core.metrics import shorten
from bloomery.core.records import unit_hash
from bloomery.curate.edits import Edits, in_bytes
from bloomery.curate.offending import offending

TOKEN_BYTES = 4                     # English text in a vocabulary of 32k to 100k
SAMPLES = 50                        # documents shown of each rule
EXCERPT = 800                       # bytes of a document in a sample
BEFORE = 200                        # of them before the first span
LINE = re.compile(r":\d+$")
WHOLE = (".txt", ".html", ".htm", ".xhtml", ".tokens")
FEW = 20                            # a source of fewer documents alarms when as many go as half of these
ALARM = 0.5                         # share of a source that one step removes
MIXTURE = ("documents_read", "bytes_read", "documents_kept", "bytes_kept")


class Ledger:
    """Counts and samples of one part in one pass; `as_json` and `add` make it travel."""

    def __init__(self) -> None:
        self.counts: Counter = Counter()            # (what, step, reason, source, "documents" | "bytes"), as one text
        self.samples: dict[str, list] = defaultdict(list)       # by rule: heaps of (-distance, -key, sample)
        self.seconds: Counter = Counter()

    def add(self, what: str, batch: pa.RecordBatch, *, step: str = "", reason: str = "") -> None:
        """Count the documents of a batch by source."""
        if not batch.num_rows:
            return
        sizes, sources = pc.binary_length(batch.column("text")).to_pylist(), batch.column("source").to_pylist()
        for size, source in zip(sizes, sources):
            place = f"{what}\t{step}\t{reason}\t{group_of(source)}\t"
            self.counts[place + "documents"] += 1
            self.counts[place + "bytes"] += size

    def drop(self, batch: pa.RecordBatch, step: str, reasons: Sequence[str], marks: Edits) -> None:
        """Count dropped documents, each with its reason, and sample them."""
        for reason in sorted(set(reasons)):
            rows = np.array([row for row, given in enumerate(reasons) if given == reason])
            lost = batch.take(pa.array(rows))
            self.add("dropped", lost, step=step, reason=reason)
            self.sample(f"dropped\t{step}.{reason}", batch, rows, np.zeros(len(rows)), marks)

    def edit(self, batch: pa.RecordBatch, step: str, edits: Edits) -> None:
        """Count the edits of a step and sample documents with them."""
        if len(edits):
            rows = np.unique(edits.row)
            self.counts[f"edited\t{step}\t\t\tdocuments"] += len(rows)
            self.counts[f"edited\t{step}\t\t\tspans"] += len(edits)
            self.counts[f"edited\t{step}\t\t\tbytes"] += int((edits.stop - edits.start).sum())
            self.sample(f"edited\t{step}", batch, rows, np.zeros(len(rows)), edits)

    def border(self, batch: pa.RecordBatch, rule: str, values: np.ndarray, limits: tuple[float, float]) -> None:
        """Sample the documents that a rule only just kept."""
        low, high = limits
        gaps = [np.abs(values - limit) / abs(limit) for limit in (low, high) if isfinite(limit) and limit > 0]
        if gaps and batch.num_rows:
            near = np.where((values >= low) & (values <= high), np.minimum.reduce(gaps), np.inf)
            edge = np.partition(near, min(SAMPLES, len(near)) - 1)[min(SAMPLES, len(near)) - 1]
            rows = np.flatnonzero((near <= edge) & np.isfinite(near))
            self.sample(f"borderline\t{rule}", batch, rows, near[rows], Edits(), values)

    def sample(self, kind: str, batch: pa.RecordBatch, rows: np.ndarray, distance: np.ndarray, marks: Edits,
               values: np.ndarray | None = None) -> None:
        """Keep those rows that are among the `SAMPLES` nearest, among equals those of the smallest hash."""
        heap, ids, sources = self.samples[kind], batch.column("id"), batch.column("source")
        for row, far in zip(rows.tolist(), distance.tolist()):
            if len(heap) == SAMPLES and far > -heap[0][0]:
                continue
            entry = [-far, -unit_hash(f"{ids[row]}\t{sources[row]}", kind)]
            if len(heap) < SAMPLES or entry >= heap[0][:2]:
                here, text = np.flatnonzero(marks.row == row), batch.column("text")[row].as_py()
                spans = [(int(marks.start[place]), int(marks.stop[place])) for place in here]
                text, spans = excerpt(text, spans or list(in_bytes(text, offending(kind, text))))
                shown = {"id": ids[row].as_py(), "source": sources[row].as_py(), "text": text, "spans": spans}
                shown |= {"value": float(values[row])} if values is not None else {}
                shown |= {"becomes": [marks.text[place] for place in here]} if any(marks.text) else {}
                keep(heap, [*entry, json.dumps(shown, ensure_ascii=False)])

    def as_json(self) -> dict:
        return {"counts": dict(self.counts), "samples": dict(self.samples), "seconds": dict(self.seconds)}

    def merge(self, other: dict) -> None:
        """Add another part's ledger."""
        self.counts.update(other["counts"])
        self.seconds.update(other["seconds"])
        for kind, entries in other["samples"].items():
            for entry in entries:
                keep(self.samples[kind], entry)

    def shown(self) -> dict[str, dict[str, list[dict]]]:
        """Samples by kind and rule, in the order of their hashes."""
        found: dict[str, dict[str, list[dict]]] = {"dropped": {}, "borderline": {}, "edited": {}}
        for kind in sorted(self.samples):
            what, _, rule = kind.partition("\t")
            found[what][rule] = [json.loads(sample) for *_, sample in sorted(self.samples[kind], reverse=True)]
        return found


def keep(heap: list, entry: list) -> None:
    """Push an entry [-distance, -hash, sample as JSON] and let go of the farthest."""
    if len(heap) < SAMPLES:
        heapq.heappush(heap, entry)
    elif entry > heap[0]:
        heapq.heapreplace(heap, entry)


def group_of(source: str) -> str:
    """What a document's source is counted under: its file, a folder of single documents, or the name it gave."""
    file = LINE.sub("", source)
    numbered = file != source
    if numbered and not file.endswith(WHOLE):
        return file
    return file.rpartition("/")[0] or file


def excerpt(text: str, spans: list[tuple[int, int]]) -> tuple[str, list[list[int]]]:
    """`EXCERPT` bytes around the first span, and the spans in it as characters of the excerpt."""
    content = text.encode("utf-8")
    begin = max(min(start for start, _ in spans) - BEFORE, 0) if spans else 0
    while begin and content[begin] & 0xC0 == 0x80:
        begin -= 1
    shown = content[begin:begin + EXCERPT].decode("utf-8", "ignore")
    places = [[len(content[begin:place].decode("utf-8", "ignore")) for place in span] for span in spans]
    return shown, [[start, min(stop, len(shown))] for start, stop in places if start < len(shown)]


# --- what is written ----------------------------------------------------------------------------------------------

def counted(ledger: Ledger, what: str, unit: str) -> dict[tuple[str, str, str], int]:
    """Counts of one kind by (step, reason, source)."""
    split = ((name.split("\t"), number) for name, number in ledger.counts.items())
    return {(step, reason, source): number for (kind, step, reason, source, of), number in split
            if kind == what and of == unit}


def totals(ledger: Ledger, what: str) -> tuple[int, int]:
    return sum(counted(ledger, what, "documents").values()), sum(counted(ledger, what, "bytes").values())


def funnel(ledger: Ledger, steps: Iterable[str]) -> list[dict]:
    """One entry a step: what it dropped by reason, what it edited, and what was left after it."""
    documents, size = totals(ledger, "read")
    lost, bytes_lost = counted(ledger, "dropped", "documents"), counted(ledger, "dropped", "bytes")
    entries = []
    for step in steps:
        reasons: dict[str, dict[str, int]] = {}
        for (by, reason, source), number in sorted(lost.items()):
            if by == step:
                entry = reasons.setdefault(reason, {"documents": 0, "bytes": 0})
                entry["documents"] += number
                entry["bytes"] += bytes_lost[by, reason, source]
        net = ledger.counts[f"net\t{step}\t\t\tbytes"]
        documents -= sum(entry["documents"] for entry in reasons.values())
        size -= sum(entry["bytes"] for entry in reasons.values()) + net
        for entry in reasons.values():
            entry["tokens"] = entry["bytes"] // TOKEN_BYTES
        edited = {unit: ledger.counts[f"edited\t{step}\t\t\t{unit}"] for unit in ("documents", "spans", "bytes")}
        entries.append({"step": step, "documents_left": documents, "bytes_left": size,
                        "tokens_left": size // TOKEN_BYTES, "reasons": reasons} |
                       ({"edited": edited | {"net_bytes": net}} if edited["spans"] else {}))
    if (documents, size) != totals(ledger, "kept"):
        raise Defect("the account of the curation does not add up",
                     why=f"{documents} documents, {size} bytes should be kept, {totals(ledger, 'kept')} are")
    return entries


def table(entries: list[dict], read: tuple[int, int], bad: int) -> Iterator[str]:
    """The funnel as lines of text: what each rule took, of what had come to it and of all, in documents and bytes."""
    width = max([len(f"{e['step']}.{reason}") for e in entries for reason in e["reasons"]] + [20])

    def line(name: str, documents: int, size: int, *shares: float) -> str:
        percent = "".join(f"{100 * share:8.1f} %" for share in shares).rjust(20)
        return f"  {name:{width}}  {documents:>12,}{percent}{shorten(size):>9}{shorten(int(size / TOKEN_BYTES)):>9}"

    yield f"  {'':{width}}     documents   of these    of all    bytes   tokens"
    yield line("read", *read)
    left, kept = read[0], read
    for entry in entries:
        for reason, lost in entry["reasons"].items():
            yield line(f"{entry['step']}.{reason}", -lost["documents"], -lost["bytes"],
                       lost["documents"] / max(left, 1), lost["documents"] / max(read[0], 1))
            left -= lost["documents"]
        if "edited" in entry:
            edited = entry["edited"]
            yield f"  {entry['step']:{width}}  {edited['spans']:,} edits in {edited['documents']:,} documents, " \
                  f"{shorten(-edited['net_bytes'])} bytes"
        kept = entry["documents_left"], entry["bytes_left"]
    yield line("kept", *kept, kept[0] / max(read[0], 1))
    if idle := [entry["step"] for entry in entries if not entry["reasons"] and "edited" not in entry]:
        yield f"  nothing was taken by {', '.join(idle)}"
    if bad:
        yield f"  {bad:,} rows were no documents: quarantine.jsonl"


def by_source(ledger: Ledger) -> dict[str, dict[str, int]]:
    """Documents and bytes read and kept of every source: the mixture before and after."""
    found: dict[str, dict[str, int]] = {}
    for what in ("read", "kept"):
        for unit in ("documents", "bytes"):
            for (_, _, source), number in counted(ledger, what, unit).items():
                found.setdefault(source, dict.fromkeys(MIXTURE, 0))[f"{unit}_{what}"] = number
    return dict(sorted(found.items(), key=lambda item: (-item[1]["bytes_read"], item[0])))


def alarms(ledger: Ledger, steps: Iterable[str]) -> list[dict]:
    """Steps that removed more than half of a source: a rule that does not fit, or a source that is one document."""
    left = Counter({source: number for (_, _, source), number in counted(ledger, "read", "documents").items()})
    lost, found = counted(ledger, "dropped", "documents"), []
    for step in steps:
        removed: Counter = Counter()
        for (by, _, source), number in lost.items():
            removed[source] += number * (by == step)
        found += [{"step": step, "source": source, "documents": number, "share": round(number / left[source], 4)}
                  for source, number in sorted(removed.items()) if number > ALARM * max(left[source], FEW)]
        left.subtract(removed)
    return found

