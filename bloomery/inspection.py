"""Checking a recipe to the last row of its data, before anything runs: what `bloomery check` does.

Reading a recipe finds every wrong option.  Here each stage is also asked for its forecast, where sizes that do not fit
together show, and every data file that comes from outside is read from end to end.
"""

from pathlib import Path

from bloomery.core.artifacts import is_done
from bloomery.core.config import dotted, reads
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, rows
from bloomery.core.metrics import progress
from bloomery.model.hub import located
from bloomery.pipeline import plan
from bloomery.recipe import BUILT_IN, REFERENCE, read_recipe
from bloomery.stages import STAGES, Stage

EXAMPLES = 5


def inspect(path: Path, overrides: tuple[str, ...] = (), stages: dict[str, Stage] = STAGES) -> dict:
    """Every input with its rows, or the first error: `ConfigError` for the recipe, `InputError` for useless data."""
    recipe = read_recipe(path, overrides, stages)
    planned: dict[str, dict] = {}
    for step in plan(recipe, Path("runs")):
        planned[str(step.folder)] = step.task.forecast(step.config, planned) if step.task.forecast else {}
    found = [{"option": f"{task.name}.{dotted(keys)}", "input": value, **examine(value)}
             for task in recipe.tasks.values() for keys, value in reads(task.config) if not REFERENCE.fullmatch(value)]
    return {"recipe": str(path), "stages": len(recipe.tasks), "inputs": found}


def examine(value: str) -> dict:
    """What an input is; a data file or folder is read whole, its bad rows counted. `InputError` when none is good."""
    if value in BUILT_IN:
        return {"kind": "built in"}
    path = Path(located(value))
    if is_done(path):
        return {"kind": "finished output"}
    if (path / "config.json").is_file() or (path / "tokenizer.json").is_file():
        return {"kind": "model folder"}
    quarantine = Quarantine(keep=EXAMPLES)
    usable = sum(1 for _ in progress(rows(path, quarantine), name=f"check {value}"))
    if not usable:
        first = quarantine.entries[0] if quarantine.entries else {"where": value, "why": "it is empty"}
        raise InputError("no row can be read", where=first["where"], why=first["why"], hint="mend or replace the file")
    return {"kind": "data", "rows": usable, "unusable": len(quarantine), "examples": quarantine.entries}
