"""Muon (Jordan et al. 2024): momentum made orthogonal, so that every direction of a weight matrix moves equally far.

    m <- mu m + g;   O = NewtonSchulz(g + mu m);   W <- W (1 - lr wd) - lr 0.2 sqrt(max(n, m)) O

The quintic Newton-Schulz iteration drives all singular values towards 1 without a decomposition.  The factor gives
updates the size AdamW's have (Liu et al. 2025, eq. 4), so a learning rate means the same in both.  Matrices of one
shape are stacked and go through one batched product.  For hidden matrices only: embeddings and vectors keep AdamW.
"""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


def orthogonalised(stack: Tensor, *, rounds: int = ROUNDS, dtype: torch.dtype = torch.float32) -> Tensor:
    """Each matrix of (B, n, m) with its singular values pulled to about 1; products run in `dtype`."""
    a, b, c = COEFFICIENTS
    x = stack.to(dtype)
    wide = x.shape[-2] > x.shape[-1]
    x = x.mT if wide else x                                                              # rows <= columns: cheaper
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if wide else x).to(stack.dtype)


class Muon(torch.optim.Optimizer):
    """Matrices only. `dtype` is what the iteration's products run in; momentum and weights stay in fp32."""

    def __init__(self, matrices: list[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.1,
                 dtype: torch.dtype = torch.float32):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for matrices in shapes.values():
                self._step_stack(matrices, group)

    def _step_stack(self, matrices: list[Tensor], group: dict) -> None:
        """One update of all matrices of one shape."""
        for p in matrices:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        kept = [self.state[p]["momentum"] for p in matrices]
        gradients = [p.grad for p in matrices]
        torch._foreach_mul_(kept, group["momentum"])
        torch._foreach_add_(kept, gradients)
        ahead = torch._foreach_add(gradients, kept, alpha=group["momentum"])             # Nesterov
        updates = orthogonalised(torch.stack(ahead), dtype=self.dtype).unbind()
        size = 0.2 * max(matrices[0].shape) ** 0.5
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, updates, alpha=-group["lr"] * size)
