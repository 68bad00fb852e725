"""A recipe, read and checked: TOML whose tables are stages, with every problem of all of them found at once.

`run` names a table's verb (else the table's own name does), `"@name"` is another stage's output folder, and a path may
begin with a variable of the environment, `"$DATA/books"`.  Checked are the names, the verbs, every option, that what is
read exists, and that no stages wait for each other.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from bloomery.core import config as options
from bloomery.core.artifacts import is_done
from bloomery.core.config import Problem, Settings, dotted, nearest
from bloomery.core.toml import Keys, overlaid, read_toml, replace, walk
from bloomery.data import stdlib
from bloomery.model.hub import ID, is_hub_id
from bloomery.stages import STAGES, Forecast, Run, Stage, load

REFERENCE = re.compile(r"@([A-Za-z0-9][\w-]*)(/.*)?", re.ASCII)         # "@base", or a file in it: "@base/answers.json"
VARIABLE = re.compile(r"\$([A-Z][A-Z0-9_]*)(/.*)?")                       # "$BLOOMERY_DATA/wikitext-2"
NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)
BUILT_IN = {stdlib.SOURCE: stdlib.fingerprint}


@dataclass(frozen=True)
class Task:
    """A stage as the recipe asks for it. `config` still says "@name" for what it reads of other stages."""

    name: str
    verb: str
    values: dict[str, Any]
    config: Settings
    run: Run
    forecast: Forecast | None

    @property
    def needs(self) -> tuple[str, ...]:
        return references(self.values)


@dataclass(frozen=True)
class Recipe:
    """A recipe without problems; `tasks` stand in the order they run."""

    name: str
    path: Path
    tasks: dict[str, Task]


def references(value: Any) -> tuple[str, ...]:
    """The names of all stages that a nested value refers to, each once, in order."""
    found: list[str] = []
    replace(value, lambda text: found.append(match[1]) or text if (match := REFERENCE.fullmatch(text)) else text)
    return tuple(dict.fromkeys(found))


def resolve(value: Any, outputs: dict[str, str]) -> Any:
    """The same nested value with "@name" replaced by what `outputs` has for that stage."""
    def change(text: str) -> str:
        match = REFERENCE.fullmatch(text)
        return outputs[match[1]] + (match[2] or "") if match and match[1] in outputs else text
    return replace(value, change)


def from_environment(text: str) -> str:
    """A path that begins with a variable, with its value in place; one that is not set stays as it is written."""
    match = VARIABLE.fullmatch(text)
    return os.environ[match[1]] + (match[2] or "") if match and match[1] in os.environ else text


def read_recipe(path: Path, overrides: tuple[str, ...] = (), stages: dict[str, Stage] = STAGES) -> Recipe:
    """Read and check a whole recipe, with `--set` overrides; `ConfigError` lists everything that is wrong with it."""
    path = Path(path)
    tables, lines = read_toml(path)
    given: dict[Keys, str] = {}                             # keys set on the command line -> how they were written

    def locate(keys: Keys) -> str:
        for depth in range(len(keys), 0, -1):
            place = keys[:depth]
            if place in lines and place not in given:
                return f"{path}:{lines[place]}:"
            set_here = next((text for where, text in given.items() if where[:depth] == place), None)
            if set_here:
                return f"--set {set_here}:"
        return f"{path}:1:"

    name = tables.pop("name", path.stem)
    problems = list(shape_problems(name, tables, locate))
    tables = {key: value for key, value in tables.items() if isinstance(value, dict)}
    verbs = {stage: values.pop("run", stage) for stage, values in tables.items()}
    loaded = {verb: load(verb, stages) for verb in verbs.values() if isinstance(verb, str) and verb in stages}
    models = {stage: loaded[verb][0] for stage, verb in verbs.items() if isinstance(verb, str) and verb in loaded}
    problems += override(tables, overrides, models, given)
    tasks: dict[str, Task] = {}
    for stage, values in tables.items():
        def here(keys: Keys, stage: str = stage) -> str:
            return locate((stage, *keys))

        problems += reference_problems(stage, values, list(tables), here)
        if stage not in models:
            problems.append(Problem(here(("run",)), unknown_verb(stage, verbs[stage], list(stages))))
            continue
        values = replace(overlaid(stages[verbs[stage]].preset, values), from_environment)
        config, found = options.check(models[stage], values, locate=here, prefix=f"{stage}.")
        problems += [*found, *input_problems(models[stage], values, here, f"{stage}.", list(tables))]
        if config is not None:
            tasks[stage] = Task(stage, verbs[stage], values, config, *loaded[verbs[stage]][1:])
    order, cycle = in_order({stage: [need for need in references(values) if need in tables]
                             for stage, values in tables.items()})
    if cycle:
        problems.append(Problem(locate((cycle[0],)), f"{' -> '.join(cycle)}: these stages wait for each other"))
    options.raise_problems(sorted(problems, key=line_of), what=str(path),
                           hint="bloomery VERB --help lists every option of a verb")
    return Recipe(name, path, {stage: tasks[stage] for stage in order})


def shape_problems(name: Any, tables: dict[str, Any], locate: Callable[[Keys], str]) -> Iterator[Problem]:
    """What is wrong with the outline: the recipe's name, stray keys, names that cannot be folders, no stage at all."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        shown = json.dumps(name, default=str)
        yield Problem(locate(("name",)), f"name: must be letters, digits, - and _, is {shown}")
    for key, value in tables.items():
        if not isinstance(value, dict):
            yield Problem(locate((key,)), f"{key}: not a stage; a recipe holds `name` and one table a stage")
        elif not NAME.fullmatch(key):
            yield Problem(locate((key,)), f"{key}: a stage's name is made of letters, digits, - and _")
    if not tables:
        yield Problem(locate(()), 'the recipe has no stage; write a table such as [docs] with run = "curate"')


def override(tables: dict[str, dict], overrides: tuple[str, ...], models: dict[str, type[Settings]],
             given: dict[Keys, str]) -> Iterator[Problem]:
    """Put every `--set stage.key=value` into its table, and note in `given` how it was written."""
    for text in overrides:
        (stage, *keys), value = options.read_assignment(text)
        if stage not in tables:
            near = nearest(stage, list(tables))
            meant = f"did you mean {near}?" if near else f"the recipe has {', '.join(tables)}"
            yield Problem(f"--set {text}:", f"there is no stage {stage}; {meant}")
        elif not keys:
            yield Problem(f"--set {text}:", f"name an option of {stage}: {stage}.key=value")
        else:
            options.assign(tables[stage], tuple(keys), value, models.get(stage))
            given[stage, *keys] = text


def line_of(problem: Problem) -> int:
    """The line a problem stands on; those of the command line come last."""
    line = re.search(r":(\d+):$", problem.where)
    return int(line[1]) if line else 10**9


def unknown_verb(stage: str, verb: Any, verbs: list[str]) -> str:
    near = nearest(str(verb), verbs)
    known = f"did you mean {near}?" if near else f"one of {', '.join(verbs)}"
    if verb == stage:
        return f"{stage}: no verb of this name, and no run = \"...\" that gives one; {known}"
    return f"{stage}.run: unknown verb {json.dumps(verb, default=str)}; {known}"


def reference_problems(stage: str, values: dict, known: list[str], locate: Callable[[Keys], str]) -> Iterator[Problem]:
    """Every "@name" that names no stage."""
    for keys in walk(values):
        value = values
        for key in keys:
            value = value[key]
        match = REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if match and match[1] not in known:
            near = nearest(match[1], known)
            yield Problem(locate(keys), f"{stage}.{dotted(keys)}: there is no stage {match[1]}; " +
                          (f"did you mean @{near}?" if near else f"the recipe has {', '.join(known)}"))


def input_problems(model: type[Settings], values: dict, locate: Callable[[Keys], str], prefix: str,
                   known: list[str]) -> Iterator[Problem]:
    """Every file, folder or built-in source that a stage reads and that is not there."""
    for keys, value in options.inputs(model, values):
        path, message = Path(value), ""
        if REFERENCE.fullmatch(value) or value in BUILT_IN:
            continue
        if variable := VARIABLE.fullmatch(value):
            message = f"{variable[1]} is not set; {variable[1]}=FOLDER bloomery run ... says where the data is"
        elif is_hub_id(value):
            message = "" if ID.fullmatch(value) else f"{value} is not of the form hf:org/name[@revision]"
        elif not path.exists():
            near = nearest(path.name, sorted(p.name for p in path.parent.iterdir())) if path.parent.is_dir() else None
            message = f"there is no file or folder {value}"
            if value in known:
                message += f"; did you mean the stage @{value}?"
            elif built_in := nearest(value, list(BUILT_IN)):
                message += f"; did you mean {built_in}?"
            elif near:
                message += f"; did you mean {path.with_name(near)}?"
        elif (path / ".begun").exists() and not is_done(path):
            message = f"{value} is unfinished; run the command that makes it again: it goes on where it stopped"
        if message:
            yield Problem(locate(keys), f"{prefix}{dotted(keys)}: {message}")


def in_order(needs: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """The stages in an order they can run in, near the one they are written in; or the cycle that prevents it."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return [], error.args[1]
    order: list[str] = []
    while len(order) < len(needs):
        order.append(next(name for name in needs if name not in order and all(need in order for need in needs[name])))
    return order, []
