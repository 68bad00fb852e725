"""The tokenizer stage: byte-level BPE from a curated corpus, saved as a Hugging Face tokenizer folder."""

from pathlib import Path

import pyarrow.parquet as pq
from pydantic import Field

from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.metrics import say
from bloomery.core.records import unit_hash
from bloomery.pretrain.shards import corpus
from bloomery.text.chat import Renderer
from bloomery.text.tokenizer import train_tokenizer


class Config(Settings):
    """Train a tokenizer."""

    data: Input = Field(description="a curate stage's output, or any folder with documents.parquet")
    vocabulary: int = Field(4096, ge=260, description="ids in all, 256 bytes and 3 control tokens included")
    template: str = Field("chatml", description="chat template to save beside it")
    context: int = Field(512, gt=0, description="model_max_length written for other tools")
    sample_mb: float = Field(20.0, gt=0, description="train on about this many MB of documents, chosen by hash")


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    return {"vocabulary": config.vocabulary}


def run(config: Config, out: Path) -> dict:
    """Learn merges on a hashed sample of documents; metrics say how many bytes a token then holds."""
    table = pq.read_table(corpus(config.data), columns=["id", "text"])
    ids, texts = table["id"].to_pylist(), table["text"].to_pylist()
    total = sum(len(t.encode()) for t in texts)
    share = min(1.0, config.sample_mb * 1e6 / max(total, 1))
    chosen = [t for i, t in zip(ids, texts, strict=True) if unit_hash(i, "tokenizer") < share]
    say(f"  tokenizer: {config.vocabulary} ids from {len(chosen)} documents")
    tokenizer = train_tokenizer(chosen, vocabulary=config.vocabulary)
    if tokenizer.size < config.vocabulary:
        raise InputError("the vocabulary is larger than the data supports", where=config.data,
                         why=f"{config.vocabulary} ids were asked for, the corpus yields {tokenizer.size}",
                         hint=f"set vocabulary = {tokenizer.size}, or give more text")
    tokenizer.save(out, context=config.context, chat_template=Renderer(tokenizer, config.template).template.jinja())
    probe = chosen[:: max(1, len(chosen) // 200)]
    encoded = tokenizer.encode_batch(probe)
    used = {i for row in encoded for i in row}
    if any(tokenizer.decode(row) != text for row, text in zip(encoded, probe, strict=True)):
        raise InputError("the tokenizer does not return the text it was given", where=config.data,
                         why="a document holds characters that are not valid Unicode")
    return {"vocabulary": tokenizer.size, "documents": len(chosen),
            "bytes_per_token": sum(len(t.encode()) for t in probe) / sum(map(len, encoded)),
            "share_of_ids_used_in_probe": len(used) / tokenizer.size}
