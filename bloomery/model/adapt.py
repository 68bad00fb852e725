"""Every way of adapting a model, in one table: what learns, and that all else is frozen.

    full       every weight                         lora       a change of low rank beside matrices   (`lora.py`)
    adapter    small networks between layers        qlora      the same beside 4-bit matrices         (`nf4.py`)
    prefix     keys and values in front of text     ia3        scales of keys, values and units       (`ia3.py`)

A weight that is frozen asks for no gradient, so that nobody computes one, and optimizers, averages and checkpoints hold
only what learns.  Plain weights of an adapted model are `merge`'s.
"""

import copy
from collections.abc import Callable, Collection
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from bloomery.core.config import Fixed
from bloomery.core.errors import ConfigError, InputError
from bloomery.model import adapters, ia3, lora, nf4, prefix, token_rows
from bloomery.model.adapters import Bottleneck, BottleneckConfig
from bloomery.model.linear import plain
from bloomery.model.lora import LoraConfig, LoraLinear, change_, lora_layers
from bloomery.model.nf4 import HalfLinear, NF4Linear
from bloomery.model.prefix import PrefixConfig
from bloomery.model.token_rows import TokenRows, rows_of
from bloomery.model.transformer import Transformer, model_weights


class AdaptConfig(LoraConfig, BottleneckConfig, PrefixConfig):
    """How weights are adapted; options of other methods than the one chosen are not looked at."""

    method: Annotated[Literal["full", "lora", "qlora", "adapter", "prefix", "ia3"], Fixed()] = Field(
        "full", description="what learns: full is every weight; the others leave the model's own as they are")
    control_tokens: Annotated[bool, Fixed()] = Field(
        True, description="lora, qlora, adapter: the rows of the template's control tokens learn too")
    double_quantisation: Annotated[bool, Fixed()] = Field(True, description="qlora: scales of 4-bit blocks in 8 bits")


def adapt(model: Transformer, config: AdaptConfig, *, seed: int = 0, control: Collection[int] = ()) -> Transformer:
    """Prepare a model for training, in place: what is to learn asks for a gradient, and nothing else does.

    `control` are tokens that the base may never have read: `WITH_ROWS` methods learn their rows in embedding and head.
    A model that has an adapter beside its weights goes on learning it; `ConfigError` for another method.
    """
    if own := next((method for method, found in BESIDE.items() if found(model)), None):
        return gone_on(model, own, config.method)
    METHODS[config.method](model, config, seed)
    if control and config.control_tokens and config.method in WITH_ROWS:
        token_rows.attach(model, control)
    return model


def text_context(model: Transformer, config: AdaptConfig) -> int:
    """Tokens of text that the model reads once it is adapted."""
    return model.config.context - (config.prefix_tokens if config.method == "prefix" and merges(model) else 0)


def gone_on(model: Transformer, own: str, method: str) -> Transformer:
    if method != own:
        raise ConfigError(f"the model is a base and its {own}", where="adapt.method", why=f"with {method} it could not "
                          "be written: the base is another folder's", hint=f"adapt.method={own} goes on with it")
    model.requires_grad_(False)
    for weight in (*prefix.parts(model).values(), *adapters.parts(model).values()):
        weight.requires_grad_(True)
    return model


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name, a tied head once: all that a checkpoint of a training has to hold."""
    return {name: weight for name, weight in model_weights(model).items() if weight.requires_grad}


def trained_share(model: nn.Module) -> float:
    """The share of the weights that learn; those in 4 bits count as what they were."""
    held = sum(p.numel() for p in model.parameters())
    held += sum(m.in_features * m.out_features for m in model.modules() if isinstance(m, NF4Linear))
    return sum(p.numel() for p in model.parameters() if p.requires_grad) / held


# --- plain weights ------------------------------------------------------------------------------------------------

@torch.no_grad()
def merge(model: Transformer, into: Transformer | None = None) -> Transformer:
    """A model with plain weights that computes what this one does now, sums in fp32; this one stays as it is.

    What is not adapted is shared.  `into` is what an earlier call gave: its weights are renewed, which an engine that
    decodes with it sees.  `InputError` for adapters that are no change of a matrix.
    """
    if into is not None:
        for name, layer in lora_layers(model).items():
            into.get_submodule(name).weight.copy_(layer.folded(layer.active))
        for name, layer in rows_of(model).items():
            into.get_submodule(name).weight.copy_(layer.merged().weight)
        return into
    if any(isinstance(module, ia3.Scale) for module in model.modules()):
        return ia3.merge(copy.deepcopy(model))
    with torch.device("meta"):
        made = type(model)(model.config, seed=None, compute=model.compute)
    own = dict(made.named_modules())
    inside = tuple(f"{name}." for name in lora_layers(model))
    for name, module in model.named_modules():
        if name.startswith(inside) or not (list(module.parameters(recurse=False)) or isinstance(module, NF4Linear)):
            continue
        if name not in own:
            raise InputError("these adapters cannot be merged", where=name, why="they are no change of a matrix",
                             hint="keep the base and the adapter's folder apart")
        made.set_submodule(name, module.merged() if isinstance(module, LoraLinear | TokenRows) else
                           nf4.spread(module) if isinstance(module, NF4Linear) else
                           plain(module.weight.float(), None) if isinstance(module, HalfLinear) else module)
    made.embedding = made.head if model.config.tied else made.embedding
    return made.train(model.training)


def merges(model: Transformer) -> bool:
    """Whether what a model has learned is a change of its weights."""
    return not any(found(model) for found in BESIDE.values())


@torch.no_grad()
def unmerge(merged: Transformer, model: Transformer) -> Transformer:
    """Take the changes that `model` has now out of a merged model's weights, in place; it.

    What is left is the base's weights to a unit in the last place; exactly they are in `model` itself.
    """
    for name, layer in lora_layers(model).items():
        weight = merged.get_submodule(name).weight
        if layer.active is not None:
            wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
            weight.copy_(change_(wide.clone(), layer.adapter(layer.active), -1.0))
    for name, layer in rows_of(model).items():
        merged.get_submodule(name).weight.copy_(layer.weight)
    return merged


# --- the table ----------------------------------------------------------------------------------------------------

def full(model: Transformer, config: AdaptConfig, seed: int) -> Transformer:
    return model.requires_grad_(True)


def qlora(model: Transformer, config: AdaptConfig, seed: int) -> Transformer:
    return lora.attach(nf4.quantise(model, double=config.double_quantisation), config, seed)


Attach = Callable[[Transformer, AdaptConfig, int], Transformer]
METHODS: dict[str, Attach] = {"full": full, "lora": lora.attach, "qlora": qlora, "adapter": adapters.attach,
                              "prefix": prefix.attach, "ia3": ia3.attach}
BESIDE: dict[str, Callable[[Transformer], bool]] = {         # adapters that are no change of weights
    "prefix": lambda model: hasattr(model, "prefix"),
    "adapter": lambda model: any(isinstance(module, Bottleneck) for module in model.modules())}
WITH_ROWS = ("lora", "qlora", "adapter")         # the files of the others have no place for rows
