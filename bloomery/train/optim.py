"""AdamW (Loshchilov & Hutter 2019): m and v of the gradient, weights shrunk by lr * decay beside the step.

    p <- p (1 - lr wd) - lr m_hat / (sqrt(v_hat) + eps)

Matrices decay, vectors (norms) do not.  torch's fused kernel does the arithmetic; state is fp32 and is saved and restored
by parameter name.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from bloomery.core.config import Settings
from bloomery.core.errors import InputError


class OptimizerConfig(Settings):
    """AdamW and its schedule."""

    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps spent warming up")
    floor: float = Field(0.1, ge=0, le=1, description="final learning rate as a share of the peak")
    weight_decay: float = Field(0.1, ge=0, description="decay of matrices; vectors never decay")
    beta1: float = Field(0.9, ge=0, lt=1, description="memory of the gradient")
    beta2: float = Field(0.95, ge=0, lt=1, description="memory of its square")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    clip: float | None = Field(1.0, gt=0, description="largest global gradient norm; leave out for none")


def adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """An optimizer over the trainable weights of `model`, decaying those with two dimensions or more."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [{"params": [p for _, p in named if p.dim() >= 2], "weight_decay": config.weight_decay},
              {"params": [p for _, p in named if p.dim() < 2], "weight_decay": 0.0}]
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


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimizer state under parameter names: `<name>.exp_avg`, `<name>.exp_avg_sq`, `<name>.step`."""
    return {f"{name}.{key}": value for name, p in model.named_parameters() if p in optimizer.state
            for key, value in optimizer.state[p].items()}


def restore_moments(model: nn.Module, optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
    """Put saved moments back by name; `InputError` lists what does not match."""
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    keys = ("exp_avg", "exp_avg_sq", "step")
    missing = [f"{name}.{key}" for name in own for key in keys if f"{name}.{key}" not in saved]
    extra = [name for name in saved if name.rpartition(".")[0] not in own]
    if missing or extra:
        raise InputError("the optimizer state does not fit the model", why=f"missing {missing[:5]}, unexpected {extra[:5]}")
    for name, p in own.items():
        optimizer.state[p] = {key: saved[f"{name}.{key}"].clone() for key in keys}
