"""The extend stage: a model learns to read a longer context than it was trained with, by rotary angles it almost knows.

    pi        positions divided by s = new / old context            Chen et al. 2023: within 1,000 steps
    ntk       the base grows so that the slowest pair is divided by s, the fastest kept        "NTK-aware", bloc97 2023
    yarn      each pair by how often it turns, and a temperature    Peng et al. 2023: about 400 steps
    dynamic   as ntk, by the length at hand; the model's own context stays what it was         emozilla 2023
    base      another base and nothing else                         Xiong et al. 2023: 500,000 (there 4k -> 32k)

Then training goes on at the new context.  The loss is measured at both contexts, of the model as it was and as it is in
the end: what is gained on long text, and what was paid for it on short text.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bloomery.core.config import Fixed, Input
from bloomery.core.errors import InputError
from bloomery.core.metrics import say
from bloomery.model.config import ModelConfig, Rope
from bloomery.model.peft_files import adapter_base
from bloomery.model.rope_scaling import ntk_base
from bloomery.model.store import is_model, load_config, load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.pretrain.corpora import CorpusConfig, copy_tokenizer, drawn, open_corpora, stream, validation, writes
from bloomery.text.tokenizer import load_tokenizer
from bloomery.train.precision import machine
from bloomery.train.session import train


class Config(CorpusConfig):
    """Train on at a longer context."""

    model: Annotated[Input, Fixed()] = Field(
        description="the model to start from, a Hugging Face folder with rotary positions")
    context: Annotated[int, Fixed()] = Field(gt=1, description="tokens the model shall read")
    method: Literal["pi", "ntk", "yarn", "dynamic", "base"] = Field("yarn", description="how its rotary angles change")
    rope_base: float = Field(500_000.0, gt=0, description="the new base, for the method of that name")


def original_context(model: ModelConfig) -> int:
    """The context a model was first trained with, whatever it has been extended to since."""
    divided = model.rope.factor if model.rope.type in ("linear", "ntk") else 1
    return model.rope.original_context or round(model.context / divided)


def stretched(model: ModelConfig, config: Config) -> ModelConfig:
    """The same network for `config.context` tokens; the factor follows from its first context and the new one.

    `InputError` when it has no rotary positions, reads as much already, or was extended by another method.
    """
    method, factor = METHODS[config.method], config.context / original_context(model)
    if not model.rotary:
        raise InputError("the model has no rotary positions", where=config.model,
                         why=f"its positions are {model.positions}: nothing follows for places it has not seen")
    if config.context <= model.context:
        raise InputError("the new context is not longer", where=config.model,
                         why=f"the model reads {model.context} tokens, context is {config.context}",
                         hint="give a larger context")
    changed = method(model, factor, config)
    if model.rope.type not in ("default", changed.get("rope", model.rope).type):
        raise InputError("the model was extended by another method", where=config.model,
                         why=f"its rotary type is {model.rope.type}, {config.method} would replace it",
                         hint="go on with the method it was extended by, or with method=base")
    return ModelConfig(**(dict(model) | {"context": config.context} | changed))


def pi(model: ModelConfig, factor: float, config: Config) -> dict:
    return {"rope": scaled(model, type="linear", factor=factor)}


def ntk(model: ModelConfig, factor: float, config: Config) -> dict:
    """Written as another base, which every reader of the folder understands."""
    return {"rope_base": ntk_base(model.rope_base, model.rotary_width, config.context / model.context)}


def yarn(model: ModelConfig, factor: float, config: Config) -> dict:
    return {"rope": scaled(model, type="yarn", factor=factor, original_context=original_context(model))}


def dynamic(model: ModelConfig, factor: float, config: Config) -> dict:
    """The angles depend on the model's own context, so that is kept: beyond it they stretch with the text."""
    return {"rope": scaled(model, type="dynamic", factor=factor), "context": model.context}


def base(model: ModelConfig, factor: float, config: Config) -> dict:
    return {"rope_base": config.rope_base}


def scaled(model: ModelConfig, **changed: object) -> Rope:
    return Rope(**(dict(model.rope) | changed))


METHODS: dict[str, Callable[[ModelConfig, float, Config], dict]] = {
    "pi": pi, "ntk": ntk, "yarn": yarn, "dynamic": dynamic, "base": base}


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """What training at the new context costs, as far as the model is known."""
    model = (planned or {}).get(config.model, {}).get("model")
    if model is None and not is_model(Path(config.model)):
        return {}
    made = stretched(model or load_config(Path(config.model)), config)
    tokens = config.steps * config.rows_a_step(config.context) * config.context
    return {"model": made, "parameters": made.parameters(), "tokens": tokens,
            "flops": tokens * made.model_copy(update={"context": config.context}).flops_per_token(),
            "memory_gb": 18 * made.parameters() / 1e9 + 1.0}


def run(config: Config, out: Path) -> dict:
    """Stretch the angles, train on, and export a Hugging Face folder whose config.json says so."""
    if base := adapter_base(Path(config.model)):
        raise InputError("an adapter's folder cannot be extended", where=config.model, why=f"it changes {base}",
                         hint="merge it first (bloomery merge), or extend the model it was made for")
    before, tokenizer = load_model(Path(config.model)), load_tokenizer(Path(config.model))
    made, old = stretched(before.config, config), before.config.context
    corpora = open_corpora(config, tokenizer, config.model)
    batches = stream(config, corpora, config.context)
    measures = {context: validation(config, corpora, batches.domains, context) for context in (old, config.context)}
    say(f"  extend: {config.method}, context {old} -> {config.context}, factor {config.context / old:g}")
    before.compute, device = machine(config)
    before.to(device)
    found = {f"{name}_before": value for name, value in at_both(measures, before).items()}
    model = Transformer(made, seed=None)
    model.load_state_dict(before.state_dict())
    state = train(model, config, out, name="extend", stream=batches, objective=config.objective,
                  validate=lambda model: at_both(measures, model), blame=batches.documents,
                  preview=writes(config, tokenizer, config.context))
    settings = json.loads((Path(config.model) / "config.json").read_text(encoding="utf-8"))
    ends = settings.get("eos_token_id")
    save_model(state.model, out, bos=settings.get("bos_token_id"), eos=[ends] if isinstance(ends, int) else ends)
    copy_tokenizer(Path(config.model), out, context=config.context)
    return {"parameters": made.parameters(), "tokens": state.tokens, **drawn(batches, state.step),
            **found, **state.best}


def at_both(measures: dict[int, Callable[[Transformer], dict[str, float]]], model: Transformer) -> dict[str, float]:
    """What is measured at the new context under its own name, and what at the old one as `val_loss@512` and so on."""
    (old, short), (_, long) = measures.items()
    return long(model) | {f"{name}@{old}": value for name, value in short(model).items()}
