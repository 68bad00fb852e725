"""RMSNorm: x / sqrt(mean(x^2) + eps) * w, no mean, no bias (Zhang & Sennrich 2019).

Statistics are taken in fp32 (wider when x is); the result is cast back before it is multiplied by w, which is the order
Hugging Face checkpoints were trained with.
"""

import torch
from torch import Tensor, nn


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension of x; a zero vector stays zero."""
    if eps <= 0:
        raise ValueError(f"eps must be > 0, got {eps}")
    wide = x if x.dtype == torch.float64 else x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight.to(x.dtype)


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)
