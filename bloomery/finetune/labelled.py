"""Rows of a task: texts with what is to be said of them, known by their columns.

    a text, or two              text, label        sentence1, sentence2, label        premise, hypothesis, label
    words with tags             tokens, tags
    a question with answers     question, choices, answer        (the number, the letter or the text of the right one)

A label is a name, several (a list: any of them may hold) or a number with a fraction (regression).  Without any of
these columns a row cannot be used; where no row can, one error says what is expected.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.core.records import unit_hash
from bloomery.data.formats import inside, records

PAIRS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("text1", "text2"), ("text", "text_pair"),
         ("first", "second"), ("question", "sentence"))
TEXTS = ("text", "sentence")
LABELS = ("label", "labels", "score")
TAGS = ("tags", "ner_tags", "pos_tags", "labels")
CHOICES, ANSWERS = ("choices", "endings", "options", "answers"), ("answer", "label")
QUESTIONS = ("question", "context", "prompt", "text")
LETTERS = "ABCDEFGHIJ"
SYNONYMS = ("review", "content", "document", "string", "1")


@dataclass(frozen=True, slots=True)
class Labelled:
    """One row: `texts` are one or two texts, the words of a sentence, or a question and what may answer it."""

    kind: str                   # "text", "tagging" or "choice"
    texts: tuple[str, ...]
    label: Any = None           # None where the row does not say
    place: str = ""
    row: dict = field(default_factory=dict, compare=False)

    @property
    def id(self) -> str:
        return "\0".join(self.texts)


def read(path: str, columns: Mapping[str, str], quarantine: Quarantine, *, labels: bool = True) -> list[Labelled]:
    """The rows of a file, a folder or a hub id; `columns` maps their names to ours. `labels`: a row must have one."""
    def parse(row: dict, where: str) -> Labelled | str:
        return labelled({columns.get(name, name): value for name, value in row.items()}, row, where, labels=labels)

    found = list(records(inside(path, "train.jsonl"), quarantine, parse=parse, advice=advice))
    kinds = Counter(row.kind for row in found)
    if len(kinds) > 1:
        raise InputError("rows of different tasks in one file", where=path,
                         why=", ".join(f"{count} of {kind}" for kind, count in kinds.most_common()),
                         hint="give each task a file of its own")
    return found


def advice(names: list[str]) -> str:
    near = next((f"columns.{name}=text" for name in names if name.lower() in SYNONYMS), "columns.THEIRS=OURS")
    return "each row needs `text, label`, `premise, hypothesis, label`, `tokens, tags` or `question, choices, " \
           f"answer`; name yours with {near}"


def labelled(row: dict, given: dict, where: str, *, labels: bool) -> Labelled | str:
    """What a row says; a string is why it cannot be used."""
    row = {name: value for name, value in row.items() if value is not None}
    if isinstance(row.get("tokens"), list):
        return tagged(row, given, where, labels=labels)
    if choices := next((row[name] for name in CHOICES if isinstance(row.get(name), list)), None):
        return chosen(row, given, choices, where, labels=labels)
    names = next((pair for pair in PAIRS if all(name in row for name in pair)), None) or \
        next(((name,) for name in TEXTS if name in row), None)
    if names is None:
        return f"columns of no known task: {', '.join(map(str, row))}"
    texts = tuple(row[name] for name in names)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return f"{', '.join(names)}: not a text, or an empty one"
    label = next((row[name] for name in LABELS if name in row), None)
    if labels and label is None:
        return f"no label; the columns are {', '.join(map(str, row))}"
    if isinstance(label, float) and not isfinite(label):
        return f"the label is {label}"
    return Labelled("text", texts, label, where, given)


def tagged(row: dict, given: dict, where: str, *, labels: bool) -> Labelled | str:
    words, tags = row["tokens"], next((row[name] for name in TAGS if name in row), None)
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        return "tokens is not a list of words"
    if labels and (not isinstance(tags, list) or len(tags) != len(words)):
        return f"{len(words)} tokens with {len(tags) if isinstance(tags, list) else 'no'} tags"
    return Labelled("tagging", tuple(words), None if tags is None else tuple(map(str, tags)), where, given)


def chosen(row: dict, given: dict, choices: list, where: str, *, labels: bool) -> Labelled | str:
    question = next((row[name] for name in QUESTIONS if isinstance(row.get(name), str)), None)
    answer = next((row[name] for name in ANSWERS if name in row), None)
    if question is None or len(choices) < 2 or not all(isinstance(choice, str) for choice in choices):
        return "a question with two choices at least is needed"
    place = place_of(answer, choices)
    if labels and place is None:
        return f"the answer {answer!r} is none of {len(choices)} choices"
    return Labelled("choice", (question, *choices), place, where, given)


def place_of(answer: Any, choices: Sequence[str]) -> int | None:
    """Which of the choices is right, told by its text, its letter or its number from 0."""
    if isinstance(answer, str):
        if answer in choices:
            return choices.index(answer)
        answer = LETTERS.index(answer) if answer in LETTERS and len(answer) == 1 else answer
        answer = int(answer) if isinstance(answer, str) and answer.isdecimal() else answer
    return answer if isinstance(answer, int) and 0 <= answer < len(choices) else None


# --- what the labels of many rows make of a task ------------------------------------------------------------------

def task_of(rows: Sequence[Labelled], asked: str) -> str:
    """single, multi, regression, tagging or choice: what the rows are, or of what they may be what is `asked`."""
    kind = rows[0].kind
    found = kind if kind != "text" else "multi" if any(isinstance(row.label, list) for row in rows) else \
        "regression" if any(fractional(row.label) for row in rows) else "single"
    fits = {"single": ("single", "regression"), "regression": ("regression",)}.get(found, (found,))
    if asked != "auto" and asked not in fits:
        raise InputError(f"these rows are not for {asked}", where=rows[0].place, why=f"they look like {found}",
                         hint=f"task = {found}, or leave it out")
    return found if asked == "auto" else asked


def fractional(label: Any) -> bool:
    """A number that is no whole one, as itself or as text."""
    try:
        return not isinstance(label, int | list) and not str(label).isdecimal() and "." in str(label) and \
            isfinite(float(label))
    except ValueError:
        return False


def renamed(row: Labelled, labels: dict[str, str]) -> Labelled:
    """The row with its labels by their names."""
    if not labels or row.kind == "choice":
        return row
    def name(label: object) -> str:
        return labels.get(str(label), str(label))

    label = type(row.label)(map(name, row.label)) if isinstance(row.label, list | tuple) else name(row.label)
    return Labelled(row.kind, row.texts, label, row.place, row.row)


def names_of(row: Labelled) -> list[str]:
    """The labels of a row, as names."""
    return [str(name) for name in row.label] if isinstance(row.label, list | tuple) else [str(row.label)]


def classes(rows: Sequence[Labelled]) -> tuple[str, ...]:
    """All labels there are: numbers in their order, else names in theirs."""
    found = {name for row in rows for name in names_of(row)}
    return tuple(sorted(found, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)))


def stratified(rows: Sequence[Labelled], share: float, *,
               by_label: bool = True) -> tuple[list[Labelled], list[Labelled]]:
    """Rows to train on and about `share` of them to hold out, of every label alike, by a hash of their texts.

    Equal texts stay on one side.
    """
    if not 0 < share < 1:
        raise ValueError(f"a share in (0, 1) is needed, got {share}")
    groups: dict[str, dict[str, list[Labelled]]] = defaultdict(lambda: defaultdict(list))
    owner: dict[str, str] = {}
    for row in rows:
        label = owner.setdefault(row.id, ",".join(sorted(names_of(row))) if by_label else "")
        groups[label][row.id].append(row)
    held: set[str] = set()
    for group in groups.values():
        order = sorted(group, key=lambda text: unit_hash(text, "held out"))
        held |= set(order[:round(share * len(order))])
    return [row for row in rows if row.id not in held], [row for row in rows if row.id in held]
