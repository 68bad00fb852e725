"""Answers that can be checked: 1 where an answer is right, 0 where it is not, and never an opinion.

A verifier takes what was said and what is known, both texts.  What it looks at is the last thing said that can be meant
(`marked`).  What is known is the answer of a prompt's row, or for some verifiers other columns of it, `KNOWN`.

    exact contains number math choice       an answer            (`arithmetic.py`)
    regex tags json schema                  a form
    code                                    unit tests           (`sandbox.py`)
    ifeval                                  instructions         (`constraints.py`)

A check that raises or takes too long scores 0 and is counted: it never ends a run.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from bloomery.align.arithmetic import equal_expressions, equal_numbers, last_number
from bloomery.align.constraints import followed, instructions_of, language_library
from bloomery.align.limits import within
from bloomery.align.sandbox import known_tests, passes
from bloomery.core.errors import BloomeryError, InputError
from bloomery.core.records import Problem

BOXED = re.compile(r"\\boxed\s*\{|\\fbox\s*\{")
HASHES = re.compile(r"####[ \t]*([^\n]+)")
TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
SAID = re.compile(r"(?im)(?:\b(?:final\s+)?answer\s*(?:is\s*:?|[:=])|^\s*A:)\s*(.+?)(?=\.?\s*$|\.\s)")
FENCE = re.compile(r"```[a-zA-Z0-9]*[ \t]*\n(.*?)```", re.DOTALL)
LETTERS = (re.compile(r"\(([A-Z])\)"), re.compile(r"(?m)^\s*([A-Z])(?:[).:]|\s*$)"),
           re.compile(r"\b([A-Z])[).:](?!\w)"), re.compile(r"(?<![\w'])([B-HJ-Z])(?![\w'])"))
TAGS = "think,answer"               # of the verifier `tags`, where nobody said others


# --- what was meant ---------------------------------------------------------------------------------------------------

def marked(text: str) -> str:
    """What is marked as the answer, the last where there are several; without a mark the whole text.

    A mark is \\boxed{...}, ####, or <answer>...</answer>.
    """
    marks = [*boxed(text), *((found.start(), found[1].strip()) for kind in (HASHES, TAGGED)
                             for found in kind.finditer(text))]
    return max(marks)[1] if marks else text


def boxed(text: str) -> list[tuple[int, str]]:
    """Where each \\boxed{...} begins and what stands in it, braces within braces and all."""
    found = []
    for begin in BOXED.finditer(text):
        depth = 1
        for at in range(begin.end(), len(text)):
            depth += (text[at] == "{") - (text[at] == "}")
            if depth == 0:
                found.append((begin.start(), text[begin.end():at].strip()))
                break
    return found


def meant(text: str) -> str:
    """What is marked, else what stands behind the last "the answer is" or "A:", else all of it."""
    found = marked(text)
    if found is text and (told := SAID.findall(text)):
        return told[-1].strip()
    return found


def words(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".")


# --- answers ----------------------------------------------------------------------------------------------------------

def exact(said: str, known: str) -> float:
    """The same words, whatever their case, the space between them, and a full stop at the end."""
    return float(words(marked(said)) == words(marked(known)))


def contains(said: str, known: str) -> float:
    """The known answer's words stand in what was said, as whole words."""
    return float(bool(re.search(rf"(?<!\w){re.escape(words(known))}(?!\w)", words(said))))


def number(said: str, known: str) -> float:
    """The last number of the answer is the last number that is known: 1,250 and 1250.0 are one, 3/4 and 75% too."""
    theirs = last_number(meant(known))
    if theirs is None:
        raise ValueError(f"the known answer has no number: {known[:80]!r}")
    ours = last_number(meant(said)) or last_number(said)
    return float(ours is not None and equal_numbers(ours, theirs))


def symbolic(said: str, known: str) -> float:
    """Equal as expressions, 2(x + 1) and 2x + 2; what cannot be read as one is compared by its letters."""
    ours, theirs = meant(said), meant(known)
    found = equal_expressions(ours, theirs)
    if found is None:
        found = letters(ours) == letters(theirs)
    return float(found)


def letters(text: str) -> str:
    """A LaTeX text without spaces, styles and dollar signs."""
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf|left|right|,|!|;)\s*", "", text)
    return re.sub(r"[\s{}$\\.]", "", text.casefold())


def choice(said: str, known: str) -> float:
    """The letter that was chosen: the one marked, or alone, or in the last "(B)", "B." or bare capital."""
    theirs, ours = chosen(known), chosen(meant(said)) or chosen(said)
    if not theirs:
        raise ValueError(f"the known answer is no letter: {known[:80]!r}")
    return float(ours == theirs)


def chosen(text: str) -> str:
    """The letter a text ends up with, "" for none. A bare A or I may be a word: they count alone or with a sign."""
    text = marked(text).strip()
    if re.fullmatch(r"\(?[A-Za-z][).:]?", text):
        return text.strip("().:").upper()
    for kind in LETTERS:
        if found := kind.findall(text):
            return found[-1]
    return ""


# --- forms ------------------------------------------------------------------------------------------------------------

def regex(said: str, known: str) -> float:
    """The pattern is found in what was said; anchor it with ^ and $ to ask for all of it."""
    return float(bool(re.search(known, said)))


def tags(said: str, known: str = "") -> float:
    """All of it stands in these tags, each once, in order, none empty: <think>...</think> <answer>...</answer>."""
    names = [name.strip() for name in (known or TAGS).split(",")]
    counts = all(said.count(f"<{name}>") == said.count(f"</{name}>") == 1 for name in names)
    pattern = r"\s*".join(rf"<{re.escape(name)}>\s*\S.*?</{re.escape(name)}>" for name in names)
    return float(counts and bool(re.fullmatch(pattern, said.strip(), re.DOTALL)))


def is_json(said: str, known: str = "") -> float:
    """What was said is JSON, alone or in a fence."""
    try:
        read_json(said)
    except ValueError:
        return 0.0
    return 1.0


def read_json(said: str) -> object:
    """The value of a text that is JSON, or of the last fence or <answer> in it."""
    fenced = FENCE.findall(said) or TAGGED.findall(said)
    return json.loads(fenced[-1] if fenced else said, parse_constant=refused)


def refused(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def schema(said: str, known: str) -> float:
    """JSON that a JSON schema allows (draft 2020-12, or the one it names); nothing is fetched."""
    validator, registry = schema_library()
    rules = json.loads(known)
    kind = validator.validator_for(rules, default=validator.Draft202012Validator)
    kind.check_schema(rules)
    try:
        found = read_json(said)
    except ValueError:
        return 0.0
    return float(kind(rules, registry=registry).is_valid(found))


def schema_library() -> tuple:
    """The libraries of `schema`, or what to install."""
    try:
        from jsonschema import validators
        from referencing import Registry
    except ImportError as error:
        raise BloomeryError("JSON schemas need a library that is not here", why=str(error),
                            hint="pip install 'bloomery[rewards]'") from error
    return validators, Registry()


def code(said: str, known: str, *, seconds: float = 10.0, memory: int = 1024) -> float:
    """The unit tests pass: each call in them is answered by the code, in a process of its own (`sandbox.py`)."""
    return float(passes(said, known, seconds=seconds, memory=memory) is None)


def ifeval(said: str, known: str) -> float:
    """The share of IFEval's instructions that were followed; all of them or nothing: `ifeval_strict`."""
    kept = followed(said, known)
    return sum(kept) / len(kept)


def ifeval_strict(said: str, known: str) -> float:
    """Every one of IFEval's instructions was followed."""
    return float(all(followed(said, known)))


Verifier = Callable[[str, str], float]
VERIFIERS: dict[str, Verifier] = {
    "exact": exact, "contains": contains, "number": number, "math": symbolic, "choice": choice, "regex": regex,
    "tags": tags, "json": is_json, "schema": schema, "code": code, "ifeval": ifeval, "ifeval_strict": ifeval_strict}


# --- in a run ---------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Known:
    """What a verifier must know of a prompt's row, and where it stands there."""

    of: Callable[[Problem], str] = lambda problem: problem.answer
    column: str = "`answer`"


KNOWN = {name: Known() for name in VERIFIERS} | {
    "tags": Known(lambda problem: TAGS), "json": Known(lambda problem: "any"),
    "schema": Known(lambda problem: problem.answer or str(problem.columns.get("schema", "")), "`schema`"),
    "code": Known(known_tests, "`test_list`, `test` or `tests`"),
    "ifeval": Known(instructions_of, "`instruction_id_list` beside `kwargs`"),
    "ifeval_strict": Known(instructions_of, "`instruction_id_list` beside `kwargs`")}
LIBRARIES = {"schema": (schema_library,), "ifeval": (language_library,), "ifeval_strict": (language_library,)}
OWN_PROCESS = ("code",)                     # limits itself, and leaves this process free for the next one


@dataclass(frozen=True)
class Outcome:
    """What a check found, and why it found nothing: "" where it did its work."""

    score: float
    failure: str = ""


@dataclass(frozen=True)
class Check:
    """A verifier as a run uses it: with what it knows of each prompt, its limits, and no exceptions."""

    name: str
    verify: Verifier
    known: str | None
    seconds: float

    @property
    def column(self) -> str:
        return KNOWN[self.name].column

    def knows(self, problem: Problem) -> bool:
        return bool(self.known or KNOWN[self.name].of(problem))

    def __call__(self, problem: Problem, text: str) -> Outcome:
        try:
            known = self.known or KNOWN[self.name].of(problem)
            if self.name in OWN_PROCESS:
                return Outcome(self.verify(text, known))
            with within(self.seconds):
                return Outcome(self.verify(text, known))
        except Exception as error:                              # of a model's text anything may come
            return Outcome(0.0, type(error).__name__)


def prepared(name: str, known: str | None = None, *, seconds: float = 10.0, memory: int = 1024) -> Check:
    """A verifier ready for a run. `InputError` for a pattern or a schema that is wrong whatever will be said."""
    for library in LIBRARIES.get(name, ()):
        library()                                               # an error now, where one for each answer would come
    if known and name in ("regex", "schema"):
        try:
            VERIFIERS[name]("null", known)
        except Exception as error:                              # the libraries' own errors, of many kinds
            raise InputError(f"this {name} cannot be used", where=known[:80], why=str(error).split("\n")[0]) from error
    verify = partial(code, seconds=seconds, memory=memory) if name in OWN_PROCESS else VERIFIERS[name]
    return Check(name, verify, known, seconds)


def parallel(check: Check, asked: Sequence[tuple[Problem, str]]) -> list[Outcome]:
    """Every answer through a check, in order; checks with processes of their own run side by side."""
    if check.name not in OWN_PROCESS:
        return [check(*one) for one in asked]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1) as pool:
        return list(pool.map(lambda one: check(*one), asked))
