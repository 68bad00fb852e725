"""Keeping what a model knew while it learns something else: the objective, the penalty and the batches of it.

    task + lambda_1 KL to the model training starts from + lambda_2 EWC + lambda_3 language model        each optional

The equations are in `losses/retention.py`.  Each of the three enters where any split into micro-batches leaves it what
it is: KL goes with the tokens it is taken at, EWC depends on weights alone and is added once a step (`State.penalty`),
and the language model's tokens are micro-batches of their own whose weights hold the step's normalisation.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bloomery.core.config import Input, Settings
from bloomery.core.errors import ConfigError, InputError
from bloomery.data.batch import Batch
from bloomery.data.shards import Shard, open_shard
from bloomery.data.stream import MicroBatches, Stream, windows
from bloomery.data.validation import corpus_bits_per_byte
from bloomery.losses.linear_ce import LIMITS, fitting
from bloomery.losses.retention import KL, ewc
from bloomery.model.forest import Forest
from bloomery.model.transformer import Transformer
from bloomery.train.objective import Metrics, Objective, Term, causal_lm, total_nll
from bloomery.train.parallel import Piece, Sharded
from bloomery.train.state import Penalty, State

FISHER, ANCHOR = "fisher.safetensors", "anchor.safetensors"     # what a fisher stage writes, by parameter name


class EwcConfig(Settings):
    """Elastic weight consolidation."""

    fisher: Input = Field(description="a fisher stage's output: the weights to stay near, and how much each matters")
    weight: float = Field(1.0, ge=0, description="lambda; near the old weights 1 counts a nat of KL a token of the old "
                                                 "text as much as a nat of loss")


class KlConfig(Settings):
    """Divergence from the model training starts from, at the trained positions."""

    weight: float = Field(0.1, ge=0, description="lambda, of nats a token")
    direction: Literal["forward", "reverse"] = Field(
        "forward", description="forward keeps what the reference finds likely, reverse avoids what it finds unlikely")


class AuxiliaryConfig(Settings):
    """The language model as an auxiliary objective."""

    weight: float = Field(0.5, ge=0, description="lambda, GPT-1's was 0.5")
    data: Input | None = Field(None, description="token shards to go on reading; default: all tokens of the step's own "
                                                 "examples, prompts included")
    rows: int = Field(8, gt=0, description="rows of one context a step, of data")


class RetentionConfig(Settings):
    """What is done against forgetting, and where it is measured."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target that all tokens have in common")
    ewc: EwcConfig | None = None
    kl: KlConfig | None = None
    lm: AuxiliaryConfig | None = None
    corpus: Input | None = Field(None, description="token shards the model was trained on before: their held-out bits "
                                                   "per byte are measured at every validation")
    corpus_tokens: int = Field(20_000, gt=0, description="held-out tokens of the corpus looked at each time")


@dataclass(frozen=True)
class Retention:
    """What a stage gives to `train`; `stream` goes around its own batches, `measure` beside its validation."""

    objective: Objective
    penalty: Penalty | None
    stream: Callable[[Stream], Stream]
    measure: Callable[[Transformer], Metrics]       # `base_loss` and `base_bpb`, nothing without a corpus


def retain(config: RetentionConfig, model: Transformer, *, frozen: bool = False, context: int | None = None,
           micro_tokens: int = 8192, seed: int = 0,
           task: Callable[..., tuple[Tensor, Metrics]] = causal_lm) -> Retention:
    """Everything `config` asks for around `task`, an objective with the options of `causal_lm`.

    Call it before the model is adapted: it is the reference.  `frozen` says that training leaves the weights it has
    now as they are, which then need no copy; `context` that it reads no longer texts.
    """
    terms = (kl_to(reference(model, frozen=frozen), **dict(config.kl)),) if config.kl and config.kl.weight else ()
    objective = partial(task, label_smoothing=config.label_smoothing, terms=terms)
    penalty = Ewc(Path(config.ewc.fisher), model, config.ewc.weight) if config.ewc and config.ewc.weight else None
    if penalty and frozen:
        raise ConfigError("ewc holds weights that are frozen anyway", where="retention.ewc",
                          hint="leave it out, or train all weights")
    context = context or model.config.context
    around = config.lm if config.lm and config.lm.weight else None
    corpus = shard_of(around.data, "train", model) if around and around.data else None
    language = corpus and windows(corpus, context=context, rows=around.rows, seed=seed,
                                  micro_rows=max(1, micro_tokens // context))
    held_out = shard_of(config.corpus, "validation", model) if config.corpus else None

    def measure(model: Transformer) -> Metrics:
        found = corpus_bits_per_byte(held_out, partial(total_nll, model), context=context,
                                     limit=config.corpus_tokens) if held_out else {}
        return {f"base_{name}": found[f"val_{name}"] for name in ("loss", "bpb") if f"val_{name}" in found}

    return Retention(partial(told_apart, objective), penalty,
                     partial(beside, language=language, weight=around.weight) if around else lambda stream: stream,
                     measure)


def shard_of(folder: str, split: str, model: Transformer) -> Shard:
    """Token shards that the model can read; `InputError` when they have another vocabulary."""
    shard = open_shard(Path(folder), split, vocabulary=model.config.vocabulary)
    if shard.vocabulary != model.config.vocabulary:
        raise InputError("model and shards do not belong together", where=folder,
                         why=f"the model knows {model.config.vocabulary} ids, the shards {shard.vocabulary}",
                         hint="make shards with the model's tokenizer")
    return shard


def reference(model: Transformer, *, frozen: bool = False) -> Transformer:
    """The model as it is now, whatever becomes of it; of weights that stay as they are no second copy is made."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()} if frozen else {})


def kl_to(reference: Transformer, *, weight: float, direction: str = "forward") -> Term:
    """The term `weight` * KL at every trained position, exact over the vocabulary; metric `kl`, nats a token.

    Blocks of rows are computed again going backward, so that no more than one block's logits exist at a time.  A step
    takes 1.33 times as long (5.8 million weights, 4,096 words, one core).
    """
    divergence = KL[direction]

    def term(model: Transformer, batch: Batch, hidden: Tensor, rows: Tensor) -> tuple[Tensor, Metrics]:
        if hasattr(model.head.weight, "device_mesh"):
            raise ConfigError("kl needs all of the vocabulary on one process", where="retention.kl",
                              hint="leave out parallel.tensor")
        if reference.compute != model.compute:
            reference.compute = model.compute
        with torch.no_grad():
            reference.to(hidden.device)
            known = reference(batch.ids, batch.positions, Forest(batch.segments))[rows]          # (M, D)

        def block(hidden: Tensor, known: Tensor) -> Tensor:
            with torch.no_grad():
                wanted = reference.logits(known).log_softmax(-1)
            return divergence(model.logits(hidden).log_softmax(-1), wanted)

        limit = LIMITS["cpu" if hidden.device.type == "cpu" else "gpu"].block
        size = fitting(limit, 4 * model.config.vocabulary, len(hidden))
        away = torch.cat([checkpoint(block, *part, use_reentrant=False, preserve_rng_state=False)
                          for part in zip(hidden.split(size), known.split(size), strict=True)])
        total = (batch.weights[rows] * away).sum()
        return weight * total, {"kl": float(total.detach())}

    return term


class Ewc:
    """lambda/2 sum F (theta - theta*)^2 over all ranks' weights, its gradient added to what a step has. Metric `ewc`.

    `InputError` when the Fisher is not of this model's parameters.
    """

    def __init__(self, folder: Path, model: Transformer, weight: float):
        self.weight = weight
        self.fisher, self.anchor = (load_file(folder / name) if (folder / name).is_file() else {}
                                    for name in (FISHER, ANCHOR))
        wanted = {name: p.shape for name, p in model.named_parameters()}
        for kept in (self.fisher, self.anchor):
            if (found := {name: t.shape for name, t in kept.items()}) != wanted:
                differ = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
                raise InputError("the Fisher information is not of this model", where=str(folder),
                                 why=f"{len(differ)} weights differ: {', '.join(differ[:4])}",
                                 hint="make it with: bloomery fisher model=MODEL data=SHARDS out=FOLDER")

    def __call__(self, state: State) -> Metrics:
        pieces = state.ranks.pieces if isinstance(state.ranks, Sharded) else {}
        total = 0.0
        with torch.no_grad():
            for name, p in state.ranks.held.named_parameters():
                fisher, anchor = (self.part(kept, name, p, pieces.get(name)) for kept in (self.fisher, self.anchor))
                value, pull = ewc(p, anchor, fisher)
                p.grad = self.weight * pull if p.grad is None else p.grad.add_(pull, alpha=self.weight)
                total += float(value) if name not in pieces or pieces[name].owned else 0.0
        return {"ewc": self.weight * (math.fsum(state.team.gather(total)) if pieces else total)}

    def part(self, kept: dict[str, Tensor], name: str, p: Tensor, piece: Piece | None) -> Tensor:
        """What belongs to this rank's piece of a parameter; cut out and moved there once."""
        whole = kept[name]
        if piece and whole.shape != p.shape:
            whole = whole[piece.rows] if piece.columns is None else whole[piece.rows[:, None], piece.columns]
        kept[name] = whole.to(p.device)
        return kept[name]


@dataclass(frozen=True)
class AuxiliaryBatch(Batch):
    """Tokens of the auxiliary objective: a micro-batch that counts for nothing, whose weights are normalised already.

    `weight` is lambda, which the metric is free of.
    """

    weight: float


def beside(task: Stream, *, language: Stream | None, weight: float) -> Stream:
    """Each step's micro-batches of `task`, then those of `language`, or the task's own tokens, all trained.

    A token of the latter weighs lambda * (count of the task) / (count of the language), both over the whole step, so
    that what is minimised is L2 + lambda L1, each a mean.
    """
    def batches(step: int) -> MicroBatches:
        own = task(step)
        more = [replace(b, weights=torch.ones_like(b.weights), count=float(len(b.ids))) for b in own] \
            if language is None else language(step)
        counts = counts_of(own)
        scale = weight * sum(counts) / sum(counts_of(more))

        def build(index: int) -> Batch:
            if index < len(own):
                return own[index]
            batch = more[index - len(own)]
            return AuxiliaryBatch(batch.ids, batch.targets, batch.weights * scale, batch.positions, batch.segments, 0.0,
                                  weight)

        return MicroBatches(build, [*counts, *[0.0] * len(more)])

    return batches


def counts_of(batches: Sequence[Batch]) -> list[float]:
    """What each micro-batch's loss is divided by, without building those that are not built."""
    return batches.counts if isinstance(batches, MicroBatches) else [batch.count for batch in batches]


def told_apart(task: Objective, model: Transformer, batch: Batch) -> tuple[Tensor, Metrics]:
    """`task`, but of auxiliary micro-batches the plain language model, with `lm_loss` for metric."""
    if not isinstance(batch, AuxiliaryBatch):
        return task(model, batch)
    loss, metrics = causal_lm(model, batch)
    return loss, {"lm_loss": metrics["loss"] / batch.weight}
