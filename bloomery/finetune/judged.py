"""Collections that people have judged: texts, questions, and which texts answer which question.

    BEIR        corpus.jsonl, queries.jsonl, qrels/test.tsv (else the only one there is)     Thakur et al. 2021
    SMART       one file each of .I .T .W records, and lines of question, text, code         Cranfield, CISI, CACM

A code of Cranfield's is a degree, 1 the best of 4, but its questions are by convention judged yes or no.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, rows
from bloomery.core.unpacking import chunks

FIELD = re.compile(r"^\.([A-Z])[ ]*\n(.*?)(?=^\.[A-Z][ ]*\n|\Z)", re.MULTILINE | re.DOTALL)
SMART = {"texts": "*.all*", "questions": "*.qry*", "codes": "*qrel"}


@dataclass(frozen=True)
class Collection:
    """`relevant` are, of every question, the places of the texts that answer it, with how well they do."""

    titles: list[str]
    bodies: list[str]
    questions: list[str]
    relevant: list[dict[int, float]]

    @property
    def texts(self) -> list[str]:
        """What is searched: titles with bodies."""
        return [f"{title} {body}".strip() for title, body in zip(self.titles, self.bodies, strict=True)]


def is_judged(path: str) -> bool:
    """Whether a folder is such a collection."""
    folder = Path(path)
    return (folder / "corpus.jsonl").is_file() or all([*folder.glob(pattern)] for pattern in SMART.values())


def open_judged(path: str, quarantine: Quarantine) -> Collection:
    """A folder of either kind; `InputError` where its files do not belong together."""
    folder = Path(path)
    made = (beir if (folder / "corpus.jsonl").is_file() else smart)(folder, quarantine)
    if not any(made.relevant):
        raise InputError("nothing is judged", where=path, why=f"{len(made.questions)} questions, and no judgement is "
                                                               f"of one of {len(made.titles)} texts")
    return made


def beir(folder: Path, quarantine: Quarantine) -> Collection:
    texts, asked = ({str(row.get("_id")): row for row, _ in rows(folder / f"{name}.jsonl", quarantine)}
                    for name in ("corpus", "queries"))
    found = sorted((folder / "qrels").glob("*.tsv"))
    chosen = next((path for path in found if path.stem == "test"), found[0] if len(found) == 1 else None)
    if chosen is None:
        raise InputError("no judgements", where=str(folder / "qrels"), why=f"{len(found)} files, none is test.tsv")
    lines = [[*map(str, row.values())][:3] for row, _ in rows(chosen, quarantine)]
    judged = ((question, text, float(grade)) for question, text, grade in lines if grade.lstrip("-").isdecimal())
    return joined({name: (row.get("title") or "", row.get("text") or "") for name, row in texts.items()},
                  {name: row.get("text") or "" for name, row in asked.items()}, judged)


def smart(folder: Path, quarantine: Quarantine) -> Collection:
    """Questions and texts are numbered by their order: what Cranfield's .I say of questions is not what is judged."""
    files = {name: whole(next(iter(sorted(folder.glob(pattern)))), quarantine) for name, pattern in SMART.items()}
    texts, asked = ([dict(FIELD.findall(record)) for record in re.split(r"^\.I ", files[name], flags=re.M)[1:]]
                    for name in ("texts", "questions"))
    judged = [line.split() for line in files["codes"].splitlines() if line.strip()]
    return joined({str(place): (one_line(own.get("T", "")), one_line(own.get("W", "")))
                   for place, own in enumerate(texts, start=1)},
                  {str(place): one_line(own.get("W", "")) for place, own in enumerate(asked, start=1)},
                  ((question, text, float(code[0] in "1234")) for question, text, *code in judged if code))


def whole(path: Path, quarantine: Quarantine) -> str:
    found = b"".join(part for part in chunks(path, quarantine.add) if part)
    return found.decode("utf-8", "replace").replace("\r\n", "\n")


def one_line(text: str) -> str:
    return " ".join(text.split())


def joined(texts: dict[str, tuple[str, str]], questions: dict[str, str], judged: Iterable[tuple[str, str, float]]
           ) -> Collection:
    """By places; questions that nothing answers are left out: no ranking of them is better than another."""
    place, relevant = {name: number for number, name in enumerate(texts)}, {name: {} for name in questions}
    for question, text, grade in judged:
        if question in relevant and text in place and grade > 0:
            relevant[question][place[text]] = grade
    kept = [name for name in questions if relevant[name]]
    return Collection([title for title, _ in texts.values()], [body for _, body in texts.values()],
                      [questions[name] for name in kept], [relevant[name] for name in kept])
