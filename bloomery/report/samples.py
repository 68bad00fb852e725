"""Texts worth reading: dropped documents, quarantined rows, training examples, answers side by side.

All of them are samples of bounded size, drawn by hash and therefore the same in every run; how many there were is
always said.  Nothing here is trusted: the page escapes every text.
"""

import json
from collections.abc import Iterator
from heapq import heappush, heappushpop
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bloomery.core.errors import InputError
from bloomery.core.records import unit_hash

PER_REASON = 40
PER_KIND = 3
QUARANTINED = 100
ANSWERS = 40


def read_json(path: Path) -> object:
    """A JSON file, or None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise damaged(path, error) from None


def read_lines(path: Path) -> Iterator[dict]:
    """The rows of a JSONL file, one at a time; none where there is no file."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise damaged(path, error, f", line {number}") from None
            if not isinstance(row, dict):
                raise damaged(path, ValueError("a row is not an object"), f", line {number}")
            yield row


def damaged(path: Path, error: Exception, place: str = "") -> InputError:
    return InputError("a stage's file cannot be read", where=f"{path}{place}", why=str(error),
                      hint="`bloomery verify` names damaged outputs; remove that folder and run the recipe again")


def dropped(folder: Path) -> list[dict]:
    """Dropped documents by reason, the most frequent first, each with a random sample that depends on ids alone."""
    path = folder / "dropped.parquet"
    if not path.is_file():
        return []
    totals: dict[tuple[str, str], int] = {}
    samples: dict[tuple[str, str], list] = {}
    try:
        for batch in pq.ParquetFile(path).iter_batches(columns=["id", "source", "reason", "step", "text"]):
            names, reasons, steps = (batch.column(name).to_pylist() for name in ("id", "reason", "step"))
            sources, texts = batch.column("source"), batch.column("text")
            for i, (name, reason) in enumerate(zip(names, zip(reasons, steps))):
                totals[reason] = totals.get(reason, 0) + 1
                heap, rank = samples.setdefault(reason, []), -unit_hash(str(name), "report")
                if len(heap) < PER_REASON or rank > heap[0][0]:
                    row = {"id": name, "source": sources[i].as_py(), "text": texts[i].as_py() or ""}
                    push = heappush if len(heap) < PER_REASON else heappushpop
                    push(heap, (rank, totals[reason], row))     # the total settles equal ids by their order
    except (pa.ArrowException, KeyError, OSError) as error:
        raise damaged(path, error) from None
    ordered = sorted(totals, key=lambda reason: (-totals[reason], str(reason)))
    return [{"reason": reason, "step": step, "total": totals[reason, step],
             "documents": [row for *_, row in sorted(samples[reason, step], key=lambda item: (-item[0], item[1]))]}
            for reason, step in ordered]


def quarantine(folder: Path) -> dict:
    """The first rows that could not be read at all, and how many there were; empty where all could."""
    rows, total = [], 0
    for row in read_lines(folder / "quarantine.jsonl"):
        total += 1
        if len(rows) < QUARANTINED:
            rows.append({key: str(row.get(key, "")) for key in ("where", "why", "excerpt")})
    return {"rows": rows, "total": total} if rows else {}


def turns(value: object) -> list[dict]:
    """A prompt, given as text or as messages, as messages."""
    if isinstance(value, list):
        return [{key: str(m.get(key, "")) for key in ("role", "content")} for m in value if isinstance(m, dict)]
    return [{"role": "user", "content": "" if value is None else str(value)}]


def plain(value: object) -> str:
    """A prompt as text: its only message, or all of them with their roles."""
    messages = turns(value)
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)


def examples(folder: Path) -> list[dict]:
    """The first few conversations of each task and preferences of each kind that a stage made."""
    found = []
    for name, group in (("instructions", "task"), ("preferences", "kind")):
        counts: dict[str, int] = {}
        rows = []
        for row in read_lines(folder / f"{name}.jsonl"):
            kind = str(row.get(group) or "")
            counts[kind] = counts.get(kind, 0) + 1
            if counts[kind] <= PER_KIND:
                messages = turns(row.get("messages", row.get("prompt")))
                rows.append({"kind": kind, "messages": messages,
                             "peek": next((m["content"] for m in messages if m["role"] == "user"), ""),
                             "answers": [(side, plain(row[side])) for side in ("chosen", "rejected") if side in row]})
        if rows:
            found.append({"name": name, "total": sum(counts.values()), "counts": dict(sorted(counts.items())),
                          "rows": sorted(rows, key=lambda row: row["kind"])})
    return found


def answers(folder: Path) -> dict:
    """The same prompts answered by every model, in the order of the file; empty where nothing was asked."""
    rows = read_json(folder / "answers.json") or []
    shown = []
    for row in rows[:ANSWERS]:
        expected = str(row.get("expected") or "")
        given = {model: str(text) for model, text in row.get("answers", {}).items()}
        exact = {model for model, text in given.items() if expected.strip() and text.strip() == expected.strip()}
        shown.append({"prompt": plain(row.get("prompt")), "expected": expected,
                      "answers": [(model, text, model in exact) for model, text in given.items()]})
    return {"rows": shown, "total": len(rows)} if rows else {}


TEXTS = {"dropped": dropped, "quarantine": quarantine, "examples": examples, "answers": answers}
