"""The mlm stage: an encoder learns to guess hidden tokens from what stands on both sides of them.

    loss = -1/M sum over the M selected places of log p(x_t | the text with places hidden)     Devlin et al. 2019
         [ -1/P sum over the P pairs of log p(does B follow A) ]                               with `next_sentence`

What is hidden says `masking.py`.  Texts lie end to end and each is a run of its own, [CLS] tokens [SEP]: nothing is
padded, and only selected places go through the head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import exp
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from bloomery.core.config import Fixed, Input
from bloomery.core.errors import ConfigError, InputError
from bloomery.data.batch import Batch
from bloomery.data.rows import Runs, documents
from bloomery.data.shards import Shard
from bloomery.data.stream import Stream, TokenStream
from bloomery.data.validation import TOKENS
from bloomery.losses.token import token_nll
from bloomery.model.config import ModelConfig
from bloomery.model.forest import roots
from bloomery.model.headed import Headed, Shape, save_headed
from bloomery.model.presets import ENCODERS, ModelOptions, encoder_shape
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer
from bloomery.pretrain.corpora import Corpora, CorpusConfig, copy_tokenizer, drawn, open_corpora, stream
from bloomery.pretrain.masking import Masker, MaskingConfig, masker
from bloomery.pretrain.next_sentence import elsewhere, pair
from bloomery.text.framing import framed
from bloomery.text.tokenizer import Tokenizer, load_tokenizer
from bloomery.train.objective import Metrics, Objective, causal_lm, token_loss
from bloomery.train.session import train

NEVER = 2**40               # the step of masks that are drawn for validation, the same whenever it is measured


class Config(CorpusConfig):
    """Pretrain an encoder."""

    tokenizer: Annotated[Input, Fixed()] = Field(
        description="a tokenizer with [CLS], [SEP] and [MASK]: kind = wordpiece")
    style: Annotated[Literal[tuple(ENCODERS)], Fixed()] = Field(
        "modern", description="bert: post-norm, learned positions; modern: pre-norm, RoPE, GeGLU, local attention")
    model: Annotated[ModelOptions, Fixed()] = ModelOptions()
    masking: MaskingConfig = MaskingConfig()
    packing: Literal["concatenated", "masked", "documents"] = Field(
        "masked", description="texts: windows of the joined documents, the same cut where documents end, or whole "
                              "documents")
    next_sentence: Annotated[bool, Fixed()] = Field(
        False, description="pairs of parts, and whether the second follows the first, as BERT; in style bert")


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """Parameters, tokens, FLOPs and memory before anything runs."""
    vocabulary = (planned or {}).get(config.tokenizer, {}).get("vocabulary")
    if vocabulary is None and (Path(config.tokenizer) / "tokenizer.json").is_file():
        vocabulary = load_tokenizer(Path(config.tokenizer)).size
    model = encoder_shape(config.model, vocabulary or 4096, config.style)
    tokens = config.steps * config.rows_a_step(model.context) * model.context
    return {"model": model, "parameters": model.parameters(), "tokens": tokens,
            "flops": tokens * model.flops_per_token(), "memory_gb": 18 * model.parameters() / 1e9 + 1.0}


# --- batches ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class PairBatch(Batch):
    """Pairs of parts; the loss is the mean over pairs beside the mean over hidden tokens, hence the scale."""

    follows: Tensor             # (R,) int64  0: B follows A, 1: it does not
    scale: float                # hidden tokens of the step / its pairs


@dataclass(frozen=True)
class Texts:
    """Makes batches of texts that are stretches of a token file."""

    tokenizer: Tokenizer
    masker: Masker
    context: int
    paired: bool

    def frame(self, shard: Shard, first: int, last: int, draw: np.random.Generator) -> tuple[list, list, int]:
        """ids, types and the label of one stretch."""
        t, text = self.tokenizer, np.asarray(shard.tokens[first:last])
        text = text[:-1] if text[-1] == t.sep else text         # the end of a document is that of the text
        if not self.paired or len(text) < 2:
            return *framed(text.tolist(), (), t.cls, t.sep), 0
        own = int(np.searchsorted(shard.ends, first, "right"))
        a, b, label = pair(text, lambda draw: shard.document(elsewhere(len(shard.ends), own, draw))[:-1],
                           self.context - 3, draw)
        return *framed(a, b, t.cls, t.sep), label

    def batch(self, parts: list[tuple[Shard, Runs]], step: int) -> Batch:
        """Stretches of some token files, masked; every place's target is what stood there."""
        read, right, types, lengths, chosen, labels = [], [], [], [], [], []
        for shard, runs in parts:
            for first, last in zip(*(bounds.tolist() for bounds in runs), strict=True):
                draw = np.random.default_rng([self.masker.seed, first, step + 1, 1])
                ids, kinds, label = self.frame(shard, first, last, draw)
                text = np.array(ids, np.int64)
                seen, hidden = self.masker(text, first, step)
                chosen.append(hidden + sum(lengths))
                lengths.append(len(ids))
                read.append(seen)
                right.append(text)
                types += kinds
                labels.append(label)
        segments, places = roots(lengths, causal=False), np.concatenate(chosen)
        if not len(places):
            raise ValueError("no target tokens: nothing in these texts can be hidden")
        weights = torch.zeros(sum(lengths))
        weights[torch.from_numpy(places)] = 1.0
        made = Batch(*(torch.from_numpy(np.concatenate(each)) for each in (read, right)), weights, segments.positions,
                     segments, float(len(places)), types=torch.tensor(types) if self.paired else None)
        return PairBatch(**vars(made), follows=torch.tensor(labels), scale=1.0) if self.paired else made


def masked_stream(made: TokenStream, texts: Texts) -> Stream:
    """The rows of a token stream as masked texts."""
    def batches(step: int) -> list[Batch]:
        found = [texts.batch([(domain.shard, runs) for domain, runs in made.runs(step, first, last)], step)
                 for first, last in pairwise([*range(0, made.rows, made.micro_rows), made.rows])]
        return scaled(found) if texts.paired else found

    return batches


def scaled(batches: list[PairBatch]) -> list[PairBatch]:
    """The micro-batches of a step, told how many hidden tokens stand for one pair."""
    scale = sum(batch.count for batch in batches) / sum(len(batch.follows) for batch in batches)
    return [PairBatch(**vars(batch) | {"scale": scale}) for batch in batches]


# --- what is minimised and measured -------------------------------------------------------------------------------

def pretraining(model: Headed, batch: PairBatch, **terms: float) -> tuple[Tensor, Metrics]:
    """Guessing tokens and telling next sentences, from one pass through the trunk; the two means are added."""
    hidden = model.states(batch.ids, batch.segments, batch.types)
    loss, metrics = token_loss(model.trunk, batch, hidden, **terms)
    scores = model.judged(hidden, batch.segments)
    nll = token_nll(scores, batch.follows)
    told = {"mlm_loss": metrics.pop("loss"), "nsp_loss": batch.scale * float(nll.sum()),
            "nsp_accuracy": batch.scale * float((scores.argmax(-1) == batch.follows).sum())}
    return loss + batch.scale * nll.sum(), {"loss": told["mlm_loss"] + told["nsp_loss"], **told, **metrics}


def validation(corpora: Corpora, texts: Texts, limit: int,
               objective: Objective) -> Callable[[torch.nn.Module], Metrics]:
    """Loss, perplexity and accuracy on hidden tokens of held-out documents, always the same ones."""
    batches = []
    for shard in corpora.held_out.values():
        rows = documents(shard, texts.context - 2)
        first, last = rows.runs(np.arange(rows.count))
        order = np.argsort(first)
        keep = order[:int(np.searchsorted((last - first)[order].cumsum(), limit)) + 1]
        groups = np.split(keep, np.flatnonzero(np.diff((last - first)[keep].cumsum() // TOKENS)) + 1)
        batches += [texts.batch([(shard, (first[group], last[group]))], NEVER) for group in groups]
    batches = scaled(batches) if texts.paired else batches

    @torch.no_grad()
    def validate(model: torch.nn.Module) -> Metrics:
        count, sums = sum(batch.count for batch in batches), {}
        for batch in batches:
            for name, value in objective(model, batch.beside(model))[1].items():
                sums[name] = sums.get(name, 0.0) + value
        found = {f"val_{name}": value / count for name, value in sums.items()}
        return found | {"val_perplexity": exp(found.get("val_mlm_loss", found["val_loss"]))}

    return validate


def run(config: Config, out: Path) -> dict:
    """Train from scratch and export a folder that transformers opens as `...ForMaskedLM`, or `BertForPreTraining`."""
    tokenizer = load_tokenizer(Path(config.tokenizer))
    masks = masker(tokenizer, config.masking, seed=config.seed, where=config.tokenizer)
    corpora = open_corpora(config, tokenizer, config.tokenizer)
    made = encoder_shape(config.model, corpora.vocabulary, config.style)
    raise_contradictions(config, made, corpora)
    batches = stream(config, corpora, made.context - 2 - config.next_sentence)
    texts = Texts(tokenizer, masks, made.context, config.next_sentence)
    terms = {"label_smoothing": config.label_smoothing, "z_loss": config.z_loss}
    objective = partial(pretraining if config.next_sentence else causal_lm, **terms)
    trunk = Transformer(made, seed=config.seed)
    model = Headed(trunk, Shape("pairs", 2), seed=config.seed, pad=tokenizer.pad, keeps_head=True) \
        if config.next_sentence else trunk
    state = train(model, config, out, name="mlm", stream=masked_stream(batches, texts), objective=objective,
                  validate=validation(corpora, texts, config.validation_tokens, objective), blame=batches.documents)
    if config.next_sentence:
        save_headed(state.model, out)
    else:
        save_model(state.model, out, generation={"pad_token_id": tokenizer.pad})
    copy_tokenizer(Path(config.tokenizer), out, context=made.context)
    return {"parameters": made.parameters(), "tokens": state.tokens, **drawn(batches, state.step), **state.best}


def raise_contradictions(config: Config, made: ModelConfig, corpora: Corpora) -> None:
    """One error for options that do not fit together, before any work."""
    if made.causal or not made.head_transform:
        raise ConfigError("this network is no masked language model", where="mlm.model",
                          why="causal must be false and head_transform true",
                          hint="leave them out, or choose an encoder's preset: bert-base, modernbert-base")
    if config.sample_every:
        raise ConfigError("an encoder writes no samples", where="mlm.sample_every", hint="leave it out")
    if config.next_sentence and made.types < 2:
        raise ConfigError("pairs need two types of tokens", where="mlm.next_sentence", hint='set style = "bert"')
    if config.next_sentence and (config.packing == "concatenated" or
                                 min(len(shard.ends) for shard in corpora.train.values()) < 2):
        raise InputError("there is no next sentence to predict", where="mlm.next_sentence",
                         why="parts must come from several documents", hint="two documents at least, and packing = "
                                                                            '"masked" or "documents"')
