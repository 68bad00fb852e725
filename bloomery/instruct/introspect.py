"""Instructions and preferences from what a language says of itself: the standard library's objects and its interpreter.

Four tasks: `describe` an object, say `which` of a few does something, name its `parameters`, `evaluate` an expression.
Two kinds of preference over `describe` prompts: a `hard_negative` is the description of a similar object, a `format`
pair has the right content in a bad form, sometimes shorter and sometimes longer than the good answer, so that length
alone tells nothing.

The split is by the last part of a name (every `join` is on one side), drawn by hash.  A class whose members are asked
about is always in training, because their names hold its name; so is a built-in that expressions use or parameters
are called after.  Training drops what would give a held-out answer away: equal or contained descriptions, held-out
names in a description.  Candidates and rejected answers come from the same split.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path

from pydantic import Field

from bloomery.core.config import Settings
from bloomery.core.errors import InputError
from bloomery.core.files import write_jsonl
from bloomery.core.metrics import say
from bloomery.core.records import Conversation, Message, Preference, unit_hash
from bloomery.data import stdlib
from bloomery.data.formats import conversation_row, preference_row
from bloomery.instruct.descriptions import describe
from bloomery.instruct.expressions import expressions

SHARED_BY = 3                       # objects that may share a description before it counts as boilerplate
CANDIDATES = 4
TOO_ALIKE = 0.6                     # overlap of words above which another description may be right as well
MAX_PARAMETERS = 8
FAMILIAR = {"builtins", "collections", "datetime", "itertools", "json", "math", "os", "os.path", "pathlib", "random",
            "re", "shutil", "statistics", "string", "textwrap", "time"}                 # of these `show.jsonl` is made

WORDINGS = {
    "describe": ("What does `{name}` do?", "Describe `{name}` in one sentence.", "What is `{name}` for?",
                 "Explain briefly what `{name}` does."),
    "which": ("Which of {candidates} in {owner} does this? {description}",
              "One of {candidates} in {owner} fits this description: {description} Which one?",
              "{description} Which of {candidates} in {owner} is that?"),
    "parameters": ("What are the parameters of `{name}`?", "List the parameters of `{name}`.",
                   "Which parameters does `{name}` take?"),
    "evaluate": ("What is the value of `{expression}`?", "Evaluate `{expression}`.", "What does `{expression}` give?"),
}


class Config(Settings):
    """Ask about the standard library's objects and about small expressions."""

    heldout: float = Field(0.1, gt=0, lt=1, description="share of names and expressions kept for evaluation")
    seed: int = Field(0, description="names the split, the wordings and the expressions")
    expressions: int = Field(6000, ge=0, description="expressions to evaluate")
    negatives: int = Field(2, ge=1, description="similar objects each training answer is set against; held out: one")
    manners: float = Field(0.25, ge=0, description="badly formed answers a confusion in training; held out: one")
    max_objects: int | None = Field(None, ge=20, description="most objects asked about, chosen by hash; none: all")


@dataclass(frozen=True, slots=True)
class Subject:
    """An object with a description fit to be learned."""

    name: str
    module: str
    parameters: tuple[str, ...] | None
    description: str

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def owner(self) -> str:
        """The module or class it is found in; "" for a built-in."""
        return self.name.rpartition(".")[0]

    @property
    def answer(self) -> str:
        return f"`{self.name}`: {self.description}"


Instruction = tuple[Conversation, str]                      # and the object or expression it is about
Judgement = tuple[Preference, str]


def run(config: Config, out: Path) -> dict:
    """Write instructions, preferences and problems with their held-out parts, and three prompts to show; counts."""
    skipped: Counter[str] = Counter()
    computed = expressions(config.expressions, config.seed)
    parts = split(subjects(config, skipped), config, skipped, used=identifiers(text for text, _ in computed))
    metrics: dict = {}
    for part, members in parts.items():
        suffix, shelf = "" if part == "train" else "_heldout", Shelf(members)
        taught = [row for member in members for row in instructions(member, shelf, config.seed)]
        taught += [evaluation(text, answer, config.seed) for text, answer in computed
                   if (unit_hash(text, f"expression {config.seed}") < config.heldout) == (part == "heldout")]
        negatives = config.negatives if part == "train" else 1
        judged = [row for member in members for row in confusions(member, shelf, config.seed, negatives)]
        judged += manners(taught, config.seed, limit=round(len(judged) * (config.manners if part == "train" else 1)))
        write_jsonl(out / f"instructions{suffix}.jsonl", mixed(taught, conversation_row, config.seed))
        write_jsonl(out / f"problems{suffix}.jsonl", mixed([row for row in taught if row[0].task == "evaluate"],
                                                           problem_row, config.seed))
        write_jsonl(out / f"preferences{suffix}.jsonl", mixed(judged, preference_row, config.seed))
        if part == "heldout":
            write_jsonl(out / "show.jsonl", showpieces(taught, members, config.seed))
        counts = {"objects": len(members), "instructions": len(taught), "preferences": len(judged)}
        counts |= Counter(row.task for row, _ in taught) + Counter(row.kind for row, _ in judged)
        metrics |= {f"{name}/{part}": count for name, count in sorted(counts.items())}
        say(f"  introspect, {part}: {', '.join(f'{name} {count}' for name, count in counts.items())}")
    return metrics | {f"skipped/{reason}": count for reason, count in sorted(skipped.items())}


def subjects(config: Config, skipped: Counter[str]) -> list[Subject]:
    """Every library object with a description of its own, sorted by name; the others are counted by reason."""
    found = []
    for item in stdlib.objects():
        description, reason = describe(item.doc)
        if reason or item.name.rpartition(".")[2].startswith("do_"):
            skipped[reason or "command of an interactive loop"] += 1
        else:
            found.append(Subject(item.name, item.module, item.parameters, description))
    shared = Counter(subject.description for subject in found)
    skipped["shared description"] = sum(shared[subject.description] > SHARED_BY for subject in found)
    found = [subject for subject in found if shared[subject.description] <= SHARED_BY]
    chosen = drawn(found, f"object {config.seed}")[:config.max_objects]
    skipped["beyond max_objects"] = len(found) - len(chosen)
    return sorted(chosen, key=lambda subject: subject.name)


def identifiers(texts: Iterable[str]) -> set[str]:
    return {name for text in texts for name in re.findall(r"[A-Za-z_]\w*", text)}


def split(found: list[Subject], config: Config, skipped: Counter[str], *, used: set[str]) -> dict[str, list[Subject]]:
    """Training and held-out subjects that share no last name, no description, and no mention of a held-out name."""
    owners = {subject.owner.rpartition(".")[2] for subject in found}
    used = used | {name.lstrip("*") for subject in found for name in subject.parameters or ()}
    kept_in = owners | {subject.last for subject in found if not subject.owner and subject.name in used}
    heldout = [subject for subject in found if subject.last not in kept_in
               and unit_hash(subject.last, f"name {config.seed}") < config.heldout]
    names, lasts = {subject.name for subject in heldout}, {subject.last for subject in heldout}
    told = [plain(subject.description) for subject in heldout]
    train = []
    for subject in found:
        if subject.last in lasts:
            continue
        text = plain(subject.description)
        if any(answer in text or text in answer for answer in told):
            skipped["described as a held-out object"] += 1
        elif mentions(subject.description, names, lasts):
            skipped["mentions a held-out object"] += 1
        else:
            train.append(subject)
    if min(len(train), len(heldout)) < CANDIDATES:
        raise InputError("too few objects to split", why=f"{len(train)} for training, {len(heldout)} held out",
                         hint="change heldout or max_objects")
    return {"train": train, "heldout": heldout}


def plain(description: str) -> str:
    return " ".join(re.findall(r"\w+", description.lower()))


def mentions(description: str, names: set[str], lasts: set[str]) -> bool:
    """Whether a description names one of these objects: dotted, or marked as code by backticks or a call."""
    code = re.findall(r"`([\w.]+)", description) + re.findall(r"([\w.]+)\(", description)
    dotted = re.findall(r"\w+(?:\.\w+)+", description)
    return any(name in names for name in dotted) or any(name.rpartition(".")[2] in lasts for name in code)


class Shelf:
    """The subjects of one split by where they stand: what lies beside a subject is what it can be mistaken for."""

    def __init__(self, members: list[Subject]):
        self.members = members
        self.by_owner, self.by_package = defaultdict(list), defaultdict(list)
        for member in members:
            self.by_owner[member.owner].append(member)
            self.by_package[member.module.partition(".")[0]].append(member)
        self.words = {member.name: frozenset(plain(member.description).split()) for member in members}
        self.name_words = {member.name: frozenset(re.findall(r"[a-z]+|[A-Z][a-z]*", member.last)) for member in members}

    def circles(self, subject: Subject) -> Iterator[list[Subject]]:
        """Other subjects that are clearly described otherwise: of the same owner, of the same package, all."""
        for circle in (self.by_owner[subject.owner], self.by_package[subject.module.partition(".")[0]], self.members):
            yield [other for other in circle if other.last != subject.last and self.overlap(subject, other) < TOO_ALIKE]

    def overlap(self, one: Subject, other: Subject) -> float:
        """Jaccard similarity of the words of two descriptions."""
        a, b = self.words[one.name], self.words[other.name]
        return len(a & b) / len(a | b)

    def likeness(self, one: Subject, other: Subject) -> float:
        """How easily two are mistaken for each other: common words of descriptions, and of names."""
        a, b = self.name_words[one.name], self.name_words[other.name]
        return self.overlap(one, other) + len(a & b) / max(len(a | b), 1)

    def nearest(self, subject: Subject, count: int) -> list[Subject]:
        """The `count` most similar other subjects of the nearest circle that has any."""
        circle = next(filter(None, self.circles(subject)), [])
        return nsmallest(count, circle, key=lambda other: (-self.likeness(subject, other), other.name))

    def lineup(self, subject: Subject, seed: int) -> tuple[list[Subject], bool]:
        """The subject among two or three others, in hash order, and whether all have the same owner."""
        for rank, circle in enumerate(self.circles(subject)):
            chosen: dict[str, Subject] = {}
            for other in drawn(circle, f"lineup {subject.name} {seed}"):
                chosen.setdefault(other.last, other)
            others = list(chosen.values())[:CANDIDATES - 1]
            if len(others) >= 2:
                return drawn([subject, *others], f"order {subject.name} {seed}"), rank == 0
        return [], False


def drawn(subjects: Iterable[Subject], salt: str) -> list[Subject]:
    """Subjects in an order drawn by hash."""
    return sorted(subjects, key=lambda subject: unit_hash(subject.name, salt))


def wording(task: str, key: str, seed: int | str, **values: str) -> tuple[Message, ...]:
    """The question of a task about `key`, in one of its wordings, chosen by hash."""
    choices = WORDINGS[task]
    return (Message("user", choices[int(unit_hash(key, f"{task} {seed}") * len(choices))].format(**values)),)


def lesson(task: str, key: str, question: tuple[Message, ...], answer: str) -> Instruction:
    return Conversation((*question, Message("assistant", answer)), task, f"{task}/{key}"), key


def instructions(subject: Subject, shelf: Shelf, seed: int) -> Iterator[Instruction]:
    """What can be asked about one object."""
    name = subject.name
    yield lesson("describe", name, wording("describe", name, seed, name=name), subject.answer)
    lineup, same_owner = shelf.lineup(subject, seed)
    if lineup:
        shown = {one.name: f"`{one.last if same_owner else one.name}`" for one in lineup}
        owner = (f"`{subject.owner}`" if subject.owner else "the built-ins") if same_owner else "the standard library"
        question = wording("which", name, seed, candidates=", ".join(shown.values()), owner=owner,
                           description=subject.description)
        yield lesson("which", name, question, shown[name])
    names = subject.parameters
    if names is not None and len(names) <= MAX_PARAMETERS and not (names and all(one.startswith("*") for one in names)):
        answer = ", ".join(f"`{one}`" for one in names) or "It takes no parameters."
        yield lesson("parameters", name, wording("parameters", name, seed, name=name), answer)


def evaluation(expression: str, value: str, seed: int) -> Instruction:
    return lesson("evaluate", expression, wording("evaluate", expression, seed, expression=expression), f"`{value}`")


def confusions(subject: Subject, shelf: Shelf, seed: int, negatives: int) -> Iterator[Judgement]:
    """The right description against those of similar objects."""
    for rank, near in enumerate(shelf.nearest(subject, negatives)):
        key = f"hard_negative/{subject.name}" + (f"/{rank}" if rank else "")
        prompt = wording("describe", subject.name, f"{key} {seed}", name=subject.name)
        rejected = f"`{subject.name}`: {near.description}"
        yield Preference(prompt, subject.answer, rejected, "hard_negative", key), subject.name


def manners(taught: list[Instruction], seed: int, *, limit: int) -> list[Judgement]:
    """Right answers against themselves in a bad form: one question of each object, and a third of the expressions."""
    of_object: dict[str, list[Instruction]] = defaultdict(list)
    for row in taught:
        of_object[row[1]].append(row)
    asked = [min(rows, key=lambda row: unit_hash(row[0].id, f"manners {seed}")) for rows in of_object.values()]
    asked = [row for row in asked if row[0].task != "evaluate" or unit_hash(row[0].id, f"third {seed}") < 1 / 3]
    asked.sort(key=lambda row: (unit_hash(row[0].id, f"some {seed}"), row[0].id))
    return [(Preference(record.messages[:-1], record.messages[-1].content, malformed(record, seed), "format",
                        f"format/{record.id}"), key) for record, key in asked[:limit]]


def malformed(record: Conversation, seed: int) -> str:
    """The answer in one of the bad forms that differ from it, chosen by hash."""
    *_, question, answer = record.messages
    forms = list(dict.fromkeys(form(question.content, answer.content) for form in MALFORMED.values()))
    forms = [form for form in forms if form.strip() not in ("", answer.content)]
    return forms[int(unit_hash(record.id, f"form {seed}") * len(forms))]


def mixed(rows: list, as_row: Callable[[object], dict], seed: int) -> list[dict]:
    """Rows with their object, in an order drawn by hash, so that any first part holds all tasks."""
    ordered = sorted(rows, key=lambda row: (unit_hash(row[0].id, f"order {seed}"), row[0].id))
    return [as_row(record) | {"object": key} for record, key in ordered]


def problem_row(record: Conversation) -> dict:
    """A question to which the interpreter knows the answer, as a verifier wants it."""
    *_, question, answer = record.messages
    return {"prompt": question.content, "answer": answer.content, "task": record.task, "id": record.id}


def showpieces(rows: list[Instruction], members: list[Subject], seed: int) -> list[dict]:
    """One held-out question of each of three tasks with its right answer: about what many know, no bare 0 or True."""
    familiar = {member.name for member in members if member.module in FAMILIAR and len(member.description) < 80}
    pieces = []
    for task in ("describe", "which", "evaluate"):
        of_task = [row for row in rows if row[0].task == task]
        known = [row for row in of_task if row[1] in familiar
                 or (task == "evaluate" and len(row[0].messages[1].content) > 8)] or of_task
        for record, key in sorted(known, key=lambda row: unit_hash(row[0].id, f"show {seed}"))[:1]:
            pieces.append(conversation_row(record) | {"object": key})
    return pieces


MALFORMED: dict[str, Callable[[str, str], str]] = {         # of a question and its right answer
    "no name": lambda question, answer: answer.partition("`: ")[2],
    "no marks": lambda question, answer: answer.replace("`", ""),
    "lower case": lambda question, answer: answer.lower().removesuffix("."),
    "upper case": lambda question, answer: answer.upper(),
    "cut short": lambda question, answer: answer[:max(1, len(answer) * 3 // 5)].rstrip(),
    "preamble": lambda question, answer: f"Sure! Here is the answer: {answer}",
    "twice": lambda question, answer: f"{answer} {answer}",
    "quotes": lambda question, answer: '"' + answer.replace("`", "") + '"',
    "pleasantry": lambda question, answer: f"{answer} Hope this helps!",
    "question repeated": lambda question, answer: f"{question} {answer}",
}
