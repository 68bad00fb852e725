"""The pretrain stage: a decoder learns to predict the next token of a corpus (causal language modelling).

    loss = -1/T sum_t log p(x_t | x_<t)            Radford et al. 2018, eq. 1
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from bloomery.core.config import Fixed, Input
from bloomery.core.errors import ConfigError
from bloomery.data.shards import open_shard
from bloomery.model.presets import ModelOptions, shape
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer
from bloomery.pretrain.corpora import CorpusConfig, copy_tokenizer, drawn, open_corpora, stream, validation, writes
from bloomery.text.tokenizer import load_tokenizer
from bloomery.train.session import train


class Config(CorpusConfig):
    """Pretrain a decoder."""

    tokenizer: Annotated[Input | None, Fixed()] = Field(
        None, description="the tokenizer the shards were made with; copied beside the model. Only another tool's .bin "
                          "files go without")
    model: Annotated[ModelOptions, Fixed()] = ModelOptions()


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """Parameters, tokens, FLOPs and memory before anything runs; the vocabulary may still be only planned."""
    shards = Path(next(iter(config.folders.values())))
    foretold = (planned or {}).get(config.tokenizer, {}).get("vocabulary", 4096)
    made = (shards / "shards.json").is_file()
    model = shape(config.model, open_shard(shards, "train").vocabulary if made else foretold)
    tokens = config.steps * config.rows_a_step(model.context) * model.context
    activations = config.micro_rows * model.context * model.depth * (8 * model.width + 4 * model.hidden) * 4
    return {"model": model, "parameters": model.parameters(), "tokens": tokens,
            "flops": tokens * model.flops_per_token(),
            "memory_gb": (18 * model.parameters() + activations) / 1e9 + 0.6}


def run(config: Config, out: Path) -> dict:
    """Train from scratch and export a Hugging Face folder with the tokenizer beside it."""
    tokenizer = load_tokenizer(Path(config.tokenizer)) if config.tokenizer else None
    corpora = open_corpora(config, tokenizer, config.tokenizer)
    made = shape(config.model, corpora.vocabulary)
    if not made.causal:
        raise ConfigError("an encoder has no next token to predict", where="pretrain.model",
                          hint="bloomery mlm pretrains encoders")
    batches = stream(config, corpora, made.context)
    model = Transformer(made, seed=config.seed)
    state = train(model, config, out, name="pretrain", stream=batches, objective=config.objective,
                  validate=validation(config, corpora, batches.domains, made.context), blame=batches.documents,
                  preview=writes(config, tokenizer, made.context))
    save_model(state.model, out, bos=corpora.eos, eos=None if corpora.eos is None else [corpora.eos])
    if config.tokenizer:
        copy_tokenizer(Path(config.tokenizer), out)
    return {"parameters": made.parameters(), "tokens": state.tokens, **drawn(batches, state.step), **state.best}
