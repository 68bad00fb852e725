"""Optimizers for a model: AdamW or SGD for everything, Muon (`muon.py`) for hidden matrices with AdamW for the rest, or
AdamW with 8-bit moments (`paged.py`) for all but small weights.

    p <- p (1 - lr wd) - lr m_hat / (sqrt(v_hat) + eps)

is AdamW (Loshchilov & Hutter 2019); torch's fused kernel does it.  Matrices decay, vectors (norms, biases) do not.
State is saved and restored by parameter name.
"""

from collections.abc import Iterable, Set
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bloomery.core.config import Fixed
from bloomery.core.errors import InputError
from bloomery.model.lora import lora_layers
from bloomery.model.token_rows import learned_rows
from bloomery.model.transformer import Transformer
from bloomery.train.muon import Iteration, Muon
from bloomery.train.paged import MOMENTS, SMALLEST, AdamW8bit
from bloomery.train.schedule import ScheduleConfig

DECAY = 0.1


class OptimizerConfig(ScheduleConfig):
    """The optimizer and its schedule."""

    name: Annotated[Literal["adamw", "muon", "sgd", "adamw8bit"], Fixed()] = Field(
        "adamw", description="muon: hidden matrices by Muon, the rest by AdamW; adamw8bit: moments in 8 bits")
    weight_decay: float | None = Field(None, ge=0, description="decay of matrices; vectors never decay; default 0.1, "
                                                               "and none where only some weights learn")
    decay_embeddings: bool = Field(True, description="whether embedding and head decay as other matrices do")
    embedding_lr: float = Field(1.0, gt=0, description="learning rate of embedding and head as a multiple of lr")
    beta1: float = Field(0.9, ge=0, lt=1, description="memory of the gradient")
    beta2: float = Field(0.95, ge=0, lt=1, description="memory of its square")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    momentum: float = Field(0.95, ge=0, lt=1, description="memory of the gradient in muon and sgd, after Nesterov")
    rounds: int = Field(3, gt=0, description="Newton-Schulz iterations in muon")
    iteration: Iteration = Field("polar", description="their coefficients; quintic needs 5 rounds")
    split: bool = Field(True, description="muon: q, k, v and gate, up as matrices of their own")
    paged: bool = Field(False, description="adamw8bit: moments wait in host memory (with a GPU)")
    clip: float | None = Field(1.0, gt=0, description="largest global gradient norm; leave out for none")


def optimizers(model: Transformer, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Optimizers that together hold every trainable weight once: the one asked for, then AdamW for what it leaves."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    config = settled(config, whole=len(trainable) == len([*model.parameters()]))
    edges = {learned_rows(side)[0] for side in (model.embedding, model.head)}
    if config.name == "sgd":
        return [sgd(trainable, config, edges)]
    taken: set[Tensor] = set()
    if config.name == "muon":
        taken = {p for p in model.blocks.parameters() if p.dim() == 2 and p.requires_grad}
    elif config.name == "adamw8bit":
        taken = {p for p in trainable if p.numel() >= SMALLEST}
    first, rest = ([p for p in trainable if (p in taken) is mine] for mine in (True, False))
    made: list[torch.optim.Optimizer] = []
    if first and config.name == "muon":
        made.append(Muon(first, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay,
                         rounds=config.rounds, dtype=model.compute, iteration=config.iteration,
                         rows=stacked(model) if config.split else None))
    elif first:
        made.append(AdamW8bit(groups(first, config, edges), lr=config.lr, betas=(config.beta1, config.beta2),
                              eps=config.eps, paged=config.paged))
    return [*made, adamw(rest, config, edges)] if rest else made


def settled(config: OptimizerConfig, *, whole: bool) -> OptimizerConfig:
    """The options with their decay, whether all weights learn or only some.

    An adapter's weights are a change, and to pull it to zero is to pull the model to its base.
    """
    return config if config.weight_decay is not None else \
        config.model_copy(update={"weight_decay": DECAY if whole else 0.0})


def adamw(parameters: Iterable[Tensor], config: OptimizerConfig, edges: Set[Tensor] = frozenset()) -> torch.optim.AdamW:
    """AdamW that decays weights with two dimensions or more."""
    return torch.optim.AdamW(groups(parameters, config, edges), lr=config.lr, betas=(config.beta1, config.beta2),
                             eps=config.eps, fused=True)


def sgd(parameters: Iterable[Tensor], config: OptimizerConfig, edges: Set[Tensor] = frozenset()) -> torch.optim.SGD:
    """g <- g + wd p;  m <- mu m + g;  p <- p - lr (g + mu m): momentum with Nesterov's step (Sutskever et al. 2013)."""
    return torch.optim.SGD(groups(parameters, config, edges), lr=config.lr, momentum=config.momentum,
                           nesterov=config.momentum > 0, fused=True)


def groups(parameters: Iterable[Tensor], config: OptimizerConfig, edges: Set[Tensor]) -> list[dict]:
    """Weights that are treated alike: whether they decay, their share of the rate, and the mesh they are split over.

    `edges` are embedding and head.  A fused kernel takes no mixture of whole and split tensors, hence the mesh.
    """
    alike: dict[tuple, list[Tensor]] = {}
    for p in parameters:
        edge = p in edges
        decays = p.dim() >= 2 and (config.decay_embeddings or not edge)
        decay, scale = config.weight_decay or 0.0 if decays else 0.0, config.embedding_lr if edge else 1.0
        alike.setdefault((decay, scale, getattr(p, "device_mesh", None)), []).append(p)
    return [{"params": same, "weight_decay": decay, "scale": scale} for (decay, scale, _), same in alike.items()]


def stacked(model: Transformer) -> dict[Tensor, tuple[int, ...]]:
    """Rows of each matrix that lies in one parameter with others: q, k, v and gate, up, and the A of their LoRA."""
    c = model.config
    rows = {"qkv": (c.heads * c.head_width, c.kv_heads * c.head_width, c.kv_heads * c.head_width),
            "gate_up": (c.hidden, c.hidden)}
    layers = ((name.rpartition(".")[2], layer) for name, layer in model.named_modules())
    found = {layer.weight: rows[name] for name, layer in layers if name in rows and layer.weight.requires_grad}
    adapters = [layer.adapter(name) for layer in lora_layers(model).values() for name in layer.adapters]
    return found | {adapter.a: tuple(part.rank for part in adapter.parts) for adapter in adapters}


def clip_gradients(parameters: list[Tensor], limit: float | None) -> float:
    """Scale all gradients by min(1, limit / (norm + 1e-6)); the global L2 norm before clipping.

    Pascanu et al. 2013. A norm that is not finite scales nothing: what then happens is the guard's business.
    Gradients split over processes count once, those every process has count once too.
    """
    if limit is not None and limit <= 0:
        raise ValueError(f"clip must be > 0, got {limit}")
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = float(global_norm(gradients))
    if limit is not None and limit - 1e-6 < norm < float("inf"):
        torch._foreach_mul_([own(g) for g in gradients], limit / (norm + 1e-6))
    return norm


def global_norm(gradients: list[Tensor]) -> Tensor:
    """The L2 norm of all gradients together, in fp32 at least; one exchange for each way of being split."""
    alike: dict[object, list[Tensor]] = {}
    for g in gradients:
        alike.setdefault((g.device_mesh, g.placements) if hasattr(g, "device_mesh") else None, []).append(g)
    found = []
    for split, same in alike.items():
        norms = torch.stack([g.norm(dtype=torch.promote_types(g.dtype, torch.float32)) for g in map(own, same)])
        found.append(norms if split is None else joined(norms, *split))
    return torch.cat(found).norm()


def joined(norms: Tensor, mesh: object, placements: tuple) -> Tensor:
    """Norms of tensors of which every process of `mesh` has seen its own part."""
    squares = norms.square()
    for dimension, placement in enumerate(placements):
        if placement.is_partial():
            raise ValueError("a gradient that is not yet summed over processes has no norm")
        if placement.is_shard():
            torch.distributed.all_reduce(squares, group=mesh.get_group(dimension))
    return squares.sqrt()


def own(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def moments(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Optimizer state under parameter names: `<name>.exp_avg`, `<name>.momentum`, ..."""
    names = {p: name for name, p in model.named_parameters()}
    return {f"{names[p]}.{key}": value for optimizer in optimizers for p in optimizer.state
            for key, value in optimizer.state[p].items() if value is not None}


def restore_moments(model: nn.Module, optimizers: list[torch.optim.Optimizer], saved: dict[str, Tensor]) -> None:
    """Put saved moments back by name; `InputError` lists what does not match."""
    names = {p: name for name, p in model.named_parameters()}
    wanted = {f"{names[p]}.{key}": (optimizer, p, key) for optimizer in optimizers for group in optimizer.param_groups
              for p in group["params"] for key in kept(optimizer, group)}
    missing, extra = sorted(set(wanted) - set(saved)), sorted(set(saved) - set(wanted))
    if missing or extra:
        raise InputError("the optimizer state does not fit the model",
                         why=f"missing {missing[:5]}, unexpected {extra[:5]}")
    for name, (optimizer, p, key) in wanted.items():
        optimizer.state[p][key] = saved[name].to(p.device, copy=True)


def kept(optimizer: torch.optim.Optimizer, group: dict) -> tuple[str, ...]:
    """What an optimizer remembers of every weight of a group; SGD without momentum, nothing."""
    return () if type(optimizer) is torch.optim.SGD and not group["momentum"] else KEPT[type(optimizer)]


KEPT = {torch.optim.AdamW: ("exp_avg", "exp_avg_sq", "step"), AdamW8bit: (*MOMENTS, "step"), Muon: ("momentum",),
        torch.optim.SGD: ("momentum_buffer",)}
