"""What is in a folder or a file: a whole run, documents and why others were dropped, what is trained on, a model."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bloomery.anatomy import describe, network, show_model, show_network, weight_files
from bloomery.console import number, print_outcome, table, terminal
from bloomery.core.artifacts import file_names, is_done, open_artifact
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, rows
from bloomery.core.records import Conversation, Message, Preference, Problem, Ranking, Rating
from bloomery.data import formats
from bloomery.documents import document, show_curation, show_shards
from bloomery.lessons import context_of, dialogue, pair_text, show_batch, show_pairs
from bloomery.losses.preference import UNPAIRED
from bloomery.model.hub import located
from bloomery.model.seq2seq_files import is_seq2seq
from bloomery.recipe import resolve
from bloomery.stages import STAGES
from bloomery.text.chat import Renderer, load_renderer


def show(path: Path, *, tokenizer: Path | None, count: int, reason: str = "", template: str = "auto") -> None:
    """Print what `path` holds.

    `tokenizer` is a folder with one, needed to draw what of a data file is trained with `template`; `reason` keeps
    only the documents that curation dropped for it.
    """
    path, out = Path(path), terminal()
    if not path.exists():
        raise InputError("there is nothing to show", where=str(path), why="no such file or folder")
    if reason and not (path / "dropped.parquet").is_file():
        raise InputError("no documents were dropped here", where=str(path), why="--reason is for a curate output")
    if path.is_file():
        show_rows(path, out, count, tokenizer, template)
    elif (path / "summary.json").is_file():
        print_outcome(json.loads((path / "summary.json").read_text(encoding="utf-8")), path)
    elif not show_folder(path, out, count, tokenizer, reason, template):
        raise InputError("nothing here that can be shown", where=str(path),
                         why="no run, no stage's output, no model, no data file",
                         hint="give a run's, a stage's or a model's folder, or a file of documents, "
                              "conversations or pairs")


def show_folder(path: Path, out: Console, count: int, tokenizer: Path | None, reason: str, template: str) -> bool:
    """Everything known of a folder: its stage, model, documents, token shards and rows; whether anything was."""
    record = open_artifact(path).record if is_done(path) else None
    files = [path / name for name in ("instructions.jsonl", "preferences.jsonl") if (path / name).is_file()]
    if record:
        show_stage(record, path, out)
    if is_model := bool(weight_files(path)):
        (show_network if is_seq2seq(path) else show_model)(path, out)
    if is_curation := (path / "dropped.parquet").is_file():
        show_curation(path, out, count, reason)
    if are_shards := (path / "shards.json").is_file():
        show_shards(path, out, count, tokenizer or made_with(record, path))
    for file in files:
        show_rows(file, out, count, tokenizer, template)
    if record:
        show_lesson(record, path, out, count)
    return bool(record or is_model or is_curation or are_shards or files)


def show_stage(record: dict, path: Path, out: Console) -> None:
    out.print(Text(f"{record['stage']}: bloomery {record['verb']}, {record['seconds']} s, hash {record['hash']}, "
                   f"reads {', '.join(record['parents']) or 'no other stage'}", style="bold"))
    told = (path / "dropped.parquet").is_file()                 # the reasons have a table of their own
    plain = [[key, number(value)] for key, value in record["metrics"].items()
             if isinstance(value, int | float | str) and not (told and key.startswith("dropped/"))]
    out.print(table("metric", "value", rows=plain))
    places = Counter(name.partition("/")[0] for name in file_names(path))
    files = [name if (path / name).is_file() else f"{name}/ ({many})" for name, many in places.items()]
    out.print(Text(f"files  {', '.join(files)}", style="dim", overflow="fold"))


def made_with(record: dict | None, path: Path) -> Path | None:
    """The tokenizer that a finished stage read, where it still lies."""
    name = resolve(record["config"], parents(record, path)).get("tokenizer") if record else None
    return Path(name) if name and (Path(name) / "tokenizer.json").is_file() else None


def parents(record: dict, path: Path) -> dict[str, str]:
    """The folders of the stages that a stage read, by name."""
    return {name: str(path.parent / f"{name}-{key}") for name, key in record["parents"].items()}


# --- what a stage was trained on ----------------------------------------------------------------------------------

def show_lesson(record: dict, path: Path, out: Console, count: int) -> None:
    """What a finished training stage read, as it saw it; where that is gone, that it is."""
    draw = LESSONS.get(STAGES[record["verb"]].module if record["verb"] in STAGES else "")
    if not draw:
        return
    config = resolve(record["config"], parents(record, path))
    if not config.get("data"):                                  # a mixture, of several places
        return
    config |= {name: located(config[name]) for name in ("data", "model")}
    missing = [config[name] for name in ("data", "model") if not Path(config[name]).exists()]
    if missing:
        out.print(Text(f"what was trained on cannot be shown: {', '.join(missing)} is gone", style="yellow"))
    else:
        draw(config, load_renderer(Path(config["model"]), config["template"],
                                   train=config.get("train_on", "assistant")), out, count)


def lesson_of_conversations(config: dict, renderer: Renderer, out: Console, count: int) -> None:
    show_batch(config["data"], renderer, out, context=context_of(Path(config["model"])), count=count,
               examples=config["examples"], micro_tokens=config["micro_tokens"], seed=config["seed"],
               columns=config.get("columns", {}), truncation=config.get("truncation", "drop"))


def lesson_of_pairs(config: dict, renderer: Renderer, out: Console, count: int) -> None:
    if config.get("loss") in UNPAIRED:                          # rated answers, or pairs that are read as such
        show_rows(formats.inside(config["data"], "ratings.jsonl"), out, count, None)
        return
    show_pairs(config["data"], renderer, out, count=count, columns=config.get("columns", {}))


LESSONS = {"bloomery.instruct.run": lesson_of_conversations, "bloomery.align.preference": lesson_of_pairs}


# --- data files ---------------------------------------------------------------------------------------------------

def show_rows(path: Path, out: Console, count: int, tokenizer: Path | None, template: str = "auto") -> None:
    """The first rows of a data file, as training sees them where a tokenizer is given."""
    quarantine = Quarantine()
    first = [(formats.record(row, where), where) for row, where in islice(rows(path, quarantine), count)]
    kinds = {type(record) for record, _ in first}
    if tokenizer and kinds & {Conversation, Preference}:
        renderer = load_renderer(tokenizer, template)
        if Conversation in kinds:
            show_batch(str(path), renderer, out, context=context_of(tokenizer), count=count)
        else:
            show_pairs(str(path), renderer, out, count=count)
        return
    out.print(Text(f"\n{path}", style="bold cyan"))
    for record, where in first:
        if isinstance(record, str):
            out.print(Text(f"{where}: not usable: {record}", style="red"))
        elif isinstance(record, Preference):
            out.print(pair_text(record, out))
        elif isinstance(record, Conversation):
            out.print(dialogue(record.messages))
        elif isinstance(record, Rating):
            out.print(dialogue((*record.prompt, Message("assistant", record.completion))))
            out.print(Text("wanted" if record.desirable else "not wanted", style="bold"))
        elif isinstance(record, Ranking):
            out.print(dialogue(record.prompt))
            for rank, answer in sorted(zip(record.ranks, record.answers, strict=True)):
                out.print(Text(f"{rank}  {answer}"))
        elif isinstance(record, Problem):
            out.print(dialogue(record.prompt))
            out.print(Text(f"answer  {record.answer or 'none'}", style="bold"))
        else:
            out.print(document({"source": record.source, "text": record.text}, [], out))
        out.print()
    for entry in quarantine.entries[:count]:
        out.print(Text(f"{entry['where']}: set aside: {entry['why']}", style="red"))
    if kinds & {Conversation, Preference}:
        out.print(Text("--tokenizer FOLDER shows the tokens, and which of them are trained", style="dim"))


def as_json(path: Path) -> dict:
    """A run's summary, or a finished stage's record with what its model is, or what a model folder is."""
    path = Path(path)
    if (path / "summary.json").is_file():
        return json.loads((path / "summary.json").read_text(encoding="utf-8"))
    model = {"model": (network if is_seq2seq(path) else describe)(path)} if weight_files(path) else {}
    return model if model and not is_done(path) else open_artifact(path).record | model
