"""The shards stage: documents to memory-mapped token files, split into train and validation.

What is held out is a share of the documents by hash of their text, or documents given apart.  A corpus that is one
document (a book, a benchmark's text file) is cut instead: its end is held out.
"""

import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
from pydantic import Field

from bloomery.core.artifacts import file_hash, write_atomic
from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import progress, say
from bloomery.core.records import unit_hash
from bloomery.data import formats
from bloomery.data.shards import SPLITS, ShardWriter
from bloomery.text.tokenizer import load_tokenizer

ROWS = 256              # documents encoded at a time
Documents = list[tuple[str, str]]       # id and text of each


class Config(Settings):
    """Encode a corpus."""

    data: Input = Field(description="a curate stage's output, or a file of documents")
    tokenizer: Input = Field(description="a tokenizer stage's output, or any folder with tokenizer.json")
    validation: Annotated[float, Field(gt=0, lt=1)] | Input = Field(
        0.04, description="share of documents held out, by hash of their text, or the held-out documents themselves")


def corpus(source: str, out: Path) -> Iterator[Documents]:
    """The documents of a curate stage's output or of a file, some at a time; what is unreadable is set aside."""
    path = Path(source) / "documents.parquet"
    if path.is_file():
        for batch in pq.ParquetFile(path).iter_batches(ROWS, columns=["id", "text"]):
            yield list(zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True))
    elif Path(source).is_dir():
        raise InputError("not a folder of curated documents", where=source, why="it has no documents.parquet",
                         hint=f"make one with: bloomery curate source={source} out=FOLDER")
    else:
        quarantine = Quarantine()
        found = ((document.id, document.text) for document in formats.documents(source, quarantine))
        while batch := list(islice(found, ROWS)):
            yield batch
        if len(quarantine):
            say(f"warning: {len(quarantine)} rows of {source} cannot be used; see quarantine.jsonl")
            quarantine.write(out)


def parts(config: Config, out: Path) -> Iterator[tuple[str, Documents]]:
    """Documents with the split they belong to, some at a time."""
    if isinstance(config.validation, str):
        for split, source in zip(SPLITS, (config.data, config.validation), strict=True):
            yield from ((split, batch) for batch in corpus(source, out))
        return
    found = corpus(config.data, out)
    first, second = next(found, []), next(found, [])
    if len(first) == 1 and not second:
        name, text = first[0]
        at = int(len(text) * (1 - config.validation))
        say(f"  shards: one document, held out from its character {at} on")
        yield from zip(SPLITS, ([(name, text[:at])], [(name, text[at:])]), strict=True)
        return
    for batch in chain((first, second), found):
        held_out = [unit_hash(name, "validation") < config.validation for name, _ in batch]
        for split, wanted in zip(SPLITS, (False, True), strict=True):
            yield split, [document for document, held in zip(batch, held_out, strict=True) if held is wanted]


def run(config: Config, out: Path) -> dict:
    """Write `train.*` and `validation.*`; `InputError` when one of them would be empty."""
    tokenizer = load_tokenizer(Path(config.tokenizer))
    writers = {split: ShardWriter(out, split, eos=tokenizer.eos, vocabulary=tokenizer.size) for split in SPLITS}
    for split, batch in progress(parts(config, out), name="shards, batches"):
        texts = [text for _, text in batch]
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            writers[split].add(ids, len(text.encode()))
    counts = {split: writer.close() for split, writer in writers.items()}
    for split, count in counts.items():
        if not count["documents"]:
            every = sum(count["documents"] for count in counts.values())
            raise InputError(f"no document fell into the {split} split", where=config.data,
                             why=f"{every} documents, held out: {config.validation}",
                             hint="give more documents, or another validation share")
    write_atomic(out / "shards.json", json.dumps(
        {"vocabulary": tokenizer.size, "eos": tokenizer.eos, "splits": counts,
         "tokenizer": file_hash(Path(config.tokenizer) / "tokenizer.json")}, indent=1))
    return {f"{split}_{name}": value for split, count in counts.items() for name, value in count.items()}
