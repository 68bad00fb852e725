"""AdamW whose moments take two bytes a weight instead of eight (Dettmers et al. 2022), for models that hardly fit.

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2;   p <- p (1 - lr wd) - lr m_hat / (sqrt(v_hat) + eps)

with m and sqrt(v) kept as 8-bit codes, one scale for 256 of them (`model/blockwise.py`), and fp32 in between.  The root
is kept and not v itself: then both span the same seven decades, and a value too small for a code moves its weight by
nothing rather than by m / eps.  `paged` lets the moments wait in pinned host memory (Dettmers et al. 2023).
Left out: moments split over processes, since a block must not cross the border.
"""

import torch
from torch import Tensor

from bloomery.core.metrics import say
from bloomery.model.blockwise import BLOCK, Codes, dynamic_map

SMALLEST = 4096                 # weights with fewer values keep fp32 moments: they cost nothing
PIECE = BLOCK * 2**12           # values in fp32 at once: what a step needs in between does not grow with the matrix


class AdamW8bit(torch.optim.Optimizer):
    """AdamW of fp32 weights; state is `exp_avg` and `exp_avg_root` in bytes, their scales, and `step`."""

    def __init__(self, parameters: list, *, lr: float, betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8,
                 weight_decay: float = 0.1, paged: bool = False):
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        on_gpu = any(p.is_cuda for group in self.param_groups for p in group["params"])
        if paged and not on_gpu:
            say("warning: optimizer.paged does nothing without a GPU: moments are in host memory already")
        self.paged = paged and on_gpu
        self.codes: dict[torch.device, tuple[Codes, Codes]] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step_matrix(p, group)
        if self.paged:
            torch.cuda.synchronize()                            # the copies to the host are under way

    def _step_matrix(self, p: Tensor, group: dict) -> None:
        state = self.state[p]
        if not state:
            for key in ("exp_avg", "exp_avg_root"):
                state[key] = torch.zeros(p.numel(), dtype=torch.uint8, device=p.device)
                state[f"{key}_scale"] = torch.zeros(-(-p.numel() // BLOCK), device=p.device)    # zero times any code
            state["step"] = torch.tensor(0.0)
        if p.device not in self.codes:
            self.codes[p.device] = tuple(Codes(dynamic_map(signed=signed).to(p.device)) for signed in (True, False))
        state["step"] = state["step"].cpu() + 1
        weights, gradient = p.view(-1), p.grad.reshape(-1)
        near = [state[key].to(p.device, non_blocking=True) for key in MOMENTS]
        for start in range(0, len(weights), PIECE):
            piece, blocks = slice(start, start + PIECE), slice(start // BLOCK, (start + PIECE) // BLOCK)
            moments = [x[piece if x.dtype == torch.uint8 else blocks] for x in near]
            adamw8_(weights[piece], gradient[piece], *moments, *self.codes[p.device], int(state["step"]), group)
        for key, made in zip(MOMENTS, near, strict=True) if self.paged else ():
            if not state[key].is_pinned():                      # the first step, here or after a restart
                state[key] = torch.empty_like(made, device="cpu", pin_memory=True)
            state[key].copy_(made, non_blocking=True)


def adamw8_(p: Tensor, g: Tensor, m8: Tensor, m_scale: Tensor, r8: Tensor, r_scale: Tensor, signed: Codes,
            unsigned: Codes, step: int, group: dict) -> None:
    """One step of flat weights p and their moments in place: g is the gradient, r the root of the second moment."""
    beta1, beta2 = group["betas"]
    m = signed.restored(m8, m_scale).lerp_(g, 1 - beta1)
    v = unsigned.restored(r8, r_scale).square_().mul_(beta2).addcmul_(g, g, value=1 - beta2)
    root = v.sqrt_()
    for x, codes, bytes_kept, scale_kept in ((m, signed, m8, m_scale), (root, unsigned, r8, r_scale)):
        made, scale = codes.quantised(x)
        bytes_kept.copy_(made)
        scale_kept.copy_(scale)
    denominator = root.div_((1 - beta2**step) ** 0.5).add_(group["eps"])
    p.mul_(1 - group["lr"] * group["weight_decay"])
    p.addcdiv_(m, denominator, value=-group["lr"] / (1 - beta1**step))


MOMENTS = ("exp_avg", "exp_avg_scale", "exp_avg_root", "exp_avg_root_scale")
