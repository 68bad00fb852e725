"""The preference stage: dpo and its relatives, and kto, with the reference's log-probabilities made once and kept.

    h = log pi(y|x) - log pi_ref(y|x),      a loss of h for the chosen and the rejected answer (`objectives.py`)

The reference is the model training starts from.  Its log-probabilities are `cached`: made before the first step, in a
file that the hash of model and data names; or they come from the model with its `adapter_off`; a loss that is
reference-free needs none.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bloomery.align import objectives, pairs
from bloomery.align.batches import paired, rated
from bloomery.align.diagnostics import Watch, WatchConfig, warnings
from bloomery.align.objectives import LossConfig, measured
from bloomery.align.pairs import Items, UnusableConfig
from bloomery.align.reference import reference_logps, score_pairs
from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Free, Input
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import read_metrics, say
from bloomery.core.records import Preference, Problem, Rating
from bloomery.data.formats import preferences, ratings
from bloomery.data.splits import spread_out
from bloomery.data.stream import Stream, samples
from bloomery.generate.preview import preview
from bloomery.losses.preference import REFERENCE_FREE, UNPAIRED
from bloomery.model.adapt import AdaptConfig, adapt, merges, text_context, trained_share
from bloomery.model.lora import lora_layers, using
from bloomery.model.store import load_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.train.objective import Metrics, Objective
from bloomery.train.precision import machine
from bloomery.train.samples import Preview
from bloomery.train.session import train
from bloomery.train.state import State
from bloomery.train.tuning import TuningConfig, export, export_adapter, foretold, open_model

SWITCHED = ("lora", "qlora")            # adapters that can be off: what is left is the reference, bit for bit


class LearnConfig(LossConfig, TuningConfig):
    """How to learn from pairs or ratings, wherever they come from."""

    pairs: int = Field(32, gt=0, description="pairs a step, of kto rated answers")
    adapt: AdaptConfig = AdaptConfig()
    reference: Literal["auto", "cached", "adapter_off"] = Field(
        "auto", description="where the reference's log-probabilities come from: made before training and kept, or from "
                            "the model without its adapter; auto: the second where no answer is visited twice")
    reference_cache: Annotated[str | None, Free()] = Field(
        None, description="folder to keep them in, for several runs on one model and data; default: the output")
    watch: WatchConfig = WatchConfig()


class Config(UnusableConfig, LearnConfig):
    """Learn from pairs of answers, or from rated ones."""

    data: Input = Field(description="a file or folder of preferences: `prompt`, `chosen`, `rejected`; for kto of "
                                    "ratings: `prompt`, `completion`, `label`")
    validation: Input | None = Field(None, description="held-out preferences, or ratings, for validation")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ: question = \"prompt\"")
    validation_pairs: int = Field(256, gt=0, description="held-out pairs looked at in each validation")


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """The steps, and one forward pass of the reference over what they visit."""
    return foretold(config, planned, samples=config.pairs, tokens_each=96,
                    passes=1 if config.loss in REFERENCE_FREE else 4 / 3)


# --- learning -----------------------------------------------------------------------------------------------------

def learn(model: Transformer, reference: Transformer | None, items: Items,
          config: LearnConfig, out: Path, *, held_out: Items = (),
          look: Callable[[Transformer], Metrics] | None = None, preview: Preview | None = None) -> State:
    """Train `model` on items already rendered; the trained model is `state.model`, whose adapter is not merged.

    `reference` None is the model as it comes.  `look` adds figures to every validation.
    """
    model.compute, device = machine(config)
    model.to(device)
    visited = samples(0, min(config.steps * config.pairs, len(items)), len(items), config.seed)
    items = [items[i] for i in sorted(visited)]                 # those the steps will visit
    say(f"  {config.loss}: {len(items)} of the {'ratings' if config.loss in UNPAIRED else 'pairs'} will be visited")
    switched = reference is None and config.adapt.method in SWITCHED and merges(model) and not lora_layers(model)
    if switched:
        adapt(model, config.adapt, seed=config.seed)            # of 4-bit weights the reference has 4 bits too
    once, free = config.steps * config.pairs <= len(items), config.loss in REFERENCE_FREE
    off = switched and (config.reference == "adapter_off" or config.reference == "auto" and once)
    origin = model if reference is None else reference
    origin.compute = model.compute
    told, start = torch.zeros(len(items), 2), torch.zeros(len(held_out), 2)
    with using(origin, None) if switched else nullcontext():
        if not (free or off):
            told = reference_logps(origin, items, Path(config.reference_cache or out), config.micro_tokens,
                                   tail=config.tail)
        if held_out and not free:
            start = score_pairs(origin, held_out, config.micro_tokens, tail=config.tail)
    if not switched:
        adapt(model, config.adapt, seed=config.seed)
    if config.adapt.method != "full":
        say(f"  {config.loss}: {config.adapt.method} trains {trained_share(model):.2%} of the weights")

    def validate(model: Transformer) -> Metrics:
        found = look(model) if look else {}
        if not held_out:
            return found
        logp = score_pairs(model, held_out, config.micro_tokens, tail=config.tail)
        return found | {f"val_{name}": value for name, value in measured(config, held_out, logp, start).items()}

    stream, objective = made(config, items, told, objectives.adapter_off if off else objectives.cached)
    return train(model, config, out, name=config.loss, stream=stream, objective=objective, validate=validate,
                 preview=preview)


def made(config: LearnConfig, items: Items, told: Tensor,
         reference: objectives.Reference) -> tuple[Stream, Objective]:
    """Where batches come from and what is minimised, of pairs or of rated answers."""
    how = {"size": config.pairs, "micro_tokens": config.micro_tokens, "seed": config.seed}
    if config.loss in UNPAIRED:
        return rated(items, told, group=config.kl_group, **how), objectives.rating(config, reference)
    return paired(items, told, tail=config.tail, prompts_count=config.nll_on == "all", **how), \
        objectives.preference(config, reference)


# --- the stage ----------------------------------------------------------------------------------------------------

def raise_contradictions(config: Config) -> None:
    """One `ConfigError` for options that exclude each other, before any data is read."""
    method = config.adapt.method
    if config.loss in UNPAIRED and config.pairs < 2:
        raise ConfigError("a step of one answer has no estimate of the KL", where=f"{config.loss}.pairs",
                          why="it is made of answers to other prompts", hint="pairs=2 or more")
    if config.reference == "adapter_off" and method not in SWITCHED:
        raise ConfigError("there is no adapter that could be off", where=f"{config.loss}.reference",
                          why=f"adapt.method is {method}", hint=f"take {' or '.join(SWITCHED)}, or reference=cached")
    if method != "full" and max(config.parallel.shard, config.parallel.tensor) > 1:
        raise ConfigError("an adapted model is not split over ranks", where=f"{config.loss}.parallel",
                          hint="leave out shard and tensor: ranks then hold copies")


def read(source: str, config: Config) -> tuple[list[Preference] | list[Rating], Quarantine]:
    """The preferences of a file, for a loss of single answers its ratings; pairs will do for those too."""
    quarantine = Quarantine()
    if config.loss not in UNPAIRED:
        return preferences(source, quarantine, columns=config.columns), quarantine
    try:
        return ratings(source, quarantine, columns=config.columns), quarantine
    except InputError as error:
        quarantine = Quarantine()
        try:
            found = preferences(source, quarantine, columns=config.columns)
        except InputError:
            raise error from None
    say(f"  {config.loss}: of each pair the chosen answer counts as desirable, the rejected one as not")
    return pairs.as_ratings(found), quarantine


def gathered(config: Config, renderer: Renderer, context: int, out: Path) -> tuple[Items, Items, dict, list]:
    """What is trained on and what is held out, rendered; what became of the data; the records to show answers to."""
    render = pairs.render_ratings if config.loss in UNPAIRED else pairs.render_pairs
    rows, quarantine = read(config.data, config)
    quarantine.write(out)
    pairs.refuse(quarantine, config)
    items, counts = render(rows, renderer, context, where=config.data, policy=config)
    spare = spread_out(read(config.validation, config)[0], config.validation_pairs) if config.validation else []
    held_out = render(spare, renderer, context, where=config.validation)[0] if spare else []
    shared = pairs.shared_prompts(items, held_out)
    say(f"  {config.loss}: {pairs.described(items)}")
    if shared:
        say(f"  warning: {shared} of {len(held_out)} held-out prompts are trained on: how well their answers are told "
            "apart may be remembered")
    if config.loss in UNPAIRED:
        if wrong := pairs.imbalance(items, config.desirable_weight, config.undesirable_weight):
            say(f"  warning: {wrong}")
    elif not config.margin_scale and (known := sum(pair.margin != 0 for pair in items)):
        say(f"  {config.loss}: {known} pairs have a margin, which is not looked at: margin_scale=1 adds it (ODPO)")
    told = {"quarantined": len(quarantine), "shared_prompts": shared}
    return items, held_out, counts | told | pairs.lengths(items), spare or rows


def run(config: Config, out: Path) -> dict:
    """Preference optimisation; exports a Hugging Face folder that chats, and of an adapted model the adapter beside."""
    raise_contradictions(config)
    model, renderer = open_model(config)
    context = text_context(model, config.adapt)
    items, held_out, counts, shown = gathered(config, renderer, context, out)
    watch = watching(config, renderer, shown) if config.watch.prompts else None
    state = learn(model, None, items, config, out, held_out=held_out, look=watch,
                  preview=config.sample_every and preview(config.sample_prompts, renderer, context=context))
    for warning in warnings(read_metrics(out / "metrics.jsonl")):
        say(f"  warning: {warning}")
    tuned = state.model if config.adapt.method == "full" else \
        export_adapter(state.model, renderer, out, base=config.model)
    if tuned:
        export(tuned, renderer, out)
    if watch:
        write_atomic(out / "answers.json", json.dumps(watch.before_and_after(state.model), indent=1,
                                                      ensure_ascii=False))
    return counts | {"tokens": state.tokens, "trained_share": trained_share(state.model)} | state.best


def watching(config: Config, renderer: Renderer, rows: list[Preference] | list[Rating]) -> Watch:
    """What looks at the policy's own answers, beside a copy of the model it starts from."""
    compute, device = machine(config)
    reference = load_model(Path(config.model), compute=compute).to(device)
    problems = [Problem(prompt, "") for prompt in dict.fromkeys(row.prompt for row in rows)]
    return Watch(reference, renderer, problems, config.watch, seed=config.seed)
