"""Arithmetic with known answers: a task small enough that learning from a reward can be watched from end to end.

Every problem of two operands is there once, and a problem and its mirror image (3+4, 4+3) are on one side of the
split.  Demonstrations may be as people's are: a share of them `careless`, one short, as who counts on from the first
number itself (17+5: 17, 18, 19, 20, 21), and a share that leaves out the form of GSM8K's solutions.  A model that
imitates them learns the mistakes too; a verifier, who knows the answers, teaches it better.
"""

from collections.abc import Callable, Iterator
from operator import add, mul, sub
from pathlib import Path
from typing import Literal

from pydantic import Field

from bloomery.core.config import Settings
from bloomery.core.errors import InputError
from bloomery.core.files import write_jsonl
from bloomery.core.metrics import say
from bloomery.core.records import unit_hash

OPERATIONS: dict[str, Callable[[int, int], int]] = {"+": add, "-": sub, "*": mul}
TASK = "arithmetic"
PAGE = 50                           # demonstrations on a page of plain text


class Config(Settings):
    """Make arithmetic problems, demonstrations, and their held-out parts."""

    operations: list[Literal[*OPERATIONS]] = Field(["+"], min_length=1, description="what is asked of two numbers")
    below: int = Field(50, ge=4, le=1000, description="both numbers are 0 or more and below this")
    heldout: float = Field(0.1, gt=0, lt=1, description="share of problems kept for evaluation")
    demonstrations: int = Field(1, gt=0, description="of each training problem")
    careless: float = Field(0.0, ge=0, lt=1, description="share of demonstrations whose result is one short")
    worked: bool = Field(False, description="answers as GSM8K's: `3+4=<<3+4=7>>7`, then `#### 7` on a line of its own")
    unmarked: float = Field(0.0, ge=0, lt=1, description="worked: share of demonstrations without that last line")
    seed: int = Field(0, description="names the split and the mistakes")


def run(config: Config, out: Path) -> dict:
    """Write problems with answers, demonstrations as conversations and as plain text; counts of each."""
    sides: dict[str, list[tuple[str, int]]] = {"train": [], "heldout": []}
    for key, question, result in problems(config):
        side = "heldout" if unit_hash(key, f"problem {config.seed}") < config.heldout else "train"
        sides[side].append((question, result))
    if not all(sides.values()):
        raise InputError("too few problems to split", why=f"there are {len(sides['train'])} for training and "
                         f"{len(sides['heldout'])} held out", hint="change heldout, or make `below` larger")
    for side, rows in sides.items():
        rows.sort(key=lambda row: unit_hash(row[0], f"order {config.seed}"))
        suffix = "" if side == "train" else "_heldout"
        write_jsonl(out / f"problems{suffix}.jsonl", [
            {"prompt": question, "answer": str(result), "task": TASK, "id": question} for question, result in rows])
    shown = [(f"{question} {number}", question, demonstration(question, result, number, config))
             for number in range(config.demonstrations) for question, result in sides["train"]]
    shown.sort(key=lambda row: unit_hash(row[0], f"order {config.seed}"))
    right = [(question, question, answered(question, result, config)) for question, result in sides["heldout"]]
    for suffix, rows in (("", shown), ("_heldout", right)):
        write_jsonl(out / f"instructions{suffix}.jsonl", [
            {"prompt": question, "completion": answer, "task": TASK, "id": name} for name, question, answer in rows])
    pages = (shown[at:at + PAGE] for at in range(0, len(shown), PAGE))
    write_jsonl(out / "documents.jsonl", [
        {"id": page[0][0], "text": "\n".join(f"{question}\n{answer}" for _, question, answer in page)}
        for page in pages])
    found = {"problems/train": len(sides["train"]), "problems/heldout": len(right), "demonstrations": len(shown)}
    say(f"  arithmetic: {', '.join(f'{name} {count}' for name, count in found.items())}")
    return found


def problems(config: Config) -> Iterator[tuple[str, str, int]]:
    """Each problem: what its side of the split is drawn by, the question, and the result."""
    for sign in config.operations:
        for a in range(config.below):
            for b in range(config.below):
                low, high = sorted((a, b)) if sign != "-" else (a, b)
                yield f"{low}{sign}{high}", f"{a}{sign}{b}=", OPERATIONS[sign](a, b)


def demonstration(question: str, result: int, number: int, config: Config) -> str:
    """How somebody answered who may have been careless."""
    name = f"{question} {number} {config.seed}"
    short = unit_hash(name, "careless") < config.careless
    marked = unit_hash(name, "marked") >= config.unmarked
    return answered(question, result - short, config, marked=marked)


def answered(question: str, result: int, config: Config, *, marked: bool = True) -> str:
    if not config.worked:
        return str(result)
    return f"{question}<<{question}{result}>>{result}" + (f"\n#### {result}" if marked else "")
