"""From annotation guidelines to instructions: each example of a guideline document becomes a question and its answer.

A guideline is Markdown.  A heading opens a rule; its paragraphs say it; its examples are blocks of

    Input: The plot is thin but I laughed all the way.
    Output: positive

(also Text, Question or Example, and Label or Answer; a list mark or bold before them does not matter; further lines
belong to what they stand under).  An example is asked with the rule in the prompt, so that a model learns to follow the
rules it is given, and without, so that it learns these rules; or one of the two.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from bloomery.core.errors import InputError
from bloomery.core.records import Conversation, Message, unit_hash

HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*\s*$")
FIELD = re.compile(r"\s*(?:[-*+>]\s+|\d+[.)]\s+)?\*{0,2}(input|text|question|example|output|label|answer)\s*\*{0,2}\s*:"
                   r"\s*\*{0,2}\s*(.*)$", re.IGNORECASE)
ANSWERS = {"output", "label", "answer"}
EXAMPLES = re.compile(r"(worked )?examples?:?$", re.IGNORECASE)                         # a heading that opens no rule

WITH = (
    "{rule}\n\nFollow these guidelines.\n\n{example}",
    "Guideline:\n{rule}\n\nApply it to this:\n{example}",
    "{example}\n\nAnswer as the guideline says.\n{rule}",
    "You annotate by this rule.\n---\n{rule}\n---\n{example}",
)
WITHOUT = (
    "{title}: {example}",
    "{example}\n\nAnnotate this for: {title}.",
    "Task: {title}\n{example}",
    "Apply the guidelines on {title} to this:\n{example}",
)

Prompts = Literal["both", "with", "without"]


@dataclass
class Rule:
    """A section of a guideline: what it says and the examples that show it."""

    title: str
    line: int
    text: str = ""
    examples: list[tuple[str, str]] = field(default_factory=list)


def rules(text: str, *, where: str) -> list[Rule]:
    """The sections of a guideline. `InputError` for an example without its answer, or without any example at all."""
    found, parts, name = [Rule("", 1)], {}, ""
    for number, line in enumerate([*text.splitlines(), "# end"], 1):
        heading, start = HEADING.match(line), FIELD.match(line)
        kind = "" if heading or not start else "answer" if start[1].lower() in ANSWERS else "question"
        if heading or kind == "question":
            keep(found[-1], parts, f"{where}:{number}")
            parts, name = {}, ""
        if heading and not EXAMPLES.match(heading[1]):
            found.append(Rule(heading[1], number))
        elif heading:
            continue
        elif kind:
            name, parts[kind] = kind, start[2]
        elif name == "answer" and not line.strip():
            name = ""                                       # a blank line ends an answer, not a question
        elif name:
            parts[name] += f"\n{line}"
        else:
            found[-1].text += f"{line}\n"
    if not any(rule.examples for rule in found):
        raise InputError("a guideline without examples", where=where,
                         hint="write examples as lines `Input: ...` and `Output: ...` under their rule")
    return [Rule(rule.title, rule.line, rule.text.strip(), rule.examples) for rule in found[:-1]]


def keep(rule: Rule, parts: dict[str, str], where: str) -> None:
    """Add an example to its rule once it is whole."""
    example = {name: value.strip() for name, value in parts.items()}
    if any(example.values()) and not (example.get("question") and example.get("answer")):
        missing = "Input" if not example.get("question") else "Output"
        raise InputError(f"an example without {missing}", where=where, why=f"before this line: {str(example)[:120]}",
                         hint="each example is a line `Input: ...` and a line `Output: ...`")
    if any(example.values()):
        rule.examples.append((example["question"], example["answer"]))


def pairs(text: str, *, where: str, prompts: Prompts = "both", task: str = "guideline",
          seed: int = 0) -> Iterator[tuple[Conversation, str]]:
    """Every example with its rule in the prompt and with the rule's title alone, and the wording of each."""
    found = rules(text, where=where)
    title = next((rule.title for rule in found if rule.title), task)
    for rule in found:
        for number, (question, answer) in enumerate(rule.examples):
            for kind, wordings in (("with", WITH), ("without", WITHOUT)):
                if prompts in ("both", kind) and (rule.text or kind == "without"):
                    key = f"{where}:{rule.line}/{number}/{kind}"
                    choice = int(unit_hash(key, f"guideline {seed}") * len(wordings))
                    said = f"{rule.title}\n{rule.text}".strip()
                    prompt = wordings[choice].format(rule=said, example=question, title=rule.title or title)
                    turns = (Message("user", prompt), Message("assistant", answer))
                    yield Conversation(turns, task, key, source=f"{where}:{rule.line}"), f"guideline/{kind}/{choice}"
