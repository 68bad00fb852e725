"""The sft stage: supervised fine-tuning on conversations, only the assistant's words trained.

    loss = -sum_t w_t log p(x_t | x_<t) / sum_t w_t        w_t = 1 where the assistant speaks, its turn-end included

What is drawn is a file or a mixture of tasks (`mixture.py`), what learns every weight or an adapter (`model/adapt.py`),
and what was known may be held on to (`train/retention.py`).  Data in which nothing would be trained is an error before
any step.
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Input
from bloomery.core.errors import ConfigError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import say
from bloomery.core.records import Conversation, unit_hash
from bloomery.data.formats import conversations
from bloomery.data.splits import spread_out
from bloomery.data.tasks import micro_batches
from bloomery.generate.preview import preview
from bloomery.instruct.examples import by_split, packed, rendered_runs
from bloomery.instruct.heldout import parted
from bloomery.instruct.measures import HeldOut, ending, objective, side_by_side, unseen_tasks
from bloomery.instruct.mixture import Mixture, MixtureConfig, pooled
from bloomery.model.adapt import WITH_ROWS, AdaptConfig, adapt, merges, text_context, trained_share
from bloomery.model.store import load_model
from bloomery.model.transformer import Transformer
from bloomery.train.objective import Metrics
from bloomery.train.retention import RetentionConfig, retain
from bloomery.train.session import train
from bloomery.train.tuning import KEPT, TuningConfig, export, export_adapter, foretold, open_model

STOPS = 0.5                     # probability of the turn-end below which a reader is warned
CURVES = 16                     # tasks at most whose training losses are told at every step


class Config(TuningConfig):
    """Fine-tune on conversations."""

    data: Input | None = Field(None, description="a file, folder or hub id of conversations, in any format we know")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ")
    mixture: MixtureConfig | None = Field(None, description="in the place of data: several sources and their rates")
    validation: Input | None = Field(None, description="held-out conversations; default: the data's validation split")
    examples: int = Field(64, gt=0, description="conversations a step")
    validation_examples: int = Field(256, gt=0, description="held-out conversations looked at in each validation")
    held_out_tasks: tuple[str, ...] = Field((), description="tasks that are not trained, only measured; * and ? match")
    held_out_shots: tuple[int, ...] = Field((0, 2), description="examples that stand before one of a held-out task")
    held_out_examples: int = Field(32, gt=0, description="examples looked at of each held-out task")
    train_on: Literal["assistant", "last", "all"] = Field("assistant", description="every turn of the assistant, its "
                                                                                   "last, or all tokens")
    truncation: Literal["drop", "keep_start", "keep_end", "error"] = Field(
        "drop", description="what becomes of a conversation longer than the context")
    adapt: AdaptConfig = AdaptConfig()
    retention: RetentionConfig = RetentionConfig()
    beside_base: int = Field(6, ge=0, description="held-out conversations answered by the base and by the tuned model")
    beside_base_tokens: int = Field(48, gt=0, description="longest of these answers")


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """The steps, at 64 tokens a conversation."""
    return foretold(config, planned, samples=config.examples, tokens_each=64)


def gathered(config: Config, quarantine: Quarantine) -> tuple[list[Conversation], list[Conversation], dict]:
    """The conversations to train on, those to validate on, and the tasks that are held out."""
    pool = pooled(config.mixture, quarantine, seed=config.seed) if config.mixture else \
        conversations(config.data, quarantine, columns=config.columns)
    known, unseen = parted(pool, config.held_out_tasks)
    training, validation = by_split(known)
    validation.sort(key=lambda row: unit_hash(row.id, "validation"))
    if len(training) < len(known):
        say(f"  sft: {len(known) - len(training)} conversations of other splits are not trained on")
    if config.validation:
        validation = conversations(config.validation, quarantine, columns=config.columns)
    return training, spread_out(validation, config.validation_examples), unseen


def raise_contradictions(config: Config) -> None:
    """One `ConfigError` for options that exclude each other, before any data is read."""
    if bool(config.data) == bool(config.mixture):
        raise ConfigError("give data, or a mixture", where="sft.data",
                          why="there are both" if config.data else "there is neither")
    if config.adapt.method != "full" and max(config.parallel.shard, config.parallel.tensor) > 1:
        raise ConfigError("an adapted model is not split over ranks", where="sft.parallel",
                          hint="leave out shard and tensor: ranks then hold copies")
    if config.adapt.method != "full" and config.retention.ewc:
        raise ConfigError("ewc holds weights that are frozen anyway", where="sft.retention.ewc",
                          hint="leave it out, or train all weights")


def tell_ending(probability: float, method: str) -> None:
    told = f"where answers end, the turn ends with a probability of {probability:.3f}"
    if probability > STOPS:
        say(f"  sft: {told}")
    else:
        other = f", or choose adapt.method from {', '.join(WITH_ROWS)}, which learn the template's tokens"
        say(f"  warning: {told} only: train longer{'' if method in (*WITH_ROWS, 'full') else other}")


def run(config: Config, out: Path) -> dict:
    """Fine-tune and export a Hugging Face folder that chats, and of an adapted model the adapter beside it."""
    raise_contradictions(config)
    model, renderer = open_model(config, train=config.train_on)
    method, where = config.adapt.method, config.data or "mixture"
    context = text_context(model, config.adapt)
    quarantine = Quarantine()
    training, validation, unseen = gathered(config, quarantine)
    quarantine.write(out)
    weighted = config.mixture is None or config.mixture.scales_loss
    runs, counts = rendered_runs(training, renderer, context, where=where, truncation=config.truncation,
                                 weighted=weighted)
    mixture = config.mixture and Mixture([training[run.row] for run in runs], config.mixture, seed=config.seed)
    say(f"  sft: {counts['examples']} conversations, {counts['supervised_share']:.0%} of their tokens trained, "
        f"{counts['dropped_examples']} dropped, {counts['truncated_examples']} cut")
    if mixture:
        mixture.describe()
    measured = unseen_tasks(unseen, renderer, context, shots=config.held_out_shots, limit=config.held_out_examples,
                            micro_tokens=config.micro_tokens, seed=config.seed, where=where)
    if validation:
        held_out, _ = rendered_runs(validation, renderer, context, where=config.validation or where, weighted=False)
        measured.insert(0, HeldOut("val_", micro_batches(held_out, config.micro_tokens)))
    kept = retain(config.retention, model, frozen=method in KEPT and merges(model), context=context,
                  micro_tokens=config.micro_tokens, seed=config.seed, task=objective)
    adapt(model, config.adapt, seed=config.seed, control=renderer.control)
    if method != "full":
        say(f"  sft: {method} trains {trained_share(model):.2%} of the weights")

    def validate(model: Transformer) -> Metrics:
        return {name: value for each in (*measured, kept.measure) for name, value in each(model).items()}

    stream = packed(runs, examples=config.examples, micro_tokens=config.micro_tokens, seed=config.seed,
                    order=mixture and (lambda step: mixture.samples(step, config.examples)),
                    tasks=len({run.task for run in runs}) <= CURVES)
    state = train(model, config, out, name="sft", stream=kept.stream(stream), objective=kept.objective,
                  penalty=kept.penalty, validate=validate, epoch=config.examples / len(runs),
                  preview=config.sample_every and preview(config.sample_prompts, renderer, context=context))
    drawn = mixture.drawn(state.step * config.examples) if mixture else {}
    found = {**counts, "quarantined": len(quarantine), "tokens": state.tokens, "trained_share": trained_share(model),
             **state.best, **ending(state.model, runs, renderer.end, config.micro_tokens),
             **({"drawn": {task: count for task, (count, _) in drawn.items()},
                 "epochs": {task: epochs for task, (_, epochs) in drawn.items()}} if drawn else {})}
    if "turn_end_probability" in found:
        tell_ending(found["turn_end_probability"], method)
    tuned = state.model if method == "full" else export_adapter(state.model, renderer, out, base=config.model)
    if tuned:
        export(tuned, renderer, out)
    shown = validation or [row for own in unseen.values() for row in own[:1]]
    if shown and config.beside_base:
        base = load_model(Path(config.model), compute=model.compute).to(state.team.device)
        rows = side_by_side({"base": base, "tuned": tuned or state.model}, shown, renderer, count=config.beside_base,
                            max_tokens=config.beside_base_tokens)
        write_atomic(out / "answers.json", json.dumps(rows, indent=1, ensure_ascii=False))
    return found
