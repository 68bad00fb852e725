"""A recipe becomes folders: stages run in order, each only when its result is missing.

A stage's hash covers verb, version, configuration, the hashes of the stages it reads and the content of the files it
reads, so a finished folder is used again exactly when nothing that made it has changed:

    runs/<recipe>/<stage>-<hash>/        what the stage wrote, config.resolved.toml, stage.json, DONE
    runs/<recipe>/summary.json           seconds, memory and metrics of all stages
"""

import copy
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bloomery import __version__
from bloomery.core import artifacts
from bloomery.core import config as options
from bloomery.core.artifacts import Artifact, fingerprint, is_done, open_artifact, write_atomic
from bloomery.core.config import Problem, Settings, dotted, essential, fixed, nearest, reads
from bloomery.core.errors import BloomeryError, InputError
from bloomery.core.metrics import say
from bloomery.core.toml import Keys, dump_toml, replace
from bloomery.failures import failures_explained, stop_at_once_on_signals
from bloomery.model import hub
from bloomery.recipe import BUILT_IN, REFERENCE, Recipe, Task, input_problems, read_recipe, references, resolve
from bloomery.stages import STAGES, Run, Stage, load, load_module

RANK = int(os.environ.get("RANK", 0))       # which process of a `torchrun` this is
POLL = 0.1                                  # seconds between looks at what rank 0 has finished


@dataclass(frozen=True)
class Step:
    """A task with the hash that names its folder, and the hashes of the stages it reads."""

    task: Task
    hash: str
    folder: Path
    parents: dict[str, str]
    config: Settings                    # with folders in place of "@name"
    origin: dict                        # what the hash is of

    @property
    def is_done(self) -> bool:
        return is_done(self.folder)


# --- hashes -------------------------------------------------------------------------------------------------------

def plan(recipe: Recipe, out: Path) -> list[Step]:
    """Every stage with its hash and folder, in the order they run."""
    steps: dict[str, Step] = {}
    for name, task in recipe.tasks.items():
        parents = {need: steps[need].hash for need in task.needs}
        made_from = origin(task.config, parents)
        key = stage_hash(task.verb, made_from)
        folders = {need: str(steps[need].folder) for need in task.needs}
        config = type(task.config).model_validate_json(json.dumps(resolve(task.values, folders)))
        steps[name] = Step(task, key, Path(out) / recipe.name / f"{name}-{key}", parents, config, made_from)
    return list(steps.values())


def stage_hash(verb: str, made_from: dict) -> str:
    """What names a stage's output: verb, version, configuration, and the content of everything it reads."""
    return fingerprint({"verb": verb, "version": __version__, **made_from})


def origin(config: Settings, parents: dict[str, str]) -> dict[str, dict]:
    """What a stage's output is a function of: its options without those that cannot matter, and what it reads."""
    inputs = {dotted(keys): source_hash(value) for keys, value in reads(config) if not REFERENCE.fullmatch(value)}
    return {"config": resolve(essential(config), {name: f"@{key}" for name, key in parents.items()}), "inputs": inputs}


def source_hash(value: str) -> str:
    """The content hash of something read from outside the recipe; a finished output is known by its own."""
    if value in BUILT_IN:
        return BUILT_IN[value]()
    if hub.is_hub_id(value):
        return hub.commit(value)
    return open_artifact(Path(value)).hash if is_done(Path(value)) else artifacts.tree_hash(Path(value))


# --- running ------------------------------------------------------------------------------------------------------

def run(path: Path, *, only: str | None = None, overrides: tuple[str, ...] = (), out: Path = Path("runs"),
        stages: dict[str, Stage] = STAGES) -> tuple[list[Step], dict]:
    """Run a recipe, or what one stage of it needs: the steps taken and the summary, which is also on disk."""
    start = time.monotonic()
    recipe = read_recipe(path, overrides, stages)
    steps = wanted(plan(recipe, out), only)
    root = Path(out) / recipe.name
    if RANK > 0:
        for step in steps:
            make_step(step)
        return steps, summarize(steps)
    claim(root, recipe)
    with artifacts.lock(root):
        missing = [step for step in steps if not step.is_done]
        say(f"{recipe.name}: {len(steps)} stages, {len(steps) - len(missing)} already done, {len(missing)} to run")
        for position, step in enumerate(steps, 1):
            if step.is_done:
                say(f"[{position}/{len(steps)}] {step.task.name}: done before  {step.folder}")
                continue
            say(f"[{position}/{len(steps)}] {step.task.name}: {step.task.verb}  {step.folder}")
            made = make_step(step)
            say(f"[{position}/{len(steps)}] {step.task.name}: finished in {made.record['seconds']:.1f} s")
            write_summary(root, steps, time.monotonic() - start)
        if not missing:
            write_summary(root, steps, time.monotonic() - start)
        publish_report(root, steps)
    return steps, json.loads((root / "summary.json").read_text(encoding="utf-8"))


def make_step(step: Step) -> Artifact:
    return make(step.folder, stage=step.task.name, verb=step.task.verb, key=step.hash, config=step.config,
                stated=step.task.config, parents=step.parents, origin=step.origin, run_stage=step.task.run)


def wanted(steps: list[Step], only: str | None) -> list[Step]:
    """All steps, or one stage and what it needs."""
    if only is None:
        return steps
    by_name = {step.task.name: step for step in steps}
    if only not in by_name:
        near = nearest(only, list(by_name))
        meant = f"did you mean {near}?" if near else f"the recipe has {', '.join(by_name)}"
        options.raise_problems([Problem(f"--only {only}:", f"there is no stage {only}; {meant}")], what="the command")
    keep, queue = set(), [only]
    while queue:
        name = queue.pop()
        keep.add(name)
        queue += by_name[name].task.needs
    return [step for step in steps if step.task.name in keep]


def claim(root: Path, recipe: Recipe) -> None:
    """Make a recipe's folder ours, or refuse it when another recipe file, still there, made it."""
    root.mkdir(parents=True, exist_ok=True)
    mark, ours = root / "recipe.json", os.path.relpath(recipe.path, root)       # relative: both may move together
    if not mark.exists() and any(not name.name.startswith(".") for name in root.iterdir()):
        raise InputError("the run folder holds files that are not ours", where=str(root),
                         hint="choose another --out, or another `name` in the recipe")
    owner = json.loads(mark.read_text(encoding="utf-8"))["recipe"] if mark.exists() else ours
    if owner != ours and (root / owner).exists():
        raise InputError("the run folder belongs to another recipe", where=str(root),
                         why=f"{os.path.normpath(root / owner)} made it, not {recipe.path}",
                         hint="give one of the two another `name`, or choose another --out")
    if owner != ours or not mark.exists():
        write_atomic(mark, json.dumps({"schema": 1, "recipe": ours}) + "\n")


def make(folder: Path, *, stage: str, verb: str, key: str, config: Settings, stated: Settings, parents: dict[str, str],
         origin: dict, run_stage: Run) -> Artifact:
    """Make one stage's folder. `stated` is the configuration as written, with "@name"; `config` has folders there."""
    def build(folder: Path) -> dict:
        header = f"# {stage}: bloomery {verb}, version {__version__}\n"
        header += "".join(f"# @{name} is {name}-{key}\n" for name, key in parents.items())
        write_atomic(folder / "config.resolved.toml",
                     header + dump_toml({stage: {"run": verb, **stated.model_dump(mode="json")}}))
        return run_stage(fetched(config), folder)

    stop_at_once_on_signals()
    with failures_explained(folder):
        if RANK > 0:
            return follow(folder, fetched(config), run_stage)
        return artifacts.produce(folder, stage=stage, verb=verb, key=key, config=stated.model_dump(mode="json"),
                                 parents=parents, build=build, origin=origin,
                                 fixed=fixed(type(stated)), adopt=getattr(stated, "accept_change", False))


def follow(folder: Path, config: Settings, run_stage: Run) -> Artifact:
    """What the other processes of `torchrun` do while rank 0 makes a folder: share its training, or wait.

    What a rank writes beside rank 0 is thrown away.  If rank 0 fails, a launcher ends the others; where there is none,
    those that have shared its training notice it.
    """
    team = None
    if isinstance(getattr(config, "parallel", None), Settings) and not is_done(folder):
        with TemporaryDirectory() as scratch:
            run_stage(config, Path(scratch))
        team = load_module("bloomery.train.session").joined()
    while not is_done(folder):
        if team and team.abandoned and not is_done(folder):         # it may have finished between two looks
            raise BloomeryError("rank 0 has ended before it was done", where=str(folder),
                                hint="see its messages; then run again: it goes on from the last checkpoint")
        time.sleep(POLL)
    return open_artifact(folder)


def fetched(config: Settings) -> Settings:
    """The same with a local folder in place of every "hf:org/name" that is read."""
    folders = {value: hub.located(value) for _, value in reads(config) if hub.is_hub_id(value)}
    values = replace(config.model_dump(mode="json"), lambda text: folders.get(text, text))
    return type(config).model_validate_json(json.dumps(values)) if folders else config


# --- the summary --------------------------------------------------------------------------------------------------

def summarize(steps: list[Step]) -> dict:
    """What all finished steps measured. "base.val_bpb", measured by an evaluation, also stands at the stage `base`."""
    made = {step.task.name: open_artifact(step.folder) for step in steps if step.is_done}
    stages = {name: {"seconds": artifact.record["seconds"], "hash": artifact.hash, "folder": artifact.folder.name,
                     "metrics": dict(artifact.metrics)} for name, artifact in made.items()}
    flat = {f"{name}.{metric}": value for name, artifact in made.items() for metric, value in artifact.metrics.items()}
    for artifact in made.values():
        for metric, value in artifact.metrics.items():
            stage, _, rest = metric.partition(".")
            if rest and stage in stages:
                stages[stage]["metrics"][rest] = flat[metric] = value
    return {"schema": 1, "seconds": round(sum(stage["seconds"] for stage in stages.values()), 3),
            "peak_memory_gb": max((a.record["peak_memory_gb"] for a in made.values()), default=0.0),
            "stages": stages, "metrics": flat}


def write_summary(root: Path, steps: list[Step], wall_seconds: float) -> None:
    """Refresh `summary.json`; one that already says the same is left alone, so that a rerun changes nothing."""
    path, summary = root / "summary.json", summarize(steps)
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if {**before, "wall_seconds": 0} != {**json.loads(json.dumps(summary)), "wall_seconds": 0}:
        summary["wall_seconds"] = round(wall_seconds, 3)
        write_atomic(path, json.dumps(summary, indent=1, ensure_ascii=False))


def publish_report(root: Path, steps: list[Step]) -> None:
    """Copy the newest stage's `report.html` to the recipe's folder, where people look for it."""
    for step in steps:
        page = step.folder / "report.html"
        if step.is_done and page.is_file():
            content, place = page.read_bytes(), root / "report.html"
            if not place.is_file() or place.read_bytes() != content:
                write_atomic(place, content)


# --- one verb by itself -------------------------------------------------------------------------------------------

def run_verb(verb: str, assignments: list[str], stages: dict[str, Stage] = STAGES) -> Artifact:
    """`bloomery VERB key=value ... out=FOLDER`: one stage, checked like a recipe, into the folder named."""
    model, run_stage, _ = load(verb, stages)
    values, given = copy.deepcopy(stages[verb].preset), {}
    out = ""
    for text in assignments:
        keys, value = options.read_assignment(text)
        if keys == ("out",):
            out = value
        else:
            options.assign(values, keys, value, model)
            given[keys] = text

    def locate(keys: Keys) -> str:
        return next((f"{given[keys[:depth]]}:" for depth in range(len(keys), 0, -1) if keys[:depth] in given),
                    f"bloomery {verb}:")

    config, problems = options.check(model, values, locate=locate)
    if not out:
        problems.append(Problem(locate(()), "out: missing; it must be given (the folder to write: out=FOLDER)"))
    problems += [Problem(locate(()), f"@{name}: only a recipe has stages to refer to") for name in references(values)]
    problems += input_problems(model, values, locate, "", [])
    options.raise_problems(problems, what="the command", hint=f"bloomery {verb} --help lists every option")
    made_from = origin(config, {})
    return make(Path(out), stage=verb, verb=verb, key=stage_hash(verb, made_from), config=config, stated=config,
                parents={}, origin=made_from, run_stage=run_stage)
