"""The chapter about tasks: how well a classifier, a tagger or a reader did on held-out rows, and the rows it got wrong.

Numbers come from `card.json`, rows from `predictions.jsonl`, in whose order they stay: the surest mistakes first.  A
row is filtered by what is true of it and by what was said, whatever these are called in its task.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bloomery.report import findings
from bloomery.report.cards import diagram
from bloomery.report.charts import finite
from bloomery.report.samples import read_json, read_lines

LARGEST = 16                    # classes of a confusion table, those with most rows
MISTAKES, PER_KIND = 300, 40    # rows on the page in all, and of one pair of what is true and what was said
AROUND = 300                    # characters of a text on either side of an answer
SIDES = {"truths": "all that is true", "said": "all that was said"}
CHANCES = 5                     # classes whose probability is told
OURS = {"text", "label", "labels", "score", "prediction", "probability", "probabilities"}   # columns of no text
Piece = tuple[str, str]         # how it is shown ("", "mark", "del", "ins"), and the text


# --- numbers ------------------------------------------------------------------------------------------------------

def task_of(folder: Path) -> str:
    """What the model of a stage is for, of what this chapter knows; "" where it is something else."""
    found = read_json(folder / "card.json") or {}
    return found.get("task", "") if found.get("task") in WRONG else ""


def chapter(stage: dict) -> dict | None:
    """The figures of one task; None for other stages."""
    if not task_of(stage["folder"]):
        return None
    card = read_json(stage["folder"] / "card.json")
    scores = {name: value for name, value in card.items() if finite(value)}
    classes = [(name, own["f1"], f"{own['f1']:.3f} of {own['support']:,}")
               for name, own in (card.get("per_class") or {}).items()]
    beside = [(name.replace("_", " "), own["f1"], f"{own['f1']:.1f}")
              for name, own in ({"this model": card} | card["beside"]).items()] if card.get("beside") else []
    bins = card.get("reliability") or []
    tiles = [tile for tile in (bars("F1 by class", classes, 1.0), bars("F1 beside it", beside, 100.0)) if tile]
    return {"stage": stage["label"], "task": card["task"], "scores": scores,
            "confusion": confusion(card["classes"], card["confusion"]) if card.get("confusion") else None,
            "tiles": tiles, "diagram": diagram({"reliability": bins, "count": sum(b["count"] for b in bins)}, of="rows",
                                               least=0.5 if len(classes) == 2 else 0.0) if bins else None}


def bars(label: str, values: list[tuple[str, float, str]], most: float) -> dict | None:
    return findings.tile(label, "", "", values, "", first=-1, most=most) if len(values) > 1 else None


def confusion(names: list[str], table: list[list[int]]) -> dict:
    """What was taken for what, of the classes with most rows, with the recall of rows and the precision of columns."""
    chosen = sorted(sorted(range(len(names)), key=lambda place: -sum(table[place]))[:LARGEST])
    said = [sum(row[place] for row in table) for place in range(len(names))]
    rows = [{"name": names[r], "recall": table[r][r] / (sum(table[r]) or 1),
             "cells": [{"count": table[r][c], "share": round(table[r][c] / (sum(table[r]) or 1), 4), "right": r == c}
                       for c in chosen]} for r in chosen]
    return {"names": [names[place] for place in chosen], "rows": rows, "left_out": len(names) - len(chosen),
            "precision": [table[place][place] / (said[place] or 1) for place in chosen]}


# --- rows that are wrong ------------------------------------------------------------------------------------------

def mistakes(folder: Path) -> dict:
    """The rows that were got wrong, some of every kind; empty where a stage has no task or no mistake."""
    wrong = WRONG.get(task_of(folder))
    columns = ((read_json(folder / "stage.json") or {}).get("config") or {}).get("columns") or {}
    total, kinds, rows = 0, Counter(), []
    for line in read_lines(folder / "predictions.jsonl") if wrong else ():
        total += 1
        if found := wrong(line, columns):
            kind = (*found["truths"], "", *found["said"])
            kinds[kind] += 1
            if len(rows) < MISTAKES and kinds[kind] <= PER_KIND:
                rows.append(found)
    filters = [(side, words, counted(rows, side)) for side, words in SIDES.items()]
    return {"rows": rows, "total": total, "wrong": sum(kinds.values()),
            "filters": [one for one in filters if len(one[2]) > 1]} if rows else {}


def counted(rows: list[dict], side: str) -> list[tuple[str, int]]:
    """The names on one side with how many rows have each; rows are told the places of theirs in that list."""
    names = Counter(name for row in rows for name in dict.fromkeys(row[side])).most_common()
    place = {name: str(number) for number, (name, _) in enumerate(names)}
    for row in rows:
        row[f"{side}_at"] = " ".join(place[name] for name in dict.fromkeys(row[side]))
    return names


def mistake(truths: list[str], said: list[str], texts: list[tuple[str, list[Piece]]], *, sure: float | None = None,
            note: str = "") -> dict:
    """One row: what is true, what was said, how sure of that the model was, and its texts by name."""
    return {"truths": truths, "said": said, "texts": texts, "sure": sure, "note": note,
            "peek": " ".join(part for _, pieces in texts for _, part in pieces)}


def texts_of(line: dict, columns: dict[str, str]) -> list[tuple[str, list[Piece]]]:
    """What was read: columns with text, by our names for them."""
    named = {columns.get(name, name): value for name, value in line.items()}
    found = [(name, value) for name, value in named.items() if isinstance(value, str)]
    kept = [(name, value) for name, value in found if name == "text" or name not in OURS]
    return [(name, [("", value)]) for name, value in kept or found]


def listed(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def one_label(line: dict, columns: dict[str, str]) -> dict | None:
    truth, said = str(line["label"]), str(line["prediction"])
    return None if truth == said else mistake([truth], [said], texts_of(line, columns), sure=line["probability"],
                                              note=chances(line["probabilities"]))


def any_label(line: dict, columns: dict[str, str]) -> dict | None:
    truths, said = sorted(listed(line["label"])), sorted(listed(line["prediction"]))
    return None if truths == said else mistake(truths or ["none"], said or ["none"], texts_of(line, columns),
                                               note=chances(line["probabilities"]))


def number(line: dict, columns: dict[str, str]) -> dict | None:
    """No class to filter by; the file has those furthest off first."""
    told = f"{line['label']} was told as {line['prediction']}"
    return mistake([], [], texts_of(line, columns), note=told)


def tags(line: dict, columns: dict[str, str]) -> dict | None:
    """A sentence whose wrong tags stand beside their words, the true one first."""
    words = next((line[name] for name in line if columns.get(name, name) == "tokens"), [])
    pairs = list(zip(line["label"], line["prediction"], strict=True))
    wrong = [pair for pair in pairs if pair[0] != pair[1]]
    if not wrong:
        return None
    pieces: list[Piece] = []
    for word, (truth, said) in zip(words, pairs, strict=True):
        pieces += [("", f"{word} ")] if truth == said else [("mark", str(word)), ("", f" {truth} → {said} ")]
    return mistake([truth for truth, _ in wrong], [said for _, said in wrong], [("tokens", pieces)],
                   note=findings.plural(len(wrong), "wrong tag"))


def choice(line: dict, columns: dict[str, str]) -> dict | None:
    """A question with its answers: the right one, and the one that was chosen."""
    if line["label"] == line["prediction"]:
        return None
    named = {columns.get(name, name): value for name, value in line.items()}
    asked = [(name, [("", value)]) for name, value in named.items() if isinstance(value, str) and name != "answer"]
    answers = next((value for value in named.values() if isinstance(value, list) and value
                    and all(isinstance(one, str) for one in value)), [])
    looks = {line["label"]: "ins", line["prediction"]: "del"}
    shown = [(f"answer {place + 1}", [(looks.get(place, ""), text)]) for place, text in enumerate(answers)]
    return mistake([], [], asked + shown, sure=max(line["probabilities"]),
                   note="right is the marked answer, chosen was the one struck out")


def answer(line: dict, columns: dict[str, str]) -> dict | None:
    """A question to a text: the answer that was wanted is marked in it, what was said struck out."""
    if line["f1"] >= 1:
        return None
    right, said = line["answers"], line["prediction"]
    how = "no answer" if not said else "part of it" if line["f1"] > 0 else "something else"
    texts = [("question", [("", line["question"])]), ("wanted", [("", " / ".join(right) or "(no answer)")]),
             ("said", [("", said or "(no answer)")])]
    if context := line.get("context"):
        texts.append(("text", located(context, right[:1], said, line["start"])))
    return mistake(["an answer" if right else "no answer"], [how], texts,
                   note=f"score {line['score']:.2f}, of no answer {line['null_score']:.2f}")


def located(context: str, right: list[str], said: str, start: int) -> list[Piece]:
    """The text around an answer that was said and around the one that was wanted; where they meet, the wanted one."""
    spans = [(context.find(text), len(text), "ins") for text in right] + [(start, len(said), "del")]
    spans = sorted((first, first + size, look) for first, size, look in spans if first >= 0 and size)
    pieces, at = [], max(0, spans[0][0] - AROUND) if spans else 0
    if at:
        pieces.append(("", "…"))
    for first, end, look in spans:
        pieces += [("", context[at:max(at, first)]), (look, context[max(at, first):end])]
        at = max(at, end)
    rest = context[at:at + AROUND]
    return [piece for piece in [*pieces, ("", rest), ("", "…" if at + AROUND < len(context) else "")] if piece[1]]


def chances(probabilities: dict[str, float]) -> str:
    best = sorted(probabilities.items(), key=lambda pair: -pair[1])
    more = f", {len(best) - CHANCES} more" if len(best) > CHANCES else ""
    return ", ".join(f"{name} {100 * p:.1f} %" for name, p in best[:CHANCES]) + more


WRONG: dict[str, Callable[[dict, dict[str, str]], dict | None]] = {
    "single": one_label, "multi": any_label, "regression": number, "tagging": tags, "choice": choice, "qa": answer}
NAMES = {"single": "one label of several", "multi": "any of several labels", "regression": "a number",
         "tagging": "a tag a word", "choice": "which answer", "qa": "answers in texts"}
NUMBERS, TEXTS = {"tasks": chapter}, {"mistakes": mistakes}
