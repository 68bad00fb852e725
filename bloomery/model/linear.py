"""The linear layer: fp32 weights, and matrix products in bfloat16 where the hardware is fast at them.

Autocast casts every weight in every forward pass.  Here a layer keeps a bfloat16 shadow of its weight and renews it
only when the weight has changed, which torch counts in `_version`.  The gradient comes back in fp32, on the one
parameter there is, so that optimizer, clipping and checkpoints never learn about the shadow.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, pad

ROWS = 128              # rows of a low-precision product are rounded up to a multiple of this


def rounded(x: Tensor, rows: int = ROWS) -> Tensor:
    """x (N, D) with zero rows added up to a multiple of `rows`.

    A CPU compiles a low-precision product anew for every shape: 7 ms and a megabyte each.  Flat batches hardly ever
    have the same number of tokens twice, so without this half of a fine-tuning step is compilation.
    """
    missing = -len(x) % rows
    return pad(x, (0, 0, 0, missing)) if missing and x.is_cpu else x


def even(x: Tensor) -> Tensor:
    """Rows rounded up where a CPU would compile the product anew for every number of them."""
    return rounded(x) if x.dtype == torch.bfloat16 else x


class ShadowLinear(torch.autograd.Function):
    """y = x W^T + b from the shadow of W, x (N, in); dW and db are returned in the dtype of W."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, shadow: Tensor, bias: Tensor | None) -> Tensor:
        wide = rounded(x)
        ctx.save_for_backward(wide, shadow)
        ctx.rows, ctx.weight_dtype = len(x), weight.dtype
        return linear(wide, shadow, None if bias is None else bias.to(x.dtype))[:len(x)]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, Tensor | None]:
        x, shadow = ctx.saved_tensors
        grad = rounded(grad)
        dx = (grad @ shadow)[:ctx.rows] if ctx.needs_input_grad[0] else None
        dw = (grad.mT @ x).to(ctx.weight_dtype) if ctx.needs_input_grad[1] else None
        db = grad.sum(0, dtype=ctx.weight_dtype) if ctx.needs_input_grad[3] else None
        return dx, dw, None, db


class Linear(nn.Linear):
    """x (N, in) -> (N, out); `weight` is (out, in) as in Hugging Face folders."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False):
        super().__init__(inputs, outputs, bias=bias)
        self._shadow: Tensor | None = None
        self._shadow_of = (-1, 0)

    def reset_parameters(self) -> None:
        """Nothing: weights are drawn by `init.py` or read from a folder, and no random number is spent here."""

    def compute_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight in `dtype`, renewed only after it has changed; carries no gradient of its own."""
        if self.weight.dtype == dtype:
            return self.weight.detach()
        stamp = (self.weight._version, self.weight.data_ptr())
        if self._shadow is None or self._shadow_of != stamp or self._shadow.dtype != dtype:
            self._shadow, self._shadow_of = self.weight.detach().to(dtype), stamp
        return self._shadow

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype:
            return linear(x, self.weight, self.bias)
        return ShadowLinear.apply(x, self.weight, self.compute_weight(x.dtype), self.bias)

    def look_up(self, ids: Tensor) -> Tensor:
        """Rows of the weight, (N, in): an embedding is the matrix of a head."""
        return embedding(ids, self.weight)


def frozen(tensor: Tensor | None) -> nn.Parameter | None:
    """A parameter that does not learn, on the same memory."""
    return None if tensor is None else nn.Parameter(tensor.detach(), requires_grad=False)


def plain(weight: Tensor, bias: Tensor | None) -> Linear:
    """A frozen layer of these numbers."""
    with torch.device("meta"):
        made = Linear(weight.shape[1], weight.shape[0])
    made.weight, made.bias = frozen(weight), frozen(bias)
    return made
