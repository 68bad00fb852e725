"""How weights begin: N(0, 0.02^2), and the matrices that write into the residual stream smaller by sqrt(2 L).

Radford et al. 2019 (GPT-2): each block adds two outputs to the stream, so its variance would grow with depth.  They may
also begin at zero, so that every block begins as the identity (Zhang et al. 2019).
"""

import math

import torch
from torch import nn

STD = 0.02


def residual_std(depth: int, std: float = STD) -> float:
    """Standard deviation of attention and feed-forward output matrices in a model of `depth` blocks."""
    return std / math.sqrt(2 * depth)


@torch.no_grad()
def initialise(model: nn.Module, *, depth: int, seed: int, residual: str = "scaled", norm: float = 1.0) -> None:
    """Draw every weight of `model` from `seed`, in the order of their names: the same numbers on every machine.

    Biases begin at 0 and the weights of norms at `norm`; `residual` is "scaled" or "zero".
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        writes = name.endswith(("output.weight", "down.weight"))
        if name.endswith("bias") or (writes and residual == "zero"):
            weight.zero_()
        elif weight.dim() == 1:
            weight.fill_(norm)
        else:
            weight.copy_(torch.randn(weight.shape, generator=generator) * (residual_std(depth) if writes else STD))
