"""Texts worth reading: quarantined rows, training examples, answers side by side.

All of them are samples of bounded size, drawn by hash and therefore the same in every run; how many there were is
always said.  Nothing here is trusted: the page escapes every text.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from bloomery.core.errors import InputError

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


TEXTS = {"quarantine": quarantine, "examples": examples, "answers": answers}
