"""The shards stage: documents to memory-mapped token files, split into train and validation by document hash."""

import json
from pathlib import Path

import pyarrow.parquet as pq
from pydantic import Field

from bloomery.core.artifacts import file_hash, write_atomic
from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.metrics import progress
from bloomery.core.records import unit_hash
from bloomery.data.shards import SPLITS, ShardWriter
from bloomery.text.tokenizer import load_tokenizer

ROWS = 256              # documents encoded at a time


class Config(Settings):
    """Encode a corpus."""

    data: Input = Field(description="a curate stage's output")
    tokenizer: Input = Field(description="a tokenizer stage's output, or any folder with tokenizer.json")
    validation: float = Field(0.04, gt=0, lt=1, description="share of documents held out, by hash of their text")


def corpus(folder: str) -> Path:
    """The documents of a curate stage's output."""
    path = Path(folder) / "documents.parquet"
    if not path.is_file():
        raise InputError("not a folder of curated documents", where=folder, why="it has no documents.parquet",
                         hint=f"make one with: bloomery curate source={folder} out=FOLDER")
    return path


def run(config: Config, out: Path) -> dict:
    """Write `train.*` and `validation.*`; `InputError` when one of them would be empty."""
    tokenizer = load_tokenizer(Path(config.tokenizer))
    source = pq.ParquetFile(corpus(config.data))
    writers = {split: ShardWriter(out, split, eos=tokenizer.eos, vocabulary=tokenizer.size) for split in SPLITS}
    batches = source.iter_batches(ROWS, columns=["id", "text"])
    for batch in progress(batches, name="shards, batches", total=-(-source.metadata.num_rows // ROWS)):
        texts = batch["text"].to_pylist()
        for name, text, ids in zip(batch["id"].to_pylist(), texts, tokenizer.encode_batch(texts), strict=True):
            held_out = unit_hash(name, "validation") < config.validation
            writers["validation" if held_out else "train"].add(ids, len(text.encode()))
    counts = {split: writer.close() for split, writer in writers.items()}
    for split, count in counts.items():
        if not count["documents"]:
            raise InputError(f"no document fell into the {split} split", where=config.data,
                             why=f"{source.metadata.num_rows} documents, {config.validation:g} of them for validation",
                             hint="give more documents, or another validation share")
    write_atomic(out / "shards.json", json.dumps(
        {"vocabulary": tokenizer.size, "eos": tokenizer.eos, "splits": counts,
         "tokenizer": file_hash(Path(config.tokenizer) / "tokenizer.json")}, indent=1))
    return {f"{split}_{name}": value for split, count in counts.items() for name, value in count.items()}
