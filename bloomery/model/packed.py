"""A model for decoding: the same modules, with bfloat16 weights laid out once as the CPU's matrix products want them.

A product of one row with a plain weight rearranges the whole weight first: 0.5 ms of (16384, 512), against 0.2 ms of
the same weight rearranged beforehand, and still 1.2 times at 32 rows.  Norms and the embedding are those of the model
itself.  The head keeps its plain weight beside the packed one: a tied one is looked up, any is read in slices where
log-probabilities of given tokens are wanted.  Whoever needs the other plain weights no more lets the model go.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from bloomery.core.kernels import kernel
from bloomery.model.attention import Attention, Memory
from bloomery.model.cache import Cache
from bloomery.model.linear import Linear, rounded
from bloomery.model.nf4 import NF4Linear
from bloomery.model.norms import RMSNorm
from bloomery.model.positions import rope
from bloomery.model.transformer import Transformer

ROWS = 32               # rows the layout is made for; 1 and 64 run as fast with it
LOOKED_UP = ("embedding", "places")


class Stamped(Protocol):
    """A layer made from another, and which state of it: renewed only when that has changed."""

    stamp: tuple


class PackedLinear(nn.Module):
    """x (N, in) -> (N, out) in bfloat16 without a gradient."""

    def __init__(self, linear: Linear, *, keep: bool = False):
        super().__init__()
        self.stamp, self.plain = stamp(linear), linear if keep else None
        self.product = torch.ops.mkldnn._linear_pointwise.default
        weight = linear.compute_weight(torch.bfloat16).contiguous()
        self.register_buffer("packed", torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), persistent=False)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().bfloat16(), persistent=False)
        if not keep:
            linear._shadow = None                       # made for this; training makes its own again

    @property
    def weight(self) -> Tensor:
        """The plain weight (out, in), where it is kept."""
        return self.plain.weight

    def compute_weight(self, dtype: torch.dtype) -> Tensor:
        return self.plain.compute_weight(dtype)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        if rows <= 2 * ROWS:
            return self.product(x, self.packed, self.bias, "none", [], "")
        return self.product(rounded(x), self.packed, self.bias, "none", [], "")[:rows]


class PackedAttention(Attention):
    """Attention that leaves turning, keeping and attending to one kernel, where a cache is fed one token a row."""

    def forward(self, x: Tensor, cos: Tensor | None, sin: Tensor | None, memory: Memory, layer: int) -> Tensor:
        if not (isinstance(memory, Cache) and memory.single and self.turn is rope and not self.qk_norm):
            return super().forward(x, cos, sin, memory, layer)
        qkv = self.qkv(x).view(len(x), -1, self.head_width)                              # (N, H + 2K, E)
        return self.output(memory.attend_turned(layer, qkv, cos, sin, self.scoring).flatten(1))


class PackedNorm(nn.Module):
    """RMSNorm (N, D) -> (N, D) in bfloat16 by a kernel; the weight is the norm's own."""

    def __init__(self, norm: RMSNorm, kernel: Callable[[Tensor, Tensor, float], Tensor]):
        super().__init__()
        self.norm, self.kernel = norm, kernel

    def forward(self, x: Tensor) -> Tensor:
        fits = x.dim() == 2 and x.dtype == torch.float32
        return self.kernel(x, self.norm.weight, self.norm.eps) if fits else self.norm(x)


def stamp(linear: Linear) -> tuple:
    """What changes whenever a weight does, or what is folded into it: also when an adapter is switched on or off."""
    return getattr(linear, "active", None), *((weight._version, weight.data_ptr()) for weight in linear.parameters())


def packs(model: Transformer) -> bool:
    """Whether this model's products can be had from packed weights: they are plain, and no hooks act beside them."""
    return (model.compute == torch.bfloat16 and isinstance(model.head, Linear)
            and model.head.weight.device.type == "cpu"
            and not any(module._forward_hooks or module._forward_pre_hooks or isinstance(module, NF4Linear)
                        for module in model.modules())
            and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"))


def made(name: str, module: nn.Module) -> nn.Module:
    """What stands for a module in the twin: itself, unless another gives the same faster."""
    if isinstance(module, Linear):
        return PackedLinear(module, keep=name == "head")
    if type(module) is RMSNorm and (found := kernel("model/norm")):
        return PackedNorm(module, found.rms_norm)
    return module


def packed(model: Transformer, before: Transformer | None = None) -> Transformer:
    """The model with packed weights, or itself where that cannot be.

    `before` is what an earlier call made of the same modules: what has not changed since is taken from it.
    """
    if not packs(model):
        return model
    with torch.device("meta"):
        twin = Transformer(model.config, seed=None, compute=model.compute)
        for layer, block in enumerate(twin.blocks):
            block.attention = PackedAttention(model.config, layer)
    for name, module in model.named_modules():
        if name in LOOKED_UP or not list(module.parameters(recurse=False)):
            continue
        earlier = before.get_submodule(name) if before is not None else None
        same = isinstance(module, Linear) and isinstance(earlier, PackedLinear) and earlier.stamp == stamp(module)
        twin.set_submodule(name, earlier if same else made(name, module))
    for name in LOOKED_UP:
        if hasattr(model, name):
            setattr(twin, name, getattr(model, name))
    return twin.eval() if not model.training else twin
