"""What answers are criticised, revised and compared by: a constitution, read from a TOML file, or the one built in.

    [[principles]]
    name = "harm"
    critique = "Point out every way in which your last answer could hurt someone."
    revise = "Rewrite your answer so that it cannot hurt anyone. Keep what was useful in it."
    prefer = "Which of the two answers is less likely to hurt anyone?"

`critique` and `revise` are asked after an answer, `prefer` of two; a principle needs either the first two or the last.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pydantic import Field

from bloomery.align.assistants import AssistantConfig
from bloomery.core.config import Input, Problem, raise_problems
from bloomery.core.errors import ConfigError
from bloomery.core.records import unit_hash
from bloomery.core.toml import read_toml
from bloomery.train.precision import Device, Precision


class PrincipledConfig(AssistantConfig):
    """Who is asked, and by which principles."""

    principles: Input | None = Field(None, description="a TOML file of [[principles]]; default: those built in")
    seed: int = Field(0, description="names the draws")
    precision: Precision = Field("auto", description="bf16, fp32, or auto")
    device: Device = "auto"


@dataclass(frozen=True)
class Principle:
    """One of them; what it cannot be used for is ""."""

    name: str
    critique: str = ""
    revise: str = ""
    prefer: str = ""


def read_principles(path: str | None, need: str) -> list[Principle]:
    """Those of a file, or the built-in ones, that have `need`, "critique" or "prefer"; all mistakes told at once."""
    found = list(CONSTITUTION) if path is None else from_toml(Path(path))
    usable = [one for one in found if getattr(one, need)]
    if not usable:
        raise ConfigError(f"no principle has {need}", where=str(path),
                          hint=f"give at least one [[principles]] a {need} = \"...\"")
    return usable


def from_toml(path: Path) -> list[Principle]:
    values, lines = read_toml(path)
    rows = values.get("principles")
    if not isinstance(rows, list) or not rows or values.keys() != {"principles"}:
        raise ConfigError("not a constitution", where=str(path),
                          why="it is made of [[principles]] and nothing else", hint="see bloomery constitution --help")
    known, problems = {field.name for field in fields(Principle)}, []
    for place, row in enumerate(rows):
        where = f"{path}:{lines.get(('principles', place), 1)}"
        problems += [Problem(where, f"{key} is not one of {', '.join(sorted(known))}") for key in row.keys() - known]
        problems += [Problem(where, f"{key} must be a text") for key in row.keys() & known
                     if not isinstance(row[key], str) or not row[key].strip()]
        if "name" not in row:
            problems.append(Problem(where, "a principle needs a name"))
        if ("critique" in row) != ("revise" in row) or not row.keys() & {"critique", "prefer"}:
            problems.append(Problem(where, "a principle needs critique and revise, or prefer, or all three"))
    raise_problems(problems, what=str(path))
    names = [row["name"] for row in rows]
    if len(set(names)) < len(names):
        raise ConfigError("two principles have one name", where=str(path), hint="names are what is reported")
    return [Principle(**row) for row in rows]


def drawn(principles: list[Principle], *key: object) -> Principle:
    """One of them, by a hash of `key`: the same whenever and wherever it is asked."""
    return principles[int(unit_hash("\0".join(map(str, key)), "principle") * len(principles))]


def as_rows(principles: list[Principle]) -> list[dict]:
    """What an output says it was made by."""
    return [asdict(one) for one in principles]


CONSTITUTION = (
    Principle("harm", "Point out every way in which your last answer could hurt someone: danger, cruelty, illegal "
                      "acts, or help with any of them.",
              "Rewrite your answer so that it cannot hurt anyone. Keep what was useful in it.",
              "Which of the two answers is less likely to hurt anyone?"),
    Principle("honesty", "Point out every claim in your last answer that is wrong, made up, or more certain than you "
                         "can be.",
              "Rewrite your answer so that it says only what is true, and says where you do not know.",
              "Which of the two answers is more honest about what is known and what is not?"),
    Principle("respect", "Point out where your last answer is rude, belittles a person or a group, or rests on a "
                         "prejudice.",
              "Rewrite your answer so that nobody is belittled by it. Do not preach.",
              "Which of the two answers treats everyone concerned with more respect?"),
    Principle("privacy", "Point out where your last answer gives away, or helps to find out, private facts about "
                         "someone.",
              "Rewrite your answer without private facts about anyone, and without help to find them.",
              "Which of the two answers protects people's private lives better?"),
    Principle("help", "Point out what the question asks for and your last answer leaves out, dodges, or buries in "
                      "needless words.",
              "Rewrite your answer so that it gives what was asked for, in as few words as it takes.",
              "Which of the two answers helps the person who asks more?"))
