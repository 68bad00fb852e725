"""The feed-forward layer: SwiGLU, (silu(x W_gate) * (x W_up)) W_down (Shazeer 2020)."""

from torch import Tensor, nn
from torch.nn.functional import silu

from bloomery.model.linear import Linear


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return silu(gate) * up


class MLP(nn.Module):
    """x (N, D) -> (N, D). `gate` and `up` are one matrix: one product instead of two."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up = Linear(width, 2 * hidden)
        self.down = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)                                          # (N, hidden) each
        return self.down(swiglu(gate, up))
