"""DoReMi: how much of each domain to train on, found by two small models before a large one is trained.

A reference learns from the base mixture.  A proxy of the same shape then learns from all domains alike, and what counts
of a domain follows how far the proxy still is behind the reference there (Xie et al. 2023, algorithm 1; group DRO):

    lambda_d = mean over tokens x of domain d of max(loss_proxy(x) - loss_reference(x), 0)
    alpha'   = alpha exp(eta lambda) / Z,       alpha <- (1 - c) alpha' + c / K,       loss = sum_d alpha_d loss_d

The mixture is the mean of alpha over all steps.  As in the authors' program, a step is weighted by the alpha that the
steps before it left, and a domain that a step did not see keeps its lambda.  `domain_weights.npy` holds alpha and
lambda before every step, so that a run goes on where it was killed.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.lib.format import open_memmap
from pydantic import Field, model_validator
from torch import Tensor

from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Fixed, Input
from bloomery.core.errors import ConfigError
from bloomery.core.metrics import say
from bloomery.data.batch import Batch
from bloomery.data.likelihood import token_logps
from bloomery.data.stream import MicroBatches, Stream, TokenStream
from bloomery.model.config import ModelConfig
from bloomery.model.presets import ModelOptions, shape
from bloomery.model.transformer import Transformer
from bloomery.pretrain.corpora import MIXTURE, CorpusConfig, open_corpora, stream, validation
from bloomery.text.tokenizer import load_tokenizer
from bloomery.train.hooks import Hook
from bloomery.train.objective import Metrics, Objective
from bloomery.train.session import joined, train
from bloomery.train.state import Report, State

HISTORY = "domain_weights.npy"      # (steps + 1, 2, K) float64: alpha and lambda before each step


class Config(CorpusConfig):
    """Find the weights of domains with a small reference and a small proxy."""

    tokenizer: Annotated[Input | None, Fixed()] = Field(None, description="the tokenizer the shards were made with")
    model: Annotated[ModelOptions, Fixed()] = ModelOptions()
    eta: float = Field(1.0, gt=0, description="how fast weights follow the excess loss")
    smoothing: float = Field(1e-3, ge=0, le=1, description="share of every weight that is uniform; the paper's")

    @model_validator(mode="after")
    def several_domains(self) -> "Config":
        if len(self.folders) < 2:
            raise ValueError("weights are of several domains: name them, data = {web = FOLDER, code = FOLDER}")
        return self


def domain_update(weights: np.ndarray, excess: Sequence[np.ndarray], scores: np.ndarray, *, eta: float = 1.0,
                  smoothing: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """The next alpha and lambda, (K,) each, from proxy less reference loss of each domain's tokens.

    A domain without a token keeps its lambda.  `ValueError` for weights below 0, or all 0.
    """
    weights = np.asarray(weights, np.float64)
    if (weights < 0).any() or not weights.any():
        raise ValueError(f"weights of domains must not be below 0, nor all 0: {weights.tolist()}")
    scores = np.array([np.maximum(tokens, 0).mean() if len(tokens) else old
                       for tokens, old in zip(excess, scores, strict=True)])
    logs = np.where(weights > 0, np.log(np.maximum(weights, np.finfo(float).tiny)), -np.inf) + eta * scores
    found = np.exp(logs - logs.max())
    return (1 - smoothing) * found / found.sum() + smoothing / len(weights), scores


@dataclass(frozen=True)
class DomainBatch(Batch):
    """A batch that knows whose its tokens are."""

    domain: Tensor          # (N,) int64
    step: int
    place: int              # which micro-batch of the step


class Marked:
    """A stream whose batches say which domain, in the order of the stream's, each token is of."""

    def __init__(self, made: TokenStream):
        self.made, self.number = made, {domain.name: place for place, domain in enumerate(made.domains)}

    def __call__(self, step: int) -> MicroBatches:
        batches = self.made(step)
        return MicroBatches(lambda index: self.marked(batches[index], step, index), batches.counts)

    def marked(self, batch: Batch, step: int, index: int) -> DomainBatch:
        first = index * self.made.micro_rows
        runs = self.made.runs(step, first, min(first + self.made.micro_rows, self.made.rows))
        counts = torch.tensor([int((last - begin).sum()) for _, (begin, last) in runs])
        owner = torch.tensor([self.number[domain.name] for domain, _ in runs])
        return DomainBatch(**vars(batch), domain=owner.repeat_interleave(counts), step=step, place=index)


class GroupDro:
    """The proxy's objective, and the hook that moves the weights after each step."""

    def __init__(self, reference: Transformer, shares: np.ndarray, history: np.ndarray, config: Config):
        self.reference, self.shares, self.history, self.config = reference, torch.from_numpy(shares), history, config
        self.step, self.seen = -1, {}       # of this step's micro-batches: excess and domain of each token

    def __call__(self, model: Transformer, batch: DomainBatch) -> tuple[Tensor, Metrics]:
        if batch.step != self.step:
            self.step, self.seen = batch.step, {}
        self.reference.to(batch.ids.device).compute = model.compute
        logp, rows = token_logps(model, batch)                                                  # (M,)
        with torch.no_grad():
            excess = token_logps(self.reference, batch)[0] - logp
        self.seen[batch.place] = excess.double().cpu().numpy(), batch.domain[rows].cpu().numpy()
        alpha = torch.from_numpy(self.history[batch.step, 0].copy())
        weight = (alpha / self.shares).to(logp)[batch.domain[rows]]
        told = {f"weight/{name}": float(alpha[place]) * batch.count for place, name in enumerate(self.config.folders)}
        return -(logp * weight).sum(), {"loss": -float(logp.detach().sum()), **told}

    def hook(self, state: State, report: Report) -> None:
        excess, domain = (np.concatenate([self.seen[place][part] for place in sorted(self.seen)]) for part in (0, 1))
        self.history[self.step + 1] = domain_update(
            self.history[self.step, 0], [excess[domain == place] for place in range(len(self.shares))],
            self.history[self.step, 1], eta=self.config.eta, smoothing=self.config.smoothing)
        self.history.flush()


def run(config: Config, out: Path) -> dict:
    """Train reference and proxy; `mixture.json` has the weights, which `pretrain mixture=FOLDER` reads."""
    if joined().size > 1:
        raise ConfigError("weights of domains are found by one process", where="doremi",
                          hint="run it without torchrun: the models are small")
    tokenizer = load_tokenizer(Path(config.tokenizer)) if config.tokenizer else None
    corpora = open_corpora(config, tokenizer, config.tokenizer)
    made = shape(config.model, corpora.vocabulary)
    base = stream(config, corpora, made.context)
    if len(base.domains) < len(config.folders):
        raise ConfigError("a domain has nothing to train on", where="doremi.data", hint="leave it out")
    reference = trained(config, out / "reference", made, base, config.objective,
                        validation(config, corpora, base.domains, made.context))
    alike = stream(config.model_copy(update={"mixture": dict.fromkeys(config.folders, 1.0), "temperature": 1.0,
                                             "cap": None, "max_epochs": None}), corpora, made.context)
    history = opened(out / HISTORY, config.steps, len(alike.domains))
    dro = GroupDro(reference.model.requires_grad_(False), alike.shares, history, config)
    proxy = trained(config, out / "proxy", made, Marked(alike), dro, validation(config, corpora, alike.domains,
                                                                                 made.context), hooks=(dro.hook,))
    return account(config, out, base.shares, history, {"reference": reference, "proxy": proxy})


def trained(config: Config, folder: Path, made: ModelConfig, batches: Stream, objective: Objective,
            validate: Callable[[Transformer], Metrics], hooks: tuple[Hook, ...] = ()) -> State:
    """One of the two models."""
    folder.mkdir(exist_ok=True)
    return train(Transformer(made, seed=config.seed), config, folder, name=folder.name, stream=batches,
                 objective=objective, validate=validate, extra=hooks)


def opened(path: Path, steps: int, domains: int) -> np.ndarray:
    """The weights before each step, as a file that keeps what was written when the process is killed."""
    if path.is_file() and np.load(path, mmap_mode="r").shape == (steps + 1, 2, domains):
        return open_memmap(path, mode="r+")
    history = open_memmap(path, mode="w+", dtype=np.float64, shape=(steps + 1, 2, domains))
    history[0, 0] = 1 / domains
    history.flush()
    return history


def account(config: Config, out: Path, base: np.ndarray, history: np.ndarray, states: dict[str, State]) -> dict:
    """Write `mixture.json` and say which domains gained."""
    names, weights = list(config.folders), history[1:, 0].mean(axis=0)
    write_atomic(out / MIXTURE, json.dumps({"weights": dict(zip(names, weights.tolist(), strict=True)),
                                            "base": dict(zip(names, base.tolist(), strict=True)),
                                            "last": dict(zip(names, history[-1, 0].tolist(), strict=True))}, indent=1))
    for name, before, now in zip(names, base, weights, strict=True):
        say(f"  doremi: {name} {before:.1%} -> {now:.1%}")
    losses = {f"{role}/{name}": value for role, state in states.items() for name, value in state.best.items()
              if name.startswith("val_loss")}
    return {f"weight/{name}": float(weight) for name, weight in zip(names, weights, strict=True)} | losses
