"""What a decoder is trained on: token shards by domain, in which shares, packed how, and measured on each of them.

What `pretrain` and `extend` share: their options, opening the shards, the stream of batches and the validation.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from bloomery.core.artifacts import file_hash, write_atomic
from bloomery.core.config import Input
from bloomery.core.errors import InputError
from bloomery.core.metrics import say
from bloomery.data.mixture import domain_shares, largest_remainder
from bloomery.data.rows import PACKINGS
from bloomery.data.shards import Shard, open_shard
from bloomery.data.stream import Domain, TokenStream, doubling
from bloomery.data.validation import corpus_bits_per_byte, domain_metrics
from bloomery.generate.preview import preview
from bloomery.model.transformer import Transformer
from bloomery.text.tokenizer import Tokenizer
from bloomery.train.objective import Objective, causal_lm, total_nll
from bloomery.train.samples import Preview
from bloomery.train.session import TrainingConfig

ROWS = 32               # a step, unless rows or batch_tokens say otherwise
MIXTURE = "mixture.json"        # weights of domains, as a file
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class CorpusConfig(TrainingConfig):
    """Options of stages that train on token shards."""

    data: Input | dict[str, Input] = Field(description="a shards stage's output or another tool's .bin files, or a "
                                                       "table of several: domain = folder")
    mixture: Input | dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="domain = weight, or what `doremi` made; without it domains are drawn by size")
    temperature: float = Field(1.0, gt=0, description="of shares by size: 1 in proportion, larger nearer to equal")
    cap: float | None = Field(None, gt=0, description="tokens a domain counts for at most in shares by size")
    max_epochs: float | None = Field(None, gt=0, description="what a domain may be repeated; what is over goes to the "
                                                             "others. With a very large temperature this is UniMax")
    packing: Literal["concatenated", "masked", "documents"] = Field(
        "concatenated", description="rows: windows of the joined documents, the same with documents kept from seeing "
                                    "each other, or whole documents fitted together")
    rows: int | None = Field(None, gt=0, description=f"rows of one context a step; default {ROWS}")
    batch_tokens: int | None = Field(None, gt=0, description="tokens a step, in place of rows; to the nearest row")
    micro_rows: int = Field(8, gt=0, description="rows held in memory at once; any value gives the same step")
    context_warmup: float = Field(0.0, ge=0, le=1, description="share of the steps in which the context doubles, three "
                                                               "times, up to the model's; tokens a step stay the same")
    z_loss: float = Field(0.0, ge=0, description="weight of the squared log-sum-exp, which keeps logits small")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target that all tokens have in common")
    validation_tokens: int = Field(60_000, gt=0, description="held-out tokens of a domain looked at in each validation")

    @model_validator(mode="after")
    def _consistent(self) -> "CorpusConfig":
        if self.rows and self.batch_tokens:
            raise ValueError("rows and batch_tokens both say how large a step is: give one of them")
        if self.mixture and (self.temperature != 1 or self.cap):
            raise ValueError("mixture gives the shares, temperature and cap are for shares by size: give one of them")
        if isinstance(self.data, str) and (self.temperature != 1 or self.cap or self.max_epochs):
            raise ValueError("temperature, cap and max_epochs share a run between domains: name them, "
                             "data = {name = folder}")
        if isinstance(self.mixture, dict) and self.mixture:
            self.check_weights(self.mixture)
        return self

    def check_weights(self, weights: dict[str, float]) -> None:
        """`ValueError` where weights and domains do not belong together."""
        if weights.keys() != self.folders.keys():
            raise ValueError(f"mixture weighs {', '.join(weights)}; the domains of data are "
                             f"{', '.join(filter(None, self.folders)) or 'not named: write data = {name = folder}'}")
        if not sum(weights.values()):
            raise ValueError("every weight of mixture is 0")

    def weights(self) -> dict[str, float]:
        """The weight of each domain, read where they stand in a file; {} where sizes decide."""
        if isinstance(self.mixture, dict):
            return self.mixture
        path = Path(self.mixture) / MIXTURE if Path(self.mixture).is_dir() else Path(self.mixture)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            weights = {name: float(weight) for name, weight in found.get("weights", found).items()}
            self.check_weights(weights)
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise InputError("no weights of domains to read", where=str(path), why=str(error),
                             hint='give {"web": 0.7, "code": 0.3}, or what `bloomery doremi` made') from error
        return weights

    @property
    def folders(self) -> dict[str, str]:
        """The folder of each domain; a lone folder is the domain "" of no name."""
        return self.data if isinstance(self.data, dict) else {"": self.data}

    @property
    def objective(self) -> Objective:
        """The next token, with what the options add to its loss."""
        return partial(causal_lm, z_loss=self.z_loss, label_smoothing=self.label_smoothing)

    def rows_a_step(self, context: int) -> int:
        return max(1, round(self.batch_tokens / context)) if self.batch_tokens else self.rows or ROWS


@dataclass(frozen=True)
class Corpora:
    """The opened shards of every domain, by name."""

    train: dict[str, Shard]
    held_out: dict[str, Shard]
    vocabulary: int

    @property
    def eos(self) -> int | None:
        return next(iter(self.train.values())).eos


def open_corpora(config: CorpusConfig, tokenizer: Tokenizer | None, given: str | None) -> Corpora:
    """Both splits of every domain, with one vocabulary; `given` is the folder of the tokenizer.

    `InputError` when shards were made with another tokenizer, or when ids mean something and no tokenizer is given.
    """
    ids = {"vocabulary": tokenizer.size, "eos": tokenizer.eos} if tokenizer else {}
    train, held_out = ({name: open_shard(Path(folder), split, **ids) for name, folder in config.folders.items()}
                       for split in ("train", "validation"))
    own = file_hash(Path(given) / "tokenizer.json") if given else None
    for name, shard in train.items():
        if tokenizer is None and shard.bytes_ is not None:
            raise InputError("no tokenizer is given", where=config.folders[name], hint="add tokenizer=FOLDER",
                             why="these shards were made with one, and the model is nothing without it")
        if tokenizer and (tokenizer.size != shard.vocabulary or shard.tokenizer not in ("", own)):
            raise InputError("tokenizer and shards do not belong together", where=given,
                             why=f"its {tokenizer.size} ids are not the {shard.vocabulary} the shards were made with",
                             hint="give the tokenizer that made the shards, or make the shards again with this one")
    return Corpora(train, held_out, max(shard.vocabulary for shard in train.values()))


def check_size(config: CorpusConfig, corpora: Corpora, context: int) -> None:
    """Refuse a corpus that cannot fill one step or in which no document is as long as the context."""
    where = ", ".join(config.folders.values())
    tokens, needed = sum(len(s.tokens) for s in corpora.train.values()), config.rows_a_step(context) * context + 1
    if tokens < needed:
        raise InputError("the corpus is smaller than one step", where=where,
                         why=f"{tokens} tokens, a step reads {needed}",
                         hint="lower rows or model.context, or give more text")
    longest = max(int(np.diff(shard.ends, prepend=0).max()) for shard in corpora.train.values())
    if longest < context:
        raise InputError("the context is longer than any document", where=where,
                         why=f"model.context is {context}, the longest document has {longest} tokens",
                         hint=f"set model.context to at most {longest}")


def stream(config: CorpusConfig, corpora: Corpora, context: int) -> TokenStream:
    """The batches of every step. Says how the domains share them, and how full packed rows are."""
    check_size(config, corpora, context)
    sizes = {name: len(shard.tokens) for name, shard in corpora.train.items()}
    rows = config.rows_a_step(context)
    packed = {name: PACKINGS[config.packing](shard, context) for name, shard in corpora.train.items()}
    shares = domain_shares({name: sizes[name] if rows.count else 0 for name, rows in packed.items()},
                           weights=config.weights(), temperature=config.temperature, cap=config.cap,
                           limits={name: config.max_epochs * made.count / (config.steps * rows)
                                   for name, made in packed.items()} if config.max_epochs else None)
    domains = [Domain(name, corpora.train[name], packed[name], share) for name, share in shares.items()]
    planned = dict(zip(shares, largest_remainder(np.array(list(shares.values())), config.steps * rows), strict=True))
    until = round(config.context_warmup * config.steps)
    made = TokenStream(domains, rows=rows, micro_rows=config.micro_rows, seed=config.seed,
                       longest=doubling(context, until=until) if until else None)
    for domain in domains:
        count, epochs = made.drawn(config.steps)[domain.name]
        if domain.name or config.packing == "documents":
            say(f"  {domain.name or 'data'}: {domain.share:.1%} of all rows: {count} of them, "
                f"{planned[domain.name]} planned, {epochs:.2f} epochs, in {config.steps} steps; "
                f"{domain.rows.fill:.1%} full")
    return made


def validation(config: CorpusConfig, corpora: Corpora, domains: list[Domain],
               context: int) -> Callable[[Transformer], dict[str, float]]:
    """What to measure: loss and bits per byte of the held-out documents, of each domain and of all by share."""
    shares = {domain.name: domain.share for domain in domains}

    @torch.no_grad()
    def validate(model: Transformer) -> dict[str, float]:
        found = {name: corpus_bits_per_byte(corpora.held_out[name], lambda batches: total_nll(model, batches),
                                            context=context, limit=config.validation_tokens) for name in shares}
        return found[""] if "" in found else domain_metrics(found, shares)

    return validate


def writes(config: CorpusConfig, tokenizer: Tokenizer | None, context: int) -> Preview | None:
    """How sampled text is made, where it is asked for and ids mean something."""
    wanted = config.sample_every and tokenizer
    return preview(config.sample_prompts, tokenizer, context=context) if wanted else None


def drawn(made: TokenStream, steps: int) -> dict[str, float]:
    """`planned/web`, `samples/web`, `epochs/web`: the share of every domain, and what `steps` steps have read of it."""
    counts = {name: pair for name, pair in made.drawn(steps).items() if name}
    return {f"planned/{domain.name}": domain.share for domain in made.domains if domain.name} | \
           {f"samples/{name}": samples for name, (samples, _) in counts.items()} | \
           {f"epochs/{name}": epochs for name, (_, epochs) in counts.items()}


def copy_tokenizer(source: Path, out: Path, *, context: int | None = None) -> None:
    """The tokenizer's files beside the model, with another `model_max_length` when a context is given."""
    for name in TOKENIZER_FILES:
        if (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, out / name)
    about = out / "tokenizer_config.json"
    if context and about.is_file():
        settings = json.loads(about.read_text(encoding="utf-8")) | {"model_max_length": context}
        write_atomic(about, json.dumps(settings, indent=2))
