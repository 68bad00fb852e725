"""Bottleneck adapters: small networks inside a frozen model (Houlsby et al. 2019, "Parameter-Efficient Transfer
Learning for NLP").

    h + f(h W_down + b_down) W_up + b_up,    W_up = 0 in the beginning, so that nothing changes

on what attention and the feed-forward layer say, before it is added to the residual stream (Houlsby), or on the
feed-forward layer's alone (Pfeiffer et al. 2021).  Norms are trained with them.  The model keeps its layers and their
names: an adapter is a child of the layer it follows.  PEFT has no such method, so the files' names are our own.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bloomery.core.config import Fixed, Settings
from bloomery.core.errors import ConfigError, InputError
from bloomery.model.linear import Linear
from bloomery.model.mlp import ACTIVATIONS
from bloomery.model.norms import Norm
from bloomery.model.token_rows import DEFAULT, rows_of
from bloomery.model.token_rows import attach as attach_rows
from bloomery.model.transformer import Transformer

KIND = "BOTTLENECK"     # of `adapter_config.json`
STD = 0.01              # of W_down: Houlsby et al. 2019, section 2.1


class BottleneckConfig(Settings):
    """Options of bottleneck adapters."""

    bottleneck: Annotated[int | None, Fixed()] = Field(
        None, gt=0, description="adapter: width in the middle; default a sixteenth of the model's")
    placement: Annotated[Literal["houlsby", "pfeiffer"], Fixed()] = Field(
        "houlsby", description="adapter: after attention and feed-forward layer, or after the latter only")


class Bottleneck(nn.Module):
    """h (N, D) -> (N, D) through a few numbers."""

    def __init__(self, width: int, bottleneck: int, *, generator: torch.Generator, activation: str = "gelu"):
        super().__init__()
        self.down, self.up = Linear(width, bottleneck, bias=True), Linear(bottleneck, width, bias=True)
        self.activation = ACTIVATIONS[activation]
        with torch.no_grad():
            self.down.weight.copy_(torch.randn(bottleneck, width, generator=generator) * STD)
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()

    def forward(self, h: Tensor) -> Tensor:
        return h + self.up(self.activation(self.down(h)))


def attach(model: Transformer, config: BottleneckConfig, seed: int) -> Transformer:
    """Freeze a model but for its norms and put adapters into it, in place; the model, which computes what it did."""
    width, device = model.config.width, model.head.weight.device
    narrow = config.bottleneck or max(1, width // 16)
    if narrow >= width:
        raise ConfigError("an adapter is no bottleneck", where="bottleneck", why=f"{narrow} numbers of {width}",
                          hint=f"leave it out for {max(1, width // 16)}")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for layer in followed(model, config.placement):
        layer.adapter = Bottleneck(width, narrow, generator=generator).to(device)
        layer.register_forward_hook(adapted)
    for module in model.modules():
        if isinstance(module, Norm):
            module.requires_grad_(True)
    return model


def adapted(layer: nn.Module, read: tuple, said: Tensor) -> Tensor:
    """Torch calls this after a layer that has an adapter."""
    return layer.adapter(said)


def followed(model: Transformer, placement: str) -> list[nn.Module]:
    """The layers that are followed by an adapter."""
    return [layer for block in model.blocks for layer in PLACEMENTS[placement](block)]


def to_file(model: Transformer) -> tuple[dict, dict[str, Tensor]]:
    """What `adapter_config.json` says, and the tensors beside it."""
    layers = [layer for layer in followed(model, "houlsby") if hasattr(layer, "adapter")]
    said = {"peft_type": KIND, "bottleneck": layers[0].adapter.down.out_features,
            "placement": "houlsby" if len(layers) > len(model.blocks) else "pfeiffer"}
    if rows := rows_of(model):
        said["tokens"] = next(iter(rows.values())).learned(DEFAULT)[1].tolist()
    return said, {name: p.detach() for name, p in parts(model).items()}


def parts(model: Transformer) -> dict[str, nn.Parameter]:
    """What learns beside a frozen model, by name; nothing where there are no adapters."""
    inside = [name for name, module in model.named_modules() if isinstance(module, Bottleneck | Norm)]
    rows = {f"{name}.{DEFAULT}_rows" for name in rows_of(model)}
    return {name: p for name, p in model.named_parameters() if name in rows or name.startswith(tuple(inside))} \
        if any(hasattr(layer, "adapter") for layer in followed(model, "houlsby")) else {}


def from_file(model: Transformer, said: dict, tensors: dict[str, Tensor]) -> Transformer:
    """Give a model the adapters of a folder, in place; the model."""
    attach(model, BottleneckConfig(bottleneck=said["bottleneck"], placement=said["placement"]), 0)
    if said.get("tokens"):
        attach_rows(model, said["tokens"])
    fill(parts(model), tensors)
    return model


@torch.no_grad()
def fill(own: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Copy tensors into parameters of the same names and shapes; `InputError` lists what does not match."""
    problems = [f"missing {name}" for name in sorted(own.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - own.keys())]
    problems += [f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}"
                 for name in sorted(own.keys() & tensors.keys()) if own[name].shape != tensors[name].shape]
    if problems:
        raise InputError("an adapter does not fit the model", why="; ".join(problems[:5]),
                         hint="it was made for another base")
    for name, parameter in own.items():
        parameter.copy_(tensors[name])


PLACEMENTS = {"houlsby": lambda block: (block.attention.output, block.mlp.down),
              "pfeiffer": lambda block: (block.mlp.down,)}
