"""The tokenizer stage: a vocabulary from a corpus, saved as a Hugging Face tokenizer folder.

Byte-level BPE or Unigram for models that write, WordPiece for encoders; characters or words for yardsticks that are
counted in them.  Texts are streamed: what is held is the words they have in common, not the texts.
"""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import Field

from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.metrics import say
from bloomery.core.records import unit_hash
from bloomery.pretrain.fertility import fertility, groups
from bloomery.pretrain.shards import corpus
from bloomery.text.bpe import bpe
from bloomery.text.chat import Renderer
from bloomery.text.closed import characters, words
from bloomery.text.tokenizer import SMALLEST, Tokenizer, train_tokenizer
from bloomery.text.unigram import unigram
from bloomery.text.wordpiece import wordpiece

SIZE = 4096             # ids of a BPE vocabulary unless another number is given
FERTILITY = "fertility.json"
PIECES = ("bpe", "unigram", "wordpiece")
PROBES = 200            # documents that are encoded and read back


class Config(Settings):
    """Train a tokenizer."""

    data: Input | dict[str, Input] = Field(description="a curate stage's output or a file of documents, or a table of "
                                                       "several: domain = folder")
    kind: Literal["bpe", "unigram", "wordpiece", "characters", "words"] = Field(
        "bpe", description="what an id stands for: merged bytes, bytes by likelihood, a piece of a word (for an "
                           "encoder), or every character or word of the corpus")
    trainer: Literal["library", "counts"] = Field("library", description="bpe: by the tokenizers library, or by 64-bit "
                                                                         "counts of our own, for any amount of text")
    vocabulary: int | None = Field(None, ge=SMALLEST, description=f"ids in all, control tokens included; default "
                                                                  f"{SIZE} for pieces, else as many as the corpus has")
    lowercase: bool = Field(True, description="wordpiece: lower case, without accents")
    template: str = Field("chatml", description="chat template to save beside it")
    context: int = Field(512, gt=0, description="model_max_length written for other tools")
    sample_mb: float | None = Field(20.0, gt=0, description="pieces are learned from about this many MB of documents, "
                                                            "chosen by hash; none: from all")
    reserved: tuple[str, ...] = Field((), description="further control tokens, which no text ever becomes")
    multiple: int = Field(1, gt=0, description="control tokens of no meaning are added until the size divides by this")

    @property
    def folders(self) -> dict[str, str]:
        """The folder of each domain; a lone one is the domain "" of no name."""
        return self.data if isinstance(self.data, dict) else {"": self.data}

    @property
    def size(self) -> int | None:
        """How many ids are asked for; None when the corpus decides."""
        return self.vocabulary or (SIZE if self.kind in PIECES else None)


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """The size, as far as it is known before the corpus is read."""
    return {"vocabulary": -(-config.size // config.multiple) * config.multiple} if config.size else {}


def run(config: Config, out: Path) -> dict:
    """Learn pieces on a hashed sample of documents; metrics and `fertility.json` say how many bytes a token holds."""
    share = sampled(config, out)
    count = sum(1 for _ in chosen(config, out, share))
    share, count = (share, count) if count else (1.0, sum(1 for _ in chosen(config, out, 1.0)))
    say(f"  tokenizer: {config.size or f'all {config.kind}, as'} ids from {count} documents")
    tokenizer = KINDS[way(config)](chosen(config, out, share), vocabulary=config.size, **options(config))
    if tokenizer.size < (config.size or 0):
        raise InputError("the vocabulary is larger than the data supports", where=str(config.data),
                         why=f"{config.size} ids were asked for, the corpus yields {tokenizer.size}",
                         hint=f"set vocabulary = {tokenizer.size}, or give more text")
    padding = -tokenizer.size % config.multiple
    if padding:
        tokenizer = filled(tokenizer, padding)
    template = "" if config.kind == "wordpiece" else Renderer(tokenizer, config.template).template.jinja()
    tokenizer.save(out, context=config.context, chat_template=template)
    probe = list(islice(chosen(config, out, share), 0, None, max(1, count // PROBES)))
    encoded = tokenizer.encode_batch(probe)
    used = {i for row in encoded for i in row}
    whole = config.kind in ("bpe", "unigram") or config.kind != "wordpiece" and config.vocabulary is None
    if whole and any(tokenizer.decode(row) != text for row, text in zip(encoded, probe, strict=True)):
        raise InputError("the tokenizer does not return the text it was given", where=str(config.data),
                         why="a document holds characters that are not valid Unicode")
    found = {name: fertility(tokenizer, texts) for name, texts in groups(config.folders, out).items()}
    write_atomic(out / FERTILITY, json.dumps(found, indent=1))
    for name, own in found.items():
        say(f"  tokenizer: {name}: {own['bytes_per_token']:.2f} bytes a token, {own['tokens_per_word']:.2f} tokens a "
            f"word, {own['words_of_one_token']:.0%} of words are one")
    return {"vocabulary": tokenizer.size, "documents": count,
            "bytes_per_token": sum(len(t.encode()) for t in probe) / sum(map(len, encoded)),
            "share_of_ids_used_in_probe": len(used) / tokenizer.size}


def sampled(config: Config, out: Path) -> float:
    """The share of documents that is learned from."""
    if config.kind not in PIECES or config.sample_mb is None:
        return 1.0
    total = sum(len(text.encode()) for source in config.folders.values() for batch in corpus(source, out)
                for _, text in batch)
    return min(1.0, config.sample_mb * 1e6 / max(total, 1))


def chosen(config: Config, out: Path, share: float) -> Iterator[str]:
    """The texts that are learned from, read anew each time."""
    for source in config.folders.values():
        for batch in corpus(source, out):
            yield from (text for id_, text in batch if share >= 1 or unit_hash(id_, "tokenizer") < share)


def way(config: Config) -> str:
    return "counts" if config.kind == "bpe" and config.trainer == "counts" else config.kind


def options(config: Config) -> dict:
    """What one kind takes and others do not."""
    if config.kind == "wordpiece":
        return {"lowercase": config.lowercase}
    return {"reserved": config.reserved} if config.kind in PIECES else {}


def filled(tokenizer: Tokenizer, padding: int) -> Tokenizer:
    """The same with `padding` control tokens more."""
    tokenizer.backend.add_special_tokens([f"<|reserved_{i}|>" for i in range(padding)])
    return Tokenizer(tokenizer.backend, tokenizer.settings)


KINDS: dict[str, Callable[..., Tokenizer]] = {
    "bpe": train_tokenizer, "counts": bpe, "unigram": unigram, "wordpiece": wordpiece, "characters": characters,
    "words": words}
