"""Weights in eight bits, to decode on a CPU in little memory.

    W ~ s q,    q (out, in) in -127 .. 127,    s = max |W| / 127 over each row, rounded to bfloat16

No weight is off by more than s / 2.  Products are in bfloat16 whatever comes in: torch's kernel is 27 times slower in
fp32.  A model of 88M parameters decodes one row in 9.1 ms on one core, as with packed bfloat16 weights (`packed.py`:
9.3 ms), in half their memory; the kernel is bound by its arithmetic, not by memory.  Many rows go through the weights
spread out again, a block at a time: 32 rows take 42 ms against 27.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from bloomery.core.errors import InputError
from bloomery.model.linear import Linear, rounded
from bloomery.model.transformer import Transformer

FEW = 8                 # rows: the kernel takes four at a time, and beyond this the plain product wins
BLOCK = 2 ** 20         # weights that are spread out at once: they stay in the cache, and no memory is asked for anew
STEP = 16               # inputs the kernel reads at once; it does not check that a row holds a multiple of it


class Int8Linear(nn.Module):
    """x (N, in) -> (N, out) without a gradient; made from a layer's weight (out, in)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        if weight.shape[1] % STEP:
            raise ValueError(f"a layer that reads {weight.shape[1]} numbers, not a multiple of {STEP}, has no kernel")
        weight = weight.detach().float()
        scales = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()     # (out,)
        self.register_buffer("codes", (weight / scales[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.bfloat16)
        if len(x) <= FEW:
            y = torch.ops.aten._weight_int8pack_mm(wide, self.codes, self.scales)
        else:
            wide, blocks = rounded(wide) if len(x) > 64 else wide, self.codes.split(max(1, BLOCK // x.shape[1]))
            y = torch.cat([linear(wide, block.to(wide.dtype)) for block in blocks], 1)[:len(x)].float() * self.scales
        return y.to(x.dtype) if self.bias is None else (y + self.bias).to(x.dtype)

    def look_up(self, ids: Tensor) -> Tensor:
        """Rows of the weight, (N, in) in fp32: a tied head is the embedding too."""
        return self.codes[ids].float() * self.scales[ids, None]

    def compute_weight(self, dtype: torch.dtype) -> Tensor:
        """The whole weight, (out, in), made anew at every call."""
        return (self.codes.float() * self.scales[:, None]).to(dtype)

    @property
    def weight(self) -> Tensor:
        return self.compute_weight(torch.float32)


def quantise(model: Transformer) -> Transformer:
    """Put `Int8Linear` in the place of every linear layer, and return the model; its weights are let go one by one.

    An embedding of its own and learned positions stay: of them a token reads one row.  The model can no longer be
    trained or saved.  Raises `InputError` where it cannot be done, before anything is changed.
    """
    layers = {name: module for name, module in model.named_modules()
              if isinstance(module, Linear) and name not in ("embedding", "places")}
    odd = sorted({layer.in_features for layer in layers.values() if layer.in_features % STEP})
    why = ("this torch has no kernel for them" if not hasattr(torch.ops.aten, "_weight_int8pack_mm") else
           "the model is not on a CPU" if model.embedding.weight.device.type != "cpu" else
           f"layers read {', '.join(map(str, odd))} numbers, and the kernel wants multiples of {STEP}" if odd else "")
    if why:
        raise InputError("a model cannot have int8 weights", why=why, hint="use bfloat16 weights")
    for name, layer in layers.items():
        model.set_submodule(name, Int8Linear(layer.weight, layer.bias))
    if model.config.tied:
        model.embedding = model.head
    return model
