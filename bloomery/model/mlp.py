"""The feed-forward layer: f(x W_up) W_down, or gated, (f(x W_gate) * (x W_up)) W_down (Shazeer 2020).

GELU is x Phi(x) (Hendrycks & Gimpel 2016), or its tanh form, which GPT-2 was trained with; ReLU^2 is So et al. 2021.
"""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import gelu, relu, silu

from bloomery.model.config import GATED
from bloomery.model.linear import Linear

gelu_tanh = partial(gelu, approximate="tanh")


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)^2."""
    return relu(x).square()


class MLP(nn.Module):
    """x (N, D) -> (N, D). `gate` and `up` are one matrix: one product instead of two."""

    def __init__(self, width: int, hidden: int, activation: str = "swiglu", *, bias: bool = False):
        super().__init__()
        self.gated, self.activation = activation in GATED, ACTIVATIONS[activation]
        if self.gated:
            self.gate_up = Linear(width, 2 * hidden, bias=bias)
        else:
            self.up = Linear(width, hidden, bias=bias)
        self.down = Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if not self.gated:
            return self.down(self.activation(self.up(x)))
        gate, up = self.gate_up(x).chunk(2, -1)                                          # (N, hidden) each
        return self.down(self.activation(gate) * up)


ACTIVATIONS = {"swiglu": silu, "geglu": gelu, "geglu_tanh": gelu_tanh, "gelu": gelu, "gelu_tanh": gelu_tanh,
               "relu": relu, "relu2": relu2}
