"""What is in a folder or a file: documents and why others were dropped, what is trained on, pairs, models."""

import json
from collections import Counter
from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console, Group
from rich.text import Text

from bloomery.console import number, table, terminal
from bloomery.core.artifacts import file_names, is_done, open_artifact
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, rows
from bloomery.core.records import Conversation, Message, Preference
from bloomery.data import formats
from bloomery.model.store import load_config
from bloomery.recipe import REFERENCE
from bloomery.text.chat import Renderer
from bloomery.text.tokenizer import load_tokenizer

EXCERPT = 280                   # characters of a document
PER_REASON = 2


def show(path: Path, *, tokenizer: Path | None, count: int) -> None:
    """Print what `path` holds; `tokenizer` is a folder with one, needed to colour what of a conversation is trained."""
    path = Path(path)
    if not path.exists():
        raise InputError("there is nothing to show", where=str(path), why="no such file or folder")
    out, known = terminal(), False
    if path.is_dir() and is_done(path):
        known = True
        show_stage(path, out)
    for file, draw in ((path / "model.safetensors", show_model), (path / "dropped.parquet", show_curation)):
        if file.is_file():
            known = True
            draw(file, out, count)
    source = data_of(path)
    if source:
        show_rows(source, out, count, tokenizer or (path if (path / "tokenizer.json").is_file() else None))
    elif not known:
        raise InputError("nothing here that can be shown", where=str(path),
                         why="no stage's output, no model, no data file",
                         hint="give a stage's folder, a model folder, or a file of documents, conversations or pairs")


def data_of(path: Path) -> Path | None:
    """The file of rows that a path stands for: itself, one in it, or what a training stage read."""
    if path.is_file():
        return path
    own = next((path / name for name in ("instructions.jsonl", "preferences.jsonl") if (path / name).is_file()), None)
    if own or not is_done(path):
        return own
    record = open_artifact(path).record
    given = record["config"].get("data")
    reference = REFERENCE.fullmatch(given) if isinstance(given, str) else None
    if reference and reference[1] in record["parents"]:
        read = path.parent / f"{reference[1]}-{record['parents'][reference[1]]}{reference[2] or ''}"
        return data_of(read) if read.exists() else None
    return Path(given) if isinstance(given, str) and Path(given).is_file() else None


def show_stage(path: Path, out: Console) -> None:
    record = open_artifact(path).record
    out.print(Text(f"{record['stage']}: bloomery {record['verb']}, {record['seconds']} s, hash {record['hash']}, "
                   f"reads {', '.join(record['parents']) or 'no other stage'}", style="bold"))
    plain = [[key, number(value)] for key, value in record["metrics"].items() if isinstance(value, int | float | str)]
    out.print(table("metric", "value", rows=plain))
    out.print(Text(f"files  {', '.join(file_names(path))}", style="dim", overflow="fold"))


def show_model(path: Path, out: Console, _: int) -> None:
    config = load_config(path.parent)
    found = [["parameters", number(config.parameters())]]
    found += [[name, number(value)] for name, value in config.model_dump().items()]
    out.print(table("model", "value", rows=found))


def show_curation(path: Path, out: Console, count: int) -> None:
    """What was dropped by reason, with the first texts of each, and the first that were kept."""
    dropped, seen = Counter(), {}
    for batch in pq.ParquetFile(path).iter_batches():
        for row in batch.to_pylist():
            dropped[row["reason"]] += 1
            if dropped[row["reason"]] <= PER_REASON:
                seen.setdefault(row["reason"], []).append(row)
    for reason, total in dropped.most_common():
        out.print(Text(f"\ndropped {total}: {reason}", style="bold red"))
        for row in seen[reason]:
            out.print(document(row))
    kept = pq.ParquetFile(path.with_name("documents.parquet"))
    out.print(Text(f"\nkept {kept.metadata.num_rows}", style="bold green"))
    for row in next(kept.iter_batches(batch_size=count)).to_pylist() if kept.metadata.num_rows else []:
        out.print(document(row))


def document(row: dict) -> Group:
    text = " ".join(row["text"].split())
    return Group(Text(row["source"], style="cyan"),
                 Text(text if len(text) <= EXCERPT else text[:EXCERPT] + f" ... ({len(row['text'])} characters)"))


def show_rows(path: Path, out: Console, count: int, tokenizer: Path | None) -> None:
    """The first rows of a data file, each as the record its columns make."""
    quarantine, shown, renderer = Quarantine(), 0, Renderer(load_tokenizer(tokenizer)) if tokenizer else None
    for row, where in rows(path, quarantine):
        if shown == count:
            break
        parse = formats.preference if "chosen" in row else formats.document if "text" in row else formats.conversation
        record = parse(row, where)
        if isinstance(record, str):
            out.print(Text(f"{where}: not usable: {record}", style="red"))
        elif isinstance(record, Preference):
            out.print(pair(record))
        elif isinstance(record, Conversation):
            out.print(trained(record, renderer) if renderer else dialogue(record.messages))
        else:
            out.print(document({"source": record.source, "text": record.text}))
        out.print()
        shown += 1
    for entry in quarantine.entries[:count]:
        out.print(Text(f"{entry['where']}: set aside: {entry['why']}", style="red"))
    if not renderer and shown:
        out.print(Text("--tokenizer FOLDER colours the tokens that are trained", style="dim"))


def dialogue(messages: tuple[Message, ...]) -> Text:
    return Text("\n").join(Text.assemble((f"{turn.role}: ", "bold"), turn.content) for turn in messages)


def pair(preference: Preference) -> Text:
    return Text.assemble(dialogue(preference.prompt), ("\nchosen:   ", "bold green"), preference.chosen,
                         ("\nrejected: ", "bold red"), preference.rejected)


def trained(conversation: Conversation, renderer: Renderer) -> Group:
    """A conversation as token runs: trained ones green, in [[ ]] so that they are told apart without colour too."""
    rendered = renderer.conversation(conversation.messages)
    drawn = Text()
    for is_trained, run in groupby(zip(rendered.ids, rendered.trained, strict=True), key=lambda pair: pair[1]):
        text = renderer.tokenizer.decode([token for token, _ in run], keep_control=True)
        drawn.append(f"[[{text}]]" if is_trained else text, style="green" if is_trained else "dim")
    head = f"{conversation.id}: {len(rendered.ids)} tokens, {sum(rendered.trained)} trained"
    return Group(Text(head, style="bold"), drawn)


def as_json(path: Path) -> str:
    """A finished stage's record."""
    return json.dumps(open_artifact(path).record, indent=1, ensure_ascii=False)
