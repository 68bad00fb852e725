"""The convert stage: public task data become instructions.

    squad             context, question, answers (SQuAD's own JSON, or rows)
    summarisation     document, summary
    nli               premise, hypothesis, label
    paraphrase        first, second, label
    translation       source, target; or two files, line by line
    classification    text, label
    multiple_choice   question, choices, answer
    reasoning         question, answer, rationale; or both in one, as GSM8K has them
    guideline         a Markdown document of rules with examples (`guideline.py`)

How an example is worded follows from its id and the seed (`paraphrases.py`).  Splits stay apart: training rows go to
`instructions.jsonl`, any other split to `instructions_SPLIT.jsonl`.  Every row says where it comes from: its source,
its split, its wording.  A reasoning is kept as the answer's `thinking`; whether it is shown is for the mixture to say.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, byte_lines, rows, write_jsonl
from bloomery.core.metrics import say
from bloomery.core.records import Conversation, Message, unit_hash
from bloomery.data.contamination import contamination
from bloomery.data.formats import conversation_row
from bloomery.instruct.guideline import Prompts, pairs
from bloomery.instruct.paraphrases import WORDINGS

SPLIT = re.compile(r"(?:^|[^a-z])(train|validation|valid|val|dev|test)(?:[^a-z]|$)")   # in a file's name
FOLDER = re.compile(r"(train|validation|valid|val|dev|test)$")                          # the whole name of a folder
SPLITS = {"valid": "validation", "val": "validation", "dev": "validation"}
ENTAILMENT = {"0": "entailment", "1": "neutral", "2": "contradiction"}                  # as SNLI and MNLI number them
CALCULATOR = re.compile(r"<<.*?>>")                                                     # GSM8K's notes in its solutions
LETTERS = "ABCDEFGHIJ"
OWN = {"target": ("translation",), "languages": ("translation",), "unanswerable": ("squad",), "prompts": ("guideline",),
       "labels": ("nli", "paraphrase", "classification")}
MOST_LABELS = 100                                                                       # all of them stand in a prompt


class Config(Settings):
    """Turn task data into instructions in many wordings."""

    format: Literal["squad", "summarisation", "nli", "paraphrase", "translation", "classification", "multiple_choice",
                    "reasoning", "guideline"] = Field(description="what kind of task the data are")
    source: Input | dict[str, Input] = Field(description="a file or folder, or one for each split: source.train=...")
    target: Input | dict[str, Input] | None = Field(None, description="translation: the lines of the other language")
    languages: tuple[str, str] | None = Field(None, description="translation: the names of both, as English,German")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ")
    labels: dict[str, str] = Field({}, description="their label = the word to answer, as 0=negative")
    unanswerable: str | None = Field(None, description="squad: what to answer where there is no answer; none: left out")
    task: str = Field("", description="the task's name; default: the format's")
    wordings: int = Field(1, gt=0, description="in how many wordings each example is asked")
    prompts: Prompts = Field("both", description="guideline: ask with the rule in the prompt, without, or both")
    evaluation: list[Input] = Field([], description="evaluation files; training rows that share 13 words are left out")
    seed: int = Field(0, description="names the choice of wordings")

    @model_validator(mode="after")
    def options_are_of_the_format(self) -> "Config":
        for name, kinds in OWN.items():
            if getattr(self, name) != type(self).model_fields[name].default and self.format not in kinds:
                raise ValueError(f"{name} is an option of the format {listed(list(kinds))}, not of {self.format}")
        if self.format == "translation" and self.languages is None:
            raise ValueError("translation needs to know between what: languages=English,German")
        return self


@dataclass(frozen=True)
class Example:
    """One row, read: what a wording's braces are filled with."""

    id: str
    split: str
    source: str                             # file:line, without the folders above it
    values: dict[str, str]


def run(config: Config, out: Path) -> dict:
    """Write the instructions of every split; counts of examples, of wordings, and of what was set aside."""
    quarantine, written, asked = Quarantine(), defaultdict(list), Counter()
    known = contamination(config.evaluation, quarantine)
    for record, wording in guidelines(config) if config.format == "guideline" else instructions(config, quarantine):
        reason = known.of_conversation(record) if record.split == "train" else None
        if reason:
            quarantine.add(record.source, reason)
            continue
        asked[wording] += 1
        written[record.split].append(conversation_row(record) | {"template": wording})
    quarantine.write(out)
    if not written:
        first = quarantine.entries[0] if quarantine.entries else {"where": str(config.source), "why": "it is empty"}
        raise InputError("no row can be converted", where=first["where"], why=first["why"],
                         hint=f"{config.format} needs {needs(config.format)}; columns.THEIRS=OURS renames them")
    for split, found in written.items():
        write_jsonl(out / ("instructions.jsonl" if split == "train" else f"instructions_{split}.jsonl"), found)
    counts = {split: len(found) for split, found in written.items()}
    say(f"  convert {config.format}: {', '.join(f'{split} {count}' for split, count in counts.items())} "
        f"in {len(asked)} wordings, {len(quarantine)} rows set aside")
    return {"examples": sum(counts.values()), "wordings": len(asked), "quarantined": len(quarantine),
            **{f"examples/{split}": count for split, count in counts.items()},
            **{f"dropped/{reason}": count for reason, count in sorted(quarantine.reasons.items())}}


def needs(kind: str) -> str:
    return "a Markdown file" if kind == "guideline" else ", ".join(
        " or ".join(dict.fromkeys(names)) for names in FIELDS[kind].values())


# --- where rows come from -----------------------------------------------------------------------------------------

def places(source: str | dict[str, str]) -> list[tuple[str, str]]:
    """Files with the split they are named to be of, "" when the file and its rows have to tell."""
    return [(place, split) for split, place in source.items()] if isinstance(source, dict) else [(source, "")]


def named_split(where: str) -> str:
    """The split that a file's name or its folder's tells, else train."""
    found = SPLIT.search(Path(where).name.lower()) or FOLDER.match(Path(where).parent.name.lower())
    return SPLITS.get(found[1], found[1]) if found else "train"


def read(config: Config, quarantine: Quarantine) -> Iterator[tuple[dict, str, str]]:
    """Rows with their place and their split."""
    targets = dict((split, place) for place, split in places(config.target or {}))
    for place, split in places(config.source):
        if config.target is None:
            found = (flat for row, where in rows(place, quarantine) for flat in flattened(row, where))
        elif split in targets:
            found = aligned(Path(place), Path(targets[split]), quarantine)
        else:
            raise InputError("a split without its translation", where=f"source.{split}", hint=f"set target.{split}")
        for row, where in found:
            given = split or row.get("split") or named_split(where)
            yield row, where, SPLITS.get(given, re.sub(r"[^\w-]+", "_", str(given)))       # it becomes a file's name


def flattened(row: dict, where: str) -> Iterator[tuple[dict, str]]:
    """The questions of SQuAD's nested JSON, the languages of a `translation` column, else the row as it is."""
    if isinstance(row.get("translation"), dict):
        yield row | row["translation"], where
    elif isinstance(row.get("data", row.get("paragraphs")), list):
        for article in row.get("data", [row]):
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield {"context": paragraph["context"], **question}, where
    else:
        yield row, where


def aligned(source: Path, target: Path, quarantine: Quarantine) -> Iterator[tuple[dict, str]]:
    """Line i of one file beside line i of the other; `InputError` when one of them ends first."""
    for path in (source, target):
        if not path.is_file():
            raise InputError("no such file", where=str(path), hint="source and target are one file for each language")
    for ours, theirs in zip_longest(byte_lines(source, quarantine), byte_lines(target, quarantine)):
        if ours is None or theirs is None:
            raise InputError("two files of different length", where=f"{source} and {target}",
                             hint="line i of one must be the translation of line i of the other")
        try:
            yield {"source": ours[0].decode().strip(), "target": theirs[0].decode().strip()}, ours[1]
        except UnicodeDecodeError as error:
            quarantine.add(ours[1], f"invalid UTF-8: {error.reason}", ours[0])


def examples(config: Config, quarantine: Quarantine) -> Iterator[Example]:
    """Rows as the fields their format needs; what lacks one is set aside with the reason."""
    number: Counter[str] = Counter()
    for row, where, split in read(config, quarantine):
        number[split] += 1
        row = {config.columns.get(name, name): value for name, value in row.items()}
        source = re.sub(r"^.*[/\\]", "", where)
        if ".tsv" in source:                                # a field there cannot hold a newline; FLAN's spell it
            row = {name: value.replace("\\n", "\n") for name, value in row.items()}
        missing = [name for name, names in FIELDS[config.format].items() if all(row.get(one) is None for one in names)]
        if missing:
            quarantine.add(where, f"no column {missing[0]}: the row has {', '.join(row)}", str(row))
            continue
        fields = {name: next(row[one] for one in names if row.get(one) is not None)
                  for name, names in FIELDS[config.format].items()}
        values = FORMATS[config.format](fields, config)
        empty = [] if isinstance(values, str) else [
            key for key, text in values.items() if not text.strip() and key != "rationale"]
        if isinstance(values, str) or empty:
            quarantine.add(where, values if isinstance(values, str) else f"empty {empty[0]}", str(row))
        else:
            name = f"{config.task or config.format}/{split}/{row.get('id', number[split])}"
            yield Example(name, split, source, values)


def instructions(config: Config, quarantine: Quarantine) -> Iterator[tuple[Conversation, str]]:
    """Every example in `config.wordings` wordings that are drawn by hash, and the name of each."""
    found, wordings = list(examples(config, quarantine)), WORDINGS[config.format]
    options = {"options": listed(classes(found, config))} if config.format == "classification" else {}
    for example in found:
        order = sorted(range(len(wordings)), key=lambda i: unit_hash(f"{example.id} {i}", f"wording {config.seed}"))
        for choice in order[:config.wordings]:
            values = options | example.values
            prompt, answer = (text.format(**values) for text in wordings[choice])
            turns = (Message("user", prompt), Message("assistant", answer, thinking=values.get("rationale", "")))
            name = example.id if config.wordings == 1 else f"{example.id}/{choice}"
            yield (Conversation(turns, config.task or config.format, name, split=example.split, source=example.source),
                   f"{config.format}/{choice}")


def classes(found: list[Example], config: Config) -> list[str]:
    """The words an example may be classified as: those given, or all there are. `InputError` when they say nothing."""
    labels = list(dict.fromkeys(config.labels.values())) or sorted({example.values["answer"] for example in found})
    if not config.labels and labels and all(re.fullmatch(r"-?\d+", label) for label in labels):
        raise InputError("labels are numbers", where=str(config.source), why=f"found {', '.join(labels[:20])}",
                         hint="say what they mean: labels.0=negative labels.1=positive")
    if len(labels) > MOST_LABELS:
        raise InputError("too many labels to choose from", where=str(config.source),
                         why=f"{len(labels)}, such as {', '.join(labels[:3])}", hint="is that the column of the label?")
    return labels


def guidelines(config: Config) -> Iterator[tuple[Conversation, str]]:
    """The examples of guideline documents."""
    for place, split in places(config.source):
        path = Path(place)
        if path.suffix.lower() not in (".md", ".markdown", ".txt") or not path.is_file():
            raise InputError("a guideline is one Markdown file", where=place, hint="name a file that ends in .md")
        text = path.read_text(encoding="utf-8")
        for record, wording in pairs(text, where=path.name, prompts=config.prompts, task=config.task or "guideline",
                                     seed=config.seed):
            yield replace(record, split=SPLITS.get(split, split) or named_split(place)), wording


# --- what each format makes of a row: the values of its wordings, or why not ---------------------------------------

def listed(options: list[str]) -> str:
    return ", ".join(options[:-1]) + " or " + options[-1] if len(options) > 1 else "".join(options)


def plain(fields: dict, config: Config) -> dict[str, str] | str:
    """Fields that are texts already."""
    wrong = [name for name, value in fields.items() if not isinstance(value, str)]
    return f"{wrong[0]} is not a text: {type(fields[wrong[0]]).__name__}" if wrong else fields


def squad(fields: dict, config: Config) -> dict[str, str] | str:
    """The first answer: the others are other people's, for scoring."""
    answers = fields["answers"]
    texts = answers.get("text", []) if isinstance(answers, dict) else answers
    texts = [texts] if isinstance(texts, str) else [one["text"] if isinstance(one, dict) else one for one in texts]
    if not texts and config.unanswerable is None:
        return "no answer in the text"
    return plain({"context": fields["context"], "question": fields["question"].strip(),
                  "answer": texts[0] if texts else config.unanswerable}, config)


def labelled(fields: dict, config: Config, known: dict[str, str]) -> dict[str, str] | str:
    """Texts and a label by its word; one of the known labels when there are any."""
    label, words = str(fields["label"]), config.labels or known
    if label in ("-1", "-", ""):
        return "no gold label"
    if words and label not in words and label not in words.values():
        return f"unknown label: {label!r}, not one of {', '.join(words)}"
    texts = plain({name: value for name, value in fields.items() if name != "label"}, config)
    options = {"options": listed(list(dict.fromkeys(words.values())))} if words else {}
    return texts if isinstance(texts, str) else texts | {"answer": words.get(label, label)} | options


def translation(fields: dict, config: Config) -> dict[str, str] | str:
    languages = dict(zip(("from", "to"), config.languages or (), strict=False))
    texts = plain(fields, config)
    return texts if isinstance(texts, str) else texts | languages


def multiple_choice(fields: dict, config: Config) -> dict[str, str] | str:
    """The right one is given by its number from 0, its letter, its own label, or its text."""
    choices, answer = fields["choices"], fields["answer"]
    labels = choices.get("label", []) if isinstance(choices, dict) else []              # as ARC has them
    choices = choices.get("text") if isinstance(choices, dict) else choices
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS) or \
            not all(isinstance(choice, str) for choice in choices):
        return f"not a list of 2 to {len(LETTERS)} texts to choose from"
    numbers, said = [str(i) for i in range(len(choices))], str(answer).strip()
    kinds = [numbers] if isinstance(answer, int) else [labels, list(LETTERS[:len(choices)]), choices, numbers]
    index = next((names.index(form) for names in kinds for form in (said, said.strip("()")) if form in names), None)
    if index is None:
        return f"answer is none of the choices: {answer!r}"
    lettered = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return plain({"question": fields["question"], "lettered": lettered, "options": listed(choices),
                  "letter": LETTERS[index], "answer": choices[index]}, config)


def reasoning(fields: dict, config: Config) -> dict[str, str] | str:
    """An answer and how one gets there; GSM8K has both in one, parted by ####."""
    texts = plain(fields, config)
    if isinstance(texts, str):
        return texts
    before, mark, after = texts["answer"].rpartition("####")
    rationale = CALCULATOR.sub("", before) if mark else texts["rationale"] * (texts["rationale"] != texts["answer"])
    return texts | {"answer": after.strip(), "rationale": rationale.strip()}


# Our field -> the columns it may be called, the first that a row has.
FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "squad": {"context": ("context", "passage"), "question": ("question",), "answers": ("answers", "answer")},
    "summarisation": {"document": ("document", "article", "dialogue", "text"),
                      "summary": ("summary", "highlights", "abstract")},
    "nli": {"premise": ("premise", "sentence1"), "hypothesis": ("hypothesis", "sentence2"),
            "label": ("label", "gold_label")},
    "paraphrase": {"first": ("first", "sentence1", "question1"), "second": ("second", "sentence2", "question2"),
                   "label": ("label", "is_duplicate")},
    "translation": {"source": ("source",), "target": ("target",)},
    "classification": {"text": ("text", "sentence", "review", "content"), "label": ("label", "category")},
    "multiple_choice": {"question": ("question", "query", "context"), "choices": ("choices", "options", "endings"),
                        "answer": ("answer", "answerKey", "gold", "label")},
    "reasoning": {"question": ("question", "problem"), "answer": ("answer",), "rationale": ("rationale", "answer")},
}

FORMATS: dict[str, Callable[[dict, Config], dict[str, str] | str]] = {
    "squad": squad,
    "summarisation": plain,
    "nli": lambda fields, config: labelled(fields, config, ENTAILMENT),
    "paraphrase": lambda fields, config: labelled(fields, config, {"0": "no", "1": "yes"}),
    "translation": translation,
    "classification": lambda fields, config: labelled(fields, config, {}),
    "multiple_choice": multiple_choice,
    "reasoning": reasoning,
}
