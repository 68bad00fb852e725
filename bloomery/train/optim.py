"""Optimizers for a model: AdamW for everything, or Muon (`muon.py`) for hidden matrices and AdamW for the rest.

    p <- p (1 - lr wd) - lr m_hat / (sqrt(v_hat) + eps)

is AdamW (Loshchilov & Hutter 2019); torch's fused kernel does it.  Matrices decay, vectors (norms) do not.  State is
fp32 and is saved and restored by parameter name.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bloomery.core.config import Settings
from bloomery.core.errors import InputError
from bloomery.model.transformer import Transformer
from bloomery.train.muon import Muon


class OptimizerConfig(Settings):
    """The optimizer and its schedule."""

    name: Literal["adamw", "muon"] = Field("adamw", description="muon: hidden matrices by Muon, the rest by AdamW")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps spent warming up")
    floor: float = Field(0.1, ge=0, le=1, description="final learning rate as a share of the peak")
    weight_decay: float = Field(0.1, ge=0, description="decay of matrices; vectors never decay")
    beta1: float = Field(0.9, ge=0, lt=1, description="memory of the gradient")
    beta2: float = Field(0.95, ge=0, lt=1, description="memory of its square")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    clip: float | None = Field(1.0, gt=0, description="largest global gradient norm; leave out for none")


def optimizers(model: Transformer, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Optimizers that together hold every trainable weight once: AdamW, after Muon for hidden matrices if asked."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    hidden = [p for name, p in trainable.items() if p.dim() == 2 and name.startswith("blocks.")]
    if config.name == "adamw" or not hidden:
        return [adamw(list(trainable.values()), config)]
    rest = [p for name, p in trainable.items() if not (p.dim() == 2 and name.startswith("blocks."))]
    muon = Muon(hidden, lr=config.lr, weight_decay=config.weight_decay, dtype=model.compute)
    return [muon, adamw(rest, config)] if rest else [muon]


def adamw(parameters: list[Tensor], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW that decays weights with two dimensions or more."""
    groups = [{"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
              {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=(config.beta1, config.beta2),
                             eps=config.eps, fused=True)


def clip_gradients(parameters: list[Tensor], limit: float | None) -> float:
    """Scale all gradients by min(1, limit / (norm + 1e-6)); the global L2 norm before clipping.

    Pascanu et al. 2013. Raises `FloatingPointError` when the norm is not finite, before any weight is touched.
    """
    if limit is not None and limit <= 0:
        raise ValueError(f"clip must be > 0, got {limit}")
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = float(torch.stack([g.norm(dtype=torch.promote_types(g.dtype, torch.float32)) for g in gradients]).norm())
    if not norm < float("inf"):
        raise FloatingPointError(f"the gradient norm is {norm}")
    if limit is not None and norm > limit - 1e-6:
        for g in gradients:
            g.mul_(limit / (norm + 1e-6))
    return norm


KEPT = {torch.optim.AdamW: ("exp_avg", "exp_avg_sq", "step"), Muon: ("momentum",)}


def moments(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Optimizer state under parameter names: `<name>.exp_avg`, `<name>.momentum`, ..."""
    names = {p: name for name, p in model.named_parameters()}
    return {f"{names[p]}.{key}": value for optimizer in optimizers for p in optimizer.state
            for key, value in optimizer.state[p].items()}


def restore_moments(model: nn.Module, optimizers: list[torch.optim.Optimizer], saved: dict[str, Tensor]) -> None:
    """Put saved moments back by name; `InputError` lists what does not match."""
    names = {p: name for name, p in model.named_parameters()}
    wanted = {f"{names[p]}.{key}": (optimizer, p, key) for optimizer in optimizers for group in optimizer.param_groups
              for p in group["params"] for key in KEPT[type(optimizer)]}
    missing, extra = sorted(set(wanted) - set(saved)), sorted(set(saved) - set(wanted))
    if missing or extra:
        raise InputError("the optimizer state does not fit the model",
                         why=f"missing {missing[:5]}, unexpected {extra[:5]}")
    for name, (optimizer, p, key) in wanted.items():
        optimizer.state[p][key] = saved[name].clone()
