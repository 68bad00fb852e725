"""The fisher stage: how much each weight matters to what a model knows, for elastic weight consolidation.

    F_i = 1/T sum_x (d/d theta_i sum_t log p(y_t | x_<t))^2         T tokens in all; x a text of at most one context

true        y_t drawn from the model at every position of the text.  Draws are independent given the text and scores
            have mean 0, so the square of their sum is, on average, the sum of their squares: the Fisher information of
            one token (Kirkpatrick et al. 2017; the same estimator as in Sophia, Liu et al. 2023, algorithm 2)
empirical   y_t the text itself: a little cheaper, but not the curvature (Kunstner et al. 2019), above all where the
            model fits the text badly

By the token, lambda/2 sum F (theta - theta*)^2 is about lambda times the KL a token from the old model to the new one.
One text goes through at a time: squares are of single examples.  Left out: anything beyond the diagonal.
"""

import json
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bloomery.core.artifacts import check_space, write_atomic
from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import progress, say
from bloomery.core.records import unit_hash
from bloomery.data.batch import Batch, forest, sequence
from bloomery.data.formats import conversations
from bloomery.data.likelihood import trained
from bloomery.data.prebuilt import bin_files
from bloomery.data.shards import SPLITS
from bloomery.data.stream import windows
from bloomery.losses.parallel_ce import linear_logp
from bloomery.losses.retention import add_squares
from bloomery.model.forest import Forest
from bloomery.model.store import is_model, load_config, load_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.text.tokenizer import load_tokenizer
from bloomery.train.precision import Device, Precision, choose, placed
from bloomery.train.retention import ANCHOR, FISHER, shard_of
from bloomery.train.tensor_file import write_tensors


class Config(Settings):
    """Measure what a model's weights matter for."""

    model: Input = Field(description="the model that knows what is to be kept, a Hugging Face folder")
    data: Input = Field(description="what it knows: token shards, or conversations of which the answers count")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ, for conversations")
    kind: Literal["true", "empirical"] = Field("true", description="tokens drawn from the model, or those of the data")
    examples: int = Field(256, gt=0, description="texts of at most one context, chosen by hash")
    template: str = Field("chatml", description="chat template, for conversations")
    precision: Precision = Field("auto", description="bf16, fp32, or auto; squares are added in fp32")
    device: Device = "auto"
    seed: int = Field(0, description="names the texts and the draws")


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """One forward and backward pass over the examples, at a full context each."""
    model = (planned or {}).get(config.model, {}).get("model")
    if model is None and not is_model(Path(config.model)):
        return {}
    model = model or load_config(Path(config.model))
    tokens = config.examples * model.context
    return {"parameters": model.parameters(), "tokens": tokens, "flops": tokens * model.flops_per_token(),
            "memory_gb": 12 * model.parameters() / 1e9 + 1.0}


def texts(config: Config, model: Transformer) -> list[Batch]:
    """The chosen texts, a batch each; `InputError` when there is none."""
    folder, context = Path(config.data), model.config.context
    if (folder / "shards.json").is_file() or any(bin_files(folder, split) for split in SPLITS):
        stream = windows(shard_of(config.data, "train", model), context=context, rows=1, micro_rows=1, seed=config.seed)
        if not (count := stream.domains[0].rows.count):
            raise InputError("nothing to measure on", where=config.data, why=f"it holds less than {context} tokens")
        return [stream(i)[0] for i in range(min(config.examples, count))]
    renderer = Renderer(load_tokenizer(Path(config.model)), config.template)
    found = conversations(config.data, Quarantine(), columns=config.columns)
    rows = sorted(found, key=lambda row: unit_hash(row.id, f"fisher-{config.seed}"))
    rendered = (renderer.conversation(row.messages, tools=row.tools) for row in rows)
    runs = [sequence(r.ids, r.trained) for r in rendered if any(r.trained[1:]) and len(r.ids) <= context + 1]
    if not runs:
        raise InputError("nothing to measure on", where=config.data,
                         why=f"none of {len(rows)} conversations has an answer and fits {context} tokens")
    return [forest([each]) for each in runs[:config.examples]]


def diagonal(model: Transformer, batches: list[Batch], *, kind: str, seed: int = 0) -> dict[str, Tensor]:
    """The diagonal of the Fisher information a token, by parameter name, fp32. Each batch is one example."""
    parameters = dict(model.named_parameters())
    fisher = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    draws, tokens = torch.Generator(model.head.weight.device).manual_seed(seed), 0
    for batch in progress(batches, name=f"fisher ({kind}), texts", total=len(batches)):
        logp = likelihood(model, batch.beside(model), draws if kind == "true" else None)
        scores = torch.autograd.grad(logp.sum(), [*parameters.values()], materialize_grads=True)
        add_squares([*fisher.values()], [score.float() for score in scores])
        tokens += len(logp)
    torch._foreach_div_([*fisher.values()], tokens)
    return fisher


def likelihood(model: Transformer, batch: Batch, draws: torch.Generator | None) -> Tensor:
    """log p at every trained position (M,), of its target, or with `draws` of a token drawn from the model."""
    hidden = model(batch.ids, batch.positions, Forest(batch.segments))
    rows, count = trained(batch)
    targets = batch.targets[rows]
    if draws:
        with torch.no_grad():
            targets = torch.multinomial(model.logits(hidden[rows]).softmax(-1), 1, generator=draws)[:, 0]
    return linear_logp(hidden[rows], model.head.weight, targets, shadow=model.head.compute_weight(hidden.dtype),
                       softcap=model.config.head_softcap)[:count]


def run(config: Config, out: Path) -> dict:
    """Measure, and keep the Fisher information with the weights it was measured at: penalties need both."""
    compute, why = choose(config.precision, device=config.device)
    say(f"  fisher: {why}")
    model = load_model(Path(config.model), compute=compute).to(placed(config.device))
    batches = texts(config, model)
    anchor = {name: p.detach().contiguous() for name, p in model.named_parameters()}
    check_space(out, 2 * sum(weight.nbytes for weight in anchor.values()) + 2**20)
    fisher = diagonal(model, batches, kind=config.kind, seed=config.seed)
    write_tensors(out / FISHER, fisher)
    write_tensors(out / ANCHOR, anchor)
    size = sum(f.numel() for f in fisher.values())
    found = {"kind": config.kind, "texts": len(batches), "tokens": sum(int((b.weights != 0).sum()) for b in batches),
             "mean_fisher": sum(float(f.sum(dtype=torch.float64)) for f in fisher.values()) / size,
             "largest_fisher": max(float(f.max()) for f in fisher.values())}
    write_atomic(out / "fisher.json", json.dumps(found, indent=1))
    return found
