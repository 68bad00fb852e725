"""The preference stage: dpo and its relatives, with the reference's log-probabilities computed once and kept.

    h = log pi(y|x) - log pi_ref(y|x)  for the chosen and the rejected answer
    loss = PAIRWISE[name](h_w, h_l) + nll * -log pi(y_w|x) / |y_w|        (the second term: Pang et al. 2024, RPO)

The reference is the model training starts from.  Its log-probabilities are made once, before the first step, and kept
in `reference.safetensors`, where a stage that goes on after a stop finds them.
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from bloomery.align.pairs import Pair, pair_batch, render_pairs
from bloomery.core.config import Input
from bloomery.core.files import Quarantine
from bloomery.core.metrics import say
from bloomery.data.answers import PreferenceBatch
from bloomery.data.batch import Batch
from bloomery.data.formats import preferences
from bloomery.data.likelihood import answer_logps, score_answers
from bloomery.data.packing import best_fit_decreasing
from bloomery.data.stream import Stream, samples
from bloomery.generate.preview import preview
from bloomery.losses.preference import PAIRWISE
from bloomery.model.transformer import Transformer
from bloomery.train.objective import Metrics, Objective
from bloomery.train.precision import choose
from bloomery.train.session import train
from bloomery.train.tuning import TuningConfig, export, foretold, open_model


class Config(TuningConfig):
    """Learn from pairs of answers."""

    data: Input = Field(description="a file or folder of preferences: `prompt`, `chosen`, `rejected`")
    validation: Input | None = Field(None, description="held-out preferences for validation")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ: question = \"prompt\"")
    loss: Literal["dpo"] = Field("dpo", description="an entry of PAIRWISE")
    beta: float = Field(0.1, gt=0, description="how strongly the policy is tied to the reference")
    nll: float = Field(0.0, ge=0, description="weight of the chosen answer's own nll (RPO), which keeps it likely")
    smoothing: float = Field(0.0, ge=0, lt=0.5, description="chance that a label is flipped (cDPO)")
    pairs: int = Field(32, gt=0, description="pairs a step")
    validation_pairs: int = Field(256, gt=0, description="held-out pairs looked at in each validation")


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """The steps, and one forward pass of the reference over what they visit."""
    return foretold(config, planned, samples=config.pairs, tokens_each=96, passes=4 / 3)


def preference(name: str, *, beta: float, smoothing: float, nll: float = 0.0) -> Objective:
    """The objective: a loss in `PAIRWISE`, plus `nll` times the chosen answers' nll a token, with the usual metrics."""
    def objective(model: Transformer, batch: PreferenceBatch) -> tuple[Tensor, Metrics]:
        logp = answer_logps(model, batch)
        h = logp - batch.reference
        loss = PAIRWISE[name](h[0::2], h[1::2], beta=beta, smoothing=smoothing).sum()
        said = -(logp / batch.lengths)[0::2].sum()
        total = loss + nll * said
        metrics = {"loss": float(total.detach()), "nll_loss": float(said.detach())}
        return total, metrics | pair_metrics(logp.detach(), h.detach(), beta)

    return objective


def pair_metrics(logp: Tensor, h: Tensor, beta: float) -> Metrics:
    """Sums over pairs of TRL's metrics: implicit rewards beta h, their margin, and the absolute log-probabilities."""
    margin = beta * (h[0::2] - h[1::2])
    return {"rewards/chosen": float(beta * h[0::2].sum()), "rewards/rejected": float(beta * h[1::2].sum()),
            "rewards/margins": float(margin.sum()), "rewards/accuracies": float((margin > 0).sum()),
            "logps/chosen": float(logp[0::2].sum()), "logps/rejected": float(logp[1::2].sum())}


def score_pairs(model: Transformer, pairs: list[Pair], micro_tokens: int) -> Tensor:
    """log pi(y|x) of the chosen and the rejected answer of many pairs, (P, 2) in their order."""
    scores = score_answers(model, [p.prompt for p in pairs], [p.answers for p in pairs], micro_tokens=micro_tokens)
    return torch.tensor(scores)


def reference_logps(model: Transformer, pairs: list[Pair], path: Path, micro_tokens: int) -> Tensor:
    """The reference's log-probabilities (P, 2), from `path` when a stopped run has left them there."""
    if path.exists():
        return load_file(path)["logps"]
    logps = score_pairs(model, pairs, micro_tokens)
    temporary = path.with_name(".tmp-" + path.name)
    save_file({"logps": logps}, temporary)
    temporary.replace(path)
    return logps


def paired(pairs: list[Pair], reference: Tensor, *, size: int, micro_tokens: int, seed: int) -> Stream:
    """Each step `size` pairs in the order of `samples`, best-fit into forests of at most `micro_tokens`."""
    def batches(step: int) -> list[Batch]:
        chosen = samples(step, size, len(pairs), seed)
        lengths = [pairs[i].tokens for i in chosen]
        bins = best_fit_decreasing(lengths, max(micro_tokens, *lengths))
        return [pair_batch([pairs[chosen[i]] for i in group], reference[chosen[group]].flatten()) for group in bins]

    return batches


def run(config: Config, out: Path) -> dict:
    """Preference optimisation of all weights; exports a Hugging Face folder that chats."""
    model, renderer = open_model(config)
    context = model.config.context
    quarantine = Quarantine()
    pairs, counts = render_pairs(preferences(config.data, quarantine, columns=config.columns), renderer, context,
                                 where=config.data)
    spare = preferences(config.validation, quarantine, columns=config.columns) if config.validation else []
    held_out, _ = render_pairs(spare[:config.validation_pairs], renderer, context,
                               where=config.validation) if spare else ([], {})
    quarantine.write(out)
    seen = samples(0, min(config.steps * config.pairs, len(pairs)), len(pairs), config.seed)
    pairs = [pairs[i] for i in sorted(seen)]                    # those the steps will visit
    say(f"  {config.loss}: {len(pairs)} of {counts['pairs']} pairs will be visited")
    model.compute = choose(config.precision)[0]
    reference = reference_logps(model, pairs, out / "reference.safetensors", config.micro_tokens)
    start = score_pairs(model, held_out, config.micro_tokens) if held_out else None

    def validate(model: Transformer) -> Metrics:
        if start is None:
            return {}
        logp = score_pairs(model, held_out, config.micro_tokens)
        sums = pair_metrics(logp.flatten(), (logp - start).flatten(), config.beta)
        a_token = logp / torch.tensor([[len(a) for a in pair.answers] for pair in held_out])
        accuracy = float((a_token[:, 0] > a_token[:, 1]).float().mean())
        return {"val_preference_accuracy": accuracy, **{f"val_{k}": v / len(held_out) for k, v in sums.items()}}

    stream = paired(pairs, reference, size=config.pairs, micro_tokens=config.micro_tokens, seed=config.seed)
    objective = preference(config.loss, beta=config.beta, smoothing=config.smoothing, nll=config.nll)
    state = train(model, config, out, name=config.loss, stream=stream, objective=objective, validate=validate,
                  preview=config.sample_every and preview(config.sample_prompts, renderer,
                                                          context=model.config.context))
    export(state.model, renderer, out)
    return {**counts, "quarantined": len(quarantine), "tokens": state.tokens, **state.best}
