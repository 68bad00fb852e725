"""The tokenizer stage: a vocabulary from a corpus, saved as a Hugging Face tokenizer folder.

Byte-level BPE for models that are to be used; characters or words for yardsticks that are counted in them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.metrics import say
from bloomery.core.records import unit_hash
from bloomery.pretrain.shards import corpus
from bloomery.text.chat import Renderer
from bloomery.text.closed import characters, words
from bloomery.text.tokenizer import SMALLEST, Tokenizer, train_tokenizer

SIZE = 4096             # ids of a BPE vocabulary unless another number is given


class Config(Settings):
    """Train a tokenizer."""

    data: Input = Field(description="a curate stage's output, or a file of documents")
    kind: Literal["bpe", "characters", "words"] = Field("bpe", description="what an id stands for: merged bytes, or "
                                                                           "every character or word of the corpus")
    vocabulary: int | None = Field(None, ge=SMALLEST, description=f"ids in all, 3 control tokens included; default "
                                                                  f"{SIZE} for bpe, else as many as the corpus has")
    template: str = Field("chatml", description="chat template to save beside it")
    context: int = Field(512, gt=0, description="model_max_length written for other tools")
    sample_mb: float = Field(20.0, gt=0, description="bpe learns from about this many MB of documents, chosen by hash")


    @property
    def size(self) -> int | None:
        """How many ids are asked for; None when the corpus decides."""
        return self.vocabulary or (SIZE if self.kind == "bpe" else None)


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """The size, as far as it is known before the corpus is read."""
    return {"vocabulary": config.size} if config.size else {}


def run(config: Config, out: Path) -> dict:
    """Learn pieces on a hashed sample of documents; metrics say how many bytes a token then holds."""
    documents = [document for batch in corpus(config.data, out) for document in batch]
    total = sum(len(text.encode()) for _, text in documents)
    share = min(1.0, config.sample_mb * 1e6 / max(total, 1)) if config.kind == "bpe" else 1.0
    chosen = [text for id_, text in documents if unit_hash(id_, "tokenizer") < share] or [text for _, text in documents]
    say(f"  tokenizer: {config.size or f'all {config.kind}, as'} ids from {len(chosen)} documents")
    tokenizer = KINDS[config.kind](chosen, vocabulary=config.size)
    if tokenizer.size < (config.size or 0):
        raise InputError("the vocabulary is larger than the data supports", where=config.data,
                         why=f"{config.size} ids were asked for, the corpus yields {tokenizer.size}",
                         hint=f"set vocabulary = {tokenizer.size}, or give more text")
    tokenizer.save(out, context=config.context, chat_template=Renderer(tokenizer, config.template).template.jinja())
    probe = chosen[:: max(1, len(chosen) // 200)]
    encoded = tokenizer.encode_batch(probe)
    used = {i for row in encoded for i in row}
    whole = config.kind == "bpe" or config.vocabulary is None       # else unknowns are what was asked for
    if whole and any(tokenizer.decode(row) != text for row, text in zip(encoded, probe, strict=True)):
        raise InputError("the tokenizer does not return the text it was given", where=config.data,
                         why="a document holds characters that are not valid Unicode")
    return {"vocabulary": tokenizer.size, "documents": len(chosen),
            "bytes_per_token": sum(len(t.encode()) for t in probe) / sum(map(len, encoded)),
            "share_of_ids_used_in_probe": len(used) / tokenizer.size}


KINDS: dict[str, Callable[..., Tokenizer]] = {"bpe": train_tokenizer, "characters": characters, "words": words}
