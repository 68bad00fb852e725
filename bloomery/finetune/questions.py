"""Questions about texts, from rows or from SQuAD's own JSON.

    question, context, answers      answers {text, answer_start}, a list of such, or texts that stand in the context
    data > paragraphs > qas         Rajpurkar et al. 2016; with `is_impossible` and no answers 2018
"""

from dataclasses import dataclass
from typing import Any

from bloomery.core.files import Quarantine
from bloomery.data.formats import inside, records

EXPECTED = "each row needs `question, context, answers`, with answers {text, answer_start} as SQuAD has them, or " \
           "SQuAD's own JSON"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a text; `answers` are texts with the place each begins at, none where there is no answer."""

    question: str
    context: str
    answers: tuple[tuple[str, int], ...] = ()
    id: str = ""
    title: str = ""
    known: bool = True          # whether the row says what the answer is


def questions(path: str, quarantine: Quarantine, columns: dict[str, str] | None = None, *,
              answers: bool = True) -> list[Asked]:
    """Every question of a file: rows, or SQuAD's JSON, whose articles hold paragraphs that hold questions."""
    def parse(row: dict, where: str) -> list[Asked] | str:
        row = {(columns or {}).get(name, name): value for name, value in row.items()}
        return nested(row, where) if "data" in row or "paragraphs" in row else one(row, where, answers=answers)

    found = records(inside(path, "questions.jsonl"), quarantine, parse=parse, advice=lambda names: EXPECTED)
    return [asked for group in found for asked in group]


def nested(row: dict, where: str) -> list[Asked] | str:
    found = []
    for article in row.get("data", [row]):
        for paragraph in article.get("paragraphs", ()):
            for qa in paragraph["qas"]:
                made = one({**qa, "context": paragraph["context"], "title": article.get("title", "")}, where)
                found += [] if isinstance(made, str) else made
    return found or "no article has a question"


def one(row: dict, where: str, *, answers: bool = True) -> list[Asked] | str:
    question, context, given = row.get("question"), row.get("context"), row.get("answers", row.get("answer"))
    if not isinstance(question, str) or not isinstance(context, str) or not context.strip():
        return f"no question and context; the columns are {', '.join(map(str, row))}"
    if answers and given is None and not row.get("is_impossible"):
        return "no answers"
    found = [] if row.get("is_impossible") else placed(given, context)
    if isinstance(found, str):
        return found
    return [Asked(question, context, tuple(found), str(row.get("id", where)), str(row.get("title", "")),
                  given is not None or bool(row.get("is_impossible")))]


def placed(given: Any, context: str) -> list[tuple[str, int]] | str:
    """Answers with where they begin, looked for in the text where nobody says."""
    if isinstance(given, dict):
        texts, starts = given.get("text", []), given.get("answer_start", [])
        texts, starts = ([value] if isinstance(value, str | int) else list(value) for value in (texts, starts))
        given = [{"text": text, "answer_start": starts[i] if i < len(starts) else None} for i, text in enumerate(texts)]
    given = given if isinstance(given, list) else [] if given is None else [given]
    found = []
    for answer in given:
        text, start = (answer, None) if isinstance(answer, str) else (answer.get("text"), answer.get("answer_start"))
        start = context.find(text) if start is None and isinstance(text, str) else start
        if not isinstance(text, str) or start is None or start < 0 or context[start:start + len(text)] != text:
            return f"the answer {text!r} does not stand in the context" + f" at {start}" * (start is not None)
        found.append((text, start))
    return found
