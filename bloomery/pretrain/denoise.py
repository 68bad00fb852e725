"""The stages spans, ul2 and prefix_lm: learn from texts of which a part is hidden.

    loss = -1/M sum_t log p(y_t | y_<t, x)      x what is left of a text, y what was taken from it

    spans, ul2      an encoder-decoder reads x and writes y                     `spans.py`, `ul2.py`
    prefix_lm       a decoder reads x, every token of which sees all of x, and goes on (Raffel et al. 2020, section 3.2)

What is hidden is drawn from (seed, step, place in the step), so data order stays a function.  Windows are as long as
the formula says that fill inputs of `model.context` tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from tokenizers import AddedToken

from bloomery.core.config import Fixed, Input
from bloomery.core.errors import ConfigError
from bloomery.data.batch import Batch, Run, forest
from bloomery.data.parallel import Pair, pair_batch
from bloomery.data.shards import Shard
from bloomery.data.stream import Stream
from bloomery.data.validation import TOKENS
from bloomery.losses.token import perplexity
from bloomery.model.presets import ModelOptions, shape
from bloomery.model.seq2seq_files import save_seq2seq
from bloomery.model.seq2seq_presets import Network, NetworkOptions, network
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer
from bloomery.pretrain.corpora import Corpora, CorpusConfig, copy_tokenizer, drawn, open_corpora, stream
from bloomery.pretrain.spans import SENTINELS, corrupt, noise_counts, noise_mask, raw_length
from bloomery.pretrain.ul2 import MIXTURE, MODES, RELEASED, Denoiser, denoised
from bloomery.pretrain.ul2 import drawn as chosen
from bloomery.text.tokenizer import Tokenizer, load_tokenizer
from bloomery.train.objective import Metrics, total_nll
from bloomery.train.session import train

NEVER = 2**40               # the step of what is drawn for validation, the same whenever it is measured
Maker = Callable[[list[int], np.random.Generator], Pair]
Hide = Callable[[Batch, np.random.Generator], Batch]


class Config(CorpusConfig):
    """Pretrain on texts of which a part is hidden."""

    tokenizer: Annotated[Input, Fixed()] = Field(description="the tokenizer the shards were made with; sentinels and "
                                                             "modes are added to it")
    kind: Annotated[Literal["spans", "ul2", "prefix_lm"], Fixed()] = Field(
        "spans", description="what is hidden, and who learns: see the verb of the same name")
    network: Annotated[NetworkOptions, Fixed()] = Field(
        NetworkOptions(preset="t5-v1.1-tiny", context=512), description="spans, ul2: the encoder-decoder")
    model: Annotated[ModelOptions, Fixed()] = Field(ModelOptions(), description="prefix_lm: the decoder")
    density: float = Field(0.15, gt=0, lt=1, description="spans: share of the tokens that are hidden")
    mean_span: float = Field(3.0, ge=1, description="spans: mean length of a span")
    sentinels: Annotated[int, Fixed()] = Field(SENTINELS, gt=1, description="spans, ul2: names for spans")
    denoisers: tuple[float, ...] = Field((1.0,) * len(MIXTURE), description="ul2: how often each of seven is drawn: "
                                       + ", ".join(f"{d.mode}({d.span or 'end'}, {d.density})" for d in MIXTURE))
    modes: Annotated[Literal["paper", "released", "none"], Fixed()] = Field(
        "paper", description="ul2: [R], [S], [X], or [NLU], [S2S], [NLG], or no mode tokens")
    packing: Literal["concatenated", "documents"] = Field(
        "concatenated", description="texts: windows of the joined documents, or whole documents")
    least_prefix: float = Field(0.0, ge=0, lt=1, description="prefix_lm: share of a text that is surely read")

    @model_validator(mode="after")
    def _hides(self) -> "Config":
        if len(self.denoisers) != len(MIXTURE) or min(self.denoisers) < 0 or not sum(self.denoisers):
            raise ValueError(f"denoisers must be {len(MIXTURE)} numbers of 0 or more, not all 0")
        if self.network.preset == "rnn" and self.kind != "prefix_lm":
            raise ValueError('spans and ul2 train transformers: network.preset = "t5-v1.1-tiny" is one')
        return self


# --- what is hidden -----------------------------------------------------------------------------------------------

def pairs_of(make: Maker, start: int, batch: Batch, draws: np.random.Generator) -> Batch:
    """For an encoder-decoder: the texts of a batch as sources and targets. Of a single token nothing can be hidden."""
    texts = (batch.targets[first:end].tolist() for first, end in batch.segments.runs)
    return pair_batch([make(text, draws) for text in texts if len(text) > 1], start)


def prefixes_of(least: float, batch: Batch, draws: np.random.Generator) -> Batch:
    """For a decoder: each text a root that sees all of itself, and the run that goes on, of which every token counts.

    The root's last place predicts the first of these.
    """
    runs: list[Run] = []
    for first, end in batch.segments.runs:
        text = batch.targets[first:end].tolist()
        if len(text) < 2:
            continue
        split = int(draws.integers(max(1, round(least * len(text))), len(text)))
        runs.append(Run(text[:split], text[1:split + 1], [0.0] * (split - 1) + [1.0]))
        if len(text) > split + 1:
            runs.append(Run(text[split:-1], text[split + 1:], [1.0] * (len(text) - split - 1), len(runs) - 1))
    made = forest(runs)
    return replace(made, segments=replace(made.segments, prefix=True))


def hiding(plain: Stream, hide: Hide, seed: int) -> Stream:
    """Every batch of a stream with a part of each text hidden."""
    return lambda step: [hide(batch, np.random.default_rng((seed, step, place)))
                         for place, batch in enumerate(plain(step))]


def maker(config: Config, tokenizer: Tokenizer) -> Maker:
    """How a text becomes a source and a target."""
    sentinels = sentinel_ids(tokenizer, config.sentinels)
    if config.kind == "spans":
        return lambda text, draws: Pair(*corrupt(text, noise_mask(len(text), config.density, config.mean_span, draws),
                                                 sentinels, tokenizer.eos))
    named = {"paper": MODES, "released": RELEASED, "none": {}}[config.modes]
    modes = {mode: tokenizer.token(name) for mode, name in named.items()}
    return lambda text, draws: Pair(*denoised(text, MIXTURE[chosen(config.denoisers, draws)], draws, modes=modes,
                                              sentinels=sentinels, end=tokenizer.eos))


# --- what is added to a tokenizer ---------------------------------------------------------------------------------

def sentinel_ids(tokenizer: Tokenizer, count: int) -> list[int]:
    """The ids of <extra_id_0>, <extra_id_1>, ..."""
    return [tokenizer.token(f"<extra_id_{number}>") for number in range(count)]


def with_sentinels(folder: Path, config: Config) -> Tokenizer:
    """The tokenizer with mode tokens and sentinels behind its own ids, <extra_id_0> being the highest, as T5 has it.

    Those it has already stay where they are.
    """
    tokenizer = load_tokenizer(folder)
    modes = {"paper": MODES, "released": RELEASED, "none": {}}[config.modes] if config.kind == "ul2" else {}
    names = [*modes.values(), *(f"<extra_id_{number}>" for number in reversed(range(config.sentinels)))]
    tokenizer.backend.encode_special_tokens = False
    tokenizer.backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return Tokenizer(tokenizer.backend, tokenizer.settings)


# --- the stage ----------------------------------------------------------------------------------------------------

def used(config: Config) -> list[Denoiser]:
    """The ways of hiding that occur."""
    if config.kind == "spans":
        return [Denoiser(config.mean_span, config.density)]
    return [each for each, weight in zip(MIXTURE, config.denoisers, strict=True) if weight]


def window(config: Config, context: int) -> int:
    """Tokens of a text that fill inputs of `context`, whichever way of hiding is drawn."""
    if config.kind == "prefix_lm":
        return context
    room = context - (config.kind == "ul2" and config.modes != "none")
    length = min(raw_length(room - (each.span is None), each.density, each.span or room)[0] for each in used(config))
    spans = max(1 if each.span is None else noise_counts(length, each.density, each.span)[1] for each in used(config))
    if spans > config.sentinels:
        raise ConfigError("more spans than sentinels", where="sentinels", hint=f"sentinels = {spans}, or a shorter "
                          "network.context", why=f"a text of {length} tokens has up to {spans} spans")
    return length


def held_out(corpora: Corpora, hide: Hide, config: Config,
             length: int) -> list[Batch]:
    """Held-out texts of every domain with the same parts hidden whenever they are measured."""
    found = []
    for shard in corpora.held_out.values():
        ids = tokens_of(shard, config.validation_tokens)
        texts = [ids[first:first + length] for first in range(0, len(ids), length)]
        each = max(1, TOKENS // length)
        for place in range(0, len(texts), each):
            group = [text for text in texts[place:place + each] if len(text) > 1]
            if group:
                plain = forest([Run(text, text, [1.0] * len(text)) for text in group])
                found.append(hide(plain, np.random.default_rng((config.seed, NEVER, len(found)))))
    return found


def tokens_of(shard: Shard, limit: int) -> list[int]:
    return np.asarray(shard.tokens[:limit], np.int64).tolist()


def measured(batches: Sequence[Batch]) -> Callable[[Transformer | Network], Metrics]:
    """Loss and perplexity a hidden token."""
    @torch.no_grad()
    def validate(model: Transformer | Network) -> Metrics:
        nats, tokens = total_nll(model, list(batches))
        return {"val_loss": nats / tokens, "val_perplexity": perplexity(nats, tokens)}

    return validate


def run(config: Config, out: Path) -> dict:
    """Train from nothing and export: an encoder-decoder with its sentinels, or a decoder."""
    own = load_tokenizer(Path(config.tokenizer))
    corpora = open_corpora(config, own, config.tokenizer)
    if config.kind == "prefix_lm":
        made = shape(config.model, corpora.vocabulary)
        model, context = Transformer(made, seed=config.seed), made.context
        hide = partial(prefixes_of, config.least_prefix)
    else:
        tokenizer = with_sentinels(Path(config.tokenizer), config)
        model = network(config.network, vocabulary=tokenizer.size, start=tokenizer.begin, seed=config.seed)
        hide, context = partial(pairs_of, maker(config, tokenizer), tokenizer.begin), config.network.context
    length = window(config, context)
    plain = stream(config, corpora, length)
    state = train(model, config, out, name=config.kind, stream=hiding(plain, hide, config.seed),
                  objective=config.objective, validate=measured(held_out(corpora, hide, config, length)),
                  blame=plain.documents)
    if config.kind == "prefix_lm":
        save_model(state.model, out, bos=corpora.eos, eos=None if corpora.eos is None else [corpora.eos])
        copy_tokenizer(Path(config.tokenizer), out)
    else:
        save_seq2seq(state.model, out, eos=tokenizer.eos)
        tokenizer.save(out, context=context, chat_template="")
    return {"parameters": state.model.config.parameters(), "tokens": state.tokens, "window": length,
            **drawn(plain, state.step), **state.best}

