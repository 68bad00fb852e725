"""The pretrain stage: a decoder learns to predict the next token of a corpus (causal language modelling).

    loss = -1/T sum_t log p(x_t | x_<t)            Radford et al. 2018, eq. 1
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from bloomery.core.artifacts import file_hash
from bloomery.core.config import Input, Settings
from bloomery.core.errors import ConfigError, InputError
from bloomery.data.shards import Shard, open_shard
from bloomery.data.stream import windows
from bloomery.data.validation import corpus_bits_per_byte
from bloomery.model.config import ModelConfig
from bloomery.model.presets import sized
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer
from bloomery.text.tokenizer import load_tokenizer
from bloomery.train.objective import causal_lm, total_nll
from bloomery.train.session import TrainingConfig, train


class ModelOptions(Settings):
    """The network: `depth` sets the rest unless it is given."""

    depth: int = Field(6, gt=0, description="blocks; the one dial")
    context: int = Field(512, gt=1, description="tokens the model reads at most")
    width: int | None = Field(None, gt=0, description="residual stream; default 48 a block, rounded up to 64")
    heads: int | None = Field(None, gt=0, description="query heads; default width / 64")
    kv_heads: int | None = Field(None, gt=0, description="key heads; default half of the heads when even")
    hidden: int | None = Field(None, gt=0, description="feed-forward; default 8/3 of the width")
    rope_base: float = Field(10_000.0, gt=0, description="rotary base")
    tied: bool = Field(True, description="the head is the embedding")


class Config(TrainingConfig):
    """Pretrain a decoder."""

    data: Input = Field(description="a shards stage's output")
    tokenizer: Input = Field(description="the tokenizer the shards were made with; copied beside the model")
    model: ModelOptions = ModelOptions()
    rows: int = Field(32, gt=0, description="windows of `model.context` tokens a step")
    micro_rows: int = Field(8, gt=0, description="windows held in memory at once; any value gives the same step")
    validation_tokens: int = Field(60_000, gt=0, description="held-out tokens looked at in each validation")


def shape(config: Config, vocabulary: int) -> ModelConfig:
    options = config.model.model_dump()
    try:
        return sized(options.pop("depth"), vocabulary=vocabulary, context=options.pop("context"), **options)
    except ValueError as error:
        raise ConfigError("the model's shape is not consistent", why=str(error)) from error


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """Parameters, tokens, FLOPs and memory before anything runs; the vocabulary may still be only planned."""
    made = (Path(config.data) / "shards.json").is_file()
    foretold = (planned or {}).get(config.tokenizer, {}).get("vocabulary", 4096)
    model = shape(config, open_shard(Path(config.data), "train").vocabulary if made else foretold)
    tokens = config.steps * config.rows * config.model.context
    activations = config.micro_rows * config.model.context * model.depth * (8 * model.width + 4 * model.hidden) * 4
    return {"model": model, "parameters": model.parameters(), "tokens": tokens,
            "flops": tokens * model.flops_per_token(),
            "memory_gb": (18 * model.parameters() + activations) / 1e9 + 0.6}


def checked_shard(config: Config) -> Shard:
    """The training split; refused when it cannot fill one step or when no document is as long as the context."""
    shard = open_shard(Path(config.data), "train")
    needed = config.rows * config.model.context + 1
    if len(shard.tokens) < needed:
        raise InputError("the corpus is smaller than one step", where=config.data,
                         why=f"{len(shard.tokens)} tokens, a step reads {needed}",
                         hint="lower rows or model.context, or give more text")
    longest = int(np.diff(shard.ends, prepend=0).max())
    if longest < config.model.context:
        raise InputError("the context is longer than any document", where=config.data,
                         why=f"model.context is {config.model.context}, the longest document has {longest} tokens",
                         hint=f"set model.context to at most {longest}")
    return shard


def run(config: Config, out: Path) -> dict:
    """Train from scratch and export a Hugging Face folder with the tokenizer beside it."""
    shard, held_out = checked_shard(config), open_shard(Path(config.data), "validation")
    tokenizer = load_tokenizer(Path(config.tokenizer))
    given = file_hash(Path(config.tokenizer) / "tokenizer.json")
    if tokenizer.size != shard.vocabulary or shard.tokenizer not in ("", given):
        raise InputError("tokenizer and shards do not belong together", where=config.tokenizer,
                         why=f"its {tokenizer.size} ids are not the {shard.vocabulary} the shards were made with",
                         hint="give the tokenizer that made the shards, or make the shards again with this one")
    model = Transformer(shape(config, shard.vocabulary), seed=config.seed)

    @torch.no_grad()
    def validate(model: Transformer) -> dict[str, float]:
        return corpus_bits_per_byte(held_out, lambda batches: total_nll(model, batches), context=config.model.context,
                                    limit=config.validation_tokens)

    stream = windows(shard, context=config.model.context, rows=config.rows, micro_rows=config.micro_rows,
                     seed=config.seed)
    state = train(model, config, out, name="pretrain", stream=stream, objective=causal_lm, validate=validate)
    save_model(model, out, bos=tokenizer.eos, eos=[tokenizer.eos])
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(Path(config.tokenizer) / name, out / name)
    return {"parameters": model.config.parameters(), "tokens": state.tokens, **state.best}
