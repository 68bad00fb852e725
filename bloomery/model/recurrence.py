"""A recurrence over runs that lie end to end: its cells, who takes part in which step, and one gradient for all steps.

    GRU     h_t = (1 - z) tanh(W x + r (U h)) + z h_{t-1}               Cho et al. 2014
    LSTM    c_t = f c_{t-1} + i tanh(...),  h_t = o tanh(c_t)           Hochreiter & Schmidhuber 1997

Runs go side by side, the longest first, so that the rows of a step are those that have not ended.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from bloomery.model.forest import Segments
from bloomery.model.linear import Linear, even, rounded

GATES = {"gru": 3, "lstm": 4}


class Steps:
    """A linear layer that a recurrence uses at every step: the gradient of its weight is one product over all steps.

    Added up step by step it would be read and written once a token: 512 states in fp32, 4 MB a step.
    """

    def __init__(self, layer: Linear, compute: torch.dtype):
        self.shadow, self.bias = layer.compute_weight(compute), layer.bias
        self.seen: list[tuple[Tensor, Tensor]] = []             # by the graph too: it must not know `Steps`, a cycle
        self.weight = Collected.apply(layer.weight, self.seen) if torch.is_grad_enabled() else layer.weight

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, in) -> (B, out), in the dtype of x; the product runs in the compute dtype."""
        y = Step.apply(x, self.weight, self.shadow, self.seen)
        return y if self.bias is None else y + self.bias


class Collected(torch.autograd.Function):
    """The weight of `Steps`, whose gradient is asked for once all steps have gone backward."""

    @staticmethod
    def forward(ctx, weight: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.seen, ctx.dtype = seen, weight.dtype
        ctx.set_materialize_grads(False)
        return weight.detach()

    @staticmethod
    def backward(ctx, nothing: None) -> tuple[Tensor | None, None]:
        if not ctx.seen:
            return None, None
        slopes, inputs = (torch.cat(parts) for parts in zip(*ctx.seen, strict=True))
        ctx.seen.clear()
        return (rounded(slopes).mT @ rounded(inputs)).to(ctx.dtype), None


class Step(torch.autograd.Function):
    """One use of `Steps`: its own gradient goes to x, and what the weight's needs is kept."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, shadow: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
        narrow = x.to(shadow.dtype)
        ctx.seen, ctx.dtype = seen, x.dtype
        ctx.save_for_backward(narrow, shadow)
        return linear(even(narrow), shadow)[:len(x)].to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        narrow, shadow = ctx.saved_tensors
        grad = grad.to(shadow.dtype)
        ctx.seen.append((grad, narrow))
        return (even(grad) @ shadow)[:len(grad)].to(ctx.dtype), None, None, None


class Cell(nn.Module):
    """One step of a GRU or LSTM whose input products are made beforehand."""

    def __init__(self, kind: str, inputs: int, width: int):
        super().__init__()
        self.kind, gates = kind, GATES[kind]
        self.kept = 2 if kind == "lstm" else 1                  # tensors that are its state
        self.input = Linear(inputs, gates * width, bias=True)
        self.state = Linear(width, gates * width, bias=True)

    def forward(self, x: Tensor, past: tuple[Tensor, ...], state: "Steps | Linear") -> tuple[Tensor, ...]:
        """x (B, gates H) is what the input adds to the gates; the new state, and of an LSTM its cell, (B, H) each."""
        inner = state(past[0])
        if self.kind == "gru":
            (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), inner.chunk(3, -1)
            z = (xz + hz).sigmoid()
            new = (xn + (xr + hr).sigmoid() * hn).tanh()
            return (torch.lerp(new, past[0], z),)
        i, f, g, o = (x + inner).chunk(4, -1)
        cell = f.sigmoid() * past[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell


class Schedule:
    """Runs side by side, longest first: the flat tokens of every step, and of how many rows it is.

    Rows that have ended are in no step, so nothing is padded.  `backward` begins at the end of every run.
    """

    def __init__(self, segments: Segments, *, backward: bool = False):
        start = segments.start.long().cpu()
        lengths = start.diff()
        self.order = lengths.argsort(descending=True, stable=True)
        first = (start[1:] - 1 if backward else start[:-1])[self.order]
        self.counts = [int((lengths > step).sum()) for step in range(int(lengths.max()))]
        self.index = torch.cat([first[:count] + (-step if backward else step)
                                for step, count in enumerate(self.counts)])                # (N,)
        self.back = self.index.argsort()
