"""How weights begin: N(0, 0.02^2), and the matrices that write into the residual stream smaller by sqrt(2 L).

Radford et al. 2019 (GPT-2): each block adds two outputs to the stream, so its variance would grow with depth.
"""

import math

import torch
from torch import nn

STD = 0.02


def residual_std(depth: int, std: float = STD) -> float:
    """Standard deviation of attention and feed-forward output matrices in a model of `depth` blocks."""
    return std / math.sqrt(2 * depth)


@torch.no_grad()
def initialise(model: nn.Module, *, depth: int, seed: int) -> None:
    """Draw every weight of `model` from `seed`, in the order of their names: the same numbers on every machine."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        if weight.dim() == 1:
            weight.fill_(1.0)
        else:
            std = residual_std(depth) if name.endswith(("output.weight", "down.weight")) else STD
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)
