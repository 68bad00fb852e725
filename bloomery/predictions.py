"""`bloomery predict`: a file of rows in, the same rows in the same order with `prediction` out.

The model's head says what is predicted: a label with its chance, several labels, a number, tags, which answer, or a
span of a text.  Rows need no labels.  Killed and run again, it goes on where it was.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from bloomery import __version__
from bloomery.core.artifacts import tree_hash
from bloomery.core.errors import InputError, Preempted
from bloomery.core.metrics import progress
from bloomery.finetune.extract import open_reader
from bloomery.finetune.labelled import advice, labelled
from bloomery.finetune.predictions import open_judge
from bloomery.finetune.questions import one
from bloomery.model.headed import CLASSES, shape_in
from bloomery.model.store import is_model
from bloomery.row_files import begun, continued, model_hash, read_all
from bloomery.train.hooks import stop_signal

PREDICTION = "prediction"
GROUP = 64                      # rows judged together: a fixed cut, so that a stop changes no batch and so no digit


@dataclass(frozen=True)
class Asked:
    """A row of the file, and what the model is given of it."""

    row: dict
    given: Any


def predict_file(model: Path, rows: Path, out: Path, *, columns: dict[str, str] | None = None) -> dict:
    """Judge every row of a file into `out`, or go on where an earlier run with the same options stopped.

    Raises `InputError` with the bad rows of the file before any work, `ConfigError` when `out` was begun otherwise.
    """
    shape = shape_in(model) if is_model(model) else None
    if shape is None or shape.task == "pairs":
        raise InputError("this model has no head for a task", where=str(model),
                         why=f"config.json names none of ...{', ...'.join(list(CLASSES.values())[:4])}",
                         hint="make one with: bloomery classify, or bloomery qa")
    about = {"version": __version__, "model": model_hash(model), "rows": tree_hash(rows),
             "options": {"columns": columns or {}}}

    def work(part: BinaryIO) -> dict:
        asked = read_all(rows, parser(shape.task, columns or {}), what="row")
        ask: Callable[[Sequence[Any]], list[dict]] = (open_reader if shape.task == "span" else open_judge)(model)
        begin = begun(out, part, about, [each.row for each in asked], PREDICTION, group=GROUP)
        with stop_signal.caught():
            write_all(part, ask, asked, begin)
        return {"rows": len(asked), "done_before": begin}

    return continued(out, about, work)


def parser(task: str, columns: dict[str, str]) -> Callable[[dict, str], Asked | str]:
    """What is given of a row; a string says why nothing can be."""
    def parse(row: dict, where: str) -> Asked | str:
        renamed = {columns.get(name, name): value for name, value in row.items()}
        if PREDICTION in row:
            return f"it already has a column {PREDICTION}"
        found = one(renamed, where, answers=False) if task == "span" else \
            labelled(renamed, row, where, labels=False)
        if isinstance(found, str):
            return found if task == "span" else f"{found}; {advice(list(row))}"
        wanted = {"token": "tagging", "choice": "choice"}.get(task, "text")
        if task != "span" and found.kind != wanted:
            return f"it is a row of {found.kind}, the model is for {wanted}"
        return Asked(row, found[0] if task == "span" else found)

    return parse


def write_all(part: BinaryIO, ask: Callable[[Sequence[Any]], list[dict]], asked: Sequence[Asked], begin: int) -> None:
    """Append the rows from `begin` on, a group at a time."""
    waiting = iter(asked[begin:])
    groups = iter(lambda: list(islice(waiting, GROUP)), [])
    for number, group in enumerate(progress(groups, name="predict, groups of rows",
                                            total=-(-(len(asked) - begin) // GROUP))):
        if stop_signal.reason:
            raise Preempted("stopped", why=stop_signal.reason,
                            hint=f"{begin + number * GROUP} of {len(asked)} rows are kept; run the same command again "
                                 "to go on")
        for each, said in zip(group, ask([each.given for each in group]), strict=True):
            part.write((json.dumps(each.row | said, ensure_ascii=False) + "\n").encode())
        part.flush()
    os.fsync(part.fileno())
