"""Frozen weights in four bits: QLoRA's base (Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs").

    w ~ s c,    c the nearest of 16 quantiles of a normal distribution, s = max |w| over a block of 64

Two codes a byte, the first in its high half.  The block constants s are quantised again: their mean is taken off and
blocks of 256 become 8-bit codes (`blockwise.py`), which leaves 4 + 8/64 + 32/(64 256) = 4.127 bits a weight.  A product
spreads its weight out into one buffer that all layers of a shape share, forward and once more backward, so that no
plain weight is ever kept: 2.2 ms for (4096, 1024) on one core, beside 9.7 ms of a product with 512 rows.
It saves memory, not time: the quickstart's base in 24 % of its fp32 bytes, embedding included, learns its questions
to 1.909 nats a token held out, as LoRA on fp32 weights does (1.915).
"""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, pad

from bloomery.model.blockwise import Codes, dynamic_map
from bloomery.model.linear import Linear, even, plain
from bloomery.model.transformer import Transformer

BLOCK = 64
PIECE = 2**16           # weights in fp32 at once: they stay in the cache; a GPU gets more, since it counts calls
CODES = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
         -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
         0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Flat x as bytes, (n / 2,) rounded up, and the largest value of each block, (n / 64,) rounded up, in fp32.

    Raises `ValueError` for what is not finite: no code is near it.
    """
    if not x.isfinite().all():
        raise ValueError(f"{int((~x.isfinite()).sum())} of {len(x)} weights are not finite and have no 4-bit code")
    values = torch.tensor(CODES, device=x.device)
    blocks = pad(x.float(), (0, -len(x) % BLOCK)).view(-1, BLOCK)
    largest = blocks.abs().amax(1)
    shares = blocks / largest.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    codes = torch.bucketize(shares, (values[1:] + values[:-1]) / 2, out_int32=True).flatten()[:len(x) + len(x) % 2]
    return (codes[0::2] << 4 | codes[1::2]).to(torch.uint8), largest


def restored(codes: Tensor, largest: Tensor, out: Tensor) -> Tensor:
    """What `quantised` took apart, as nearly as 4 bits tell, written into flat `out`; rounded once, from fp32."""
    step = PIECE << 8 if out.is_cuda else PIECE
    for first in range(0, len(out), step):
        piece, bytes_ = out[first:first + step], codes[first // 2:(first + step) // 2].int()
        shares = pairs(codes.device).index_select(0, bytes_).view(torch.float32)
        scales = largest[first // BLOCK:(first + step) // BLOCK]
        whole = len(piece) // BLOCK * BLOCK
        torch.mul(shares[:whole].view(-1, BLOCK), scales[:whole // BLOCK, None], out=piece[:whole].view(-1, BLOCK))
        if whole < len(piece):
            torch.mul(shares[whole:len(piece)], scales[-1], out=piece[whole:])
    return out


@cache
def pairs(device: torch.device) -> Tensor:
    """The two fp32 values of every byte as one number of 64 bits, (256,): one look-up finds both."""
    values, byte = torch.tensor(CODES), torch.arange(256)
    return torch.stack((values[byte >> 4], values[byte & 15]), 1).view(torch.int64)[:, 0].to(device)


@cache
def constants(device: torch.device) -> Codes:
    """The 8-bit codes of block constants."""
    return Codes(dynamic_map(signed=True).to(device))


class NF4Linear(nn.Module):
    """x (N, in) -> (N, out) from a frozen weight in 4 bits; gradients reach x alone.

    `double`: the block constants are quantised too.  `lent` holds what weights are spread out into, by shape, dtype
    and device: layers of one model share it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, double: bool = True,
                 lent: dict[tuple, Tensor] | None = None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        codes, largest = quantised(weight.detach().flatten())
        self.register_buffer("codes", codes)
        mean = largest.mean() if double else None
        small, scales = constants(weight.device).quantised(largest - mean) if double else (None, None)
        for name, part in {"largest": None if double else largest, "small": small, "scales": scales,
                           "mean": mean}.items():
            self.register_buffer(name, part)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self._lent = {} if lent is None else lent

    def block_constants(self) -> Tensor:
        """The largest value of each block, (n / 64,), from 8 bits unless it was kept."""
        if self.largest is not None:
            return self.largest
        return constants(self.codes.device).restored(self.small, self.scales) + self.mean

    def compute_weight(self, dtype: torch.dtype) -> Tensor:
        """The whole weight (out, in) as 4 bits tell it, made anew: it is the caller's."""
        made = torch.empty(self.out_features, self.in_features, dtype=dtype, device=self.codes.device)
        restored(self.codes, self.block_constants(), made.view(-1))
        return made

    def lent_weight(self, dtype: torch.dtype) -> Tensor:
        """The same in the shared buffer: good until the next layer of this shape asks, so never kept for backward."""
        key = self.out_features, self.in_features, dtype, self.codes.device
        if key not in self._lent:
            self._lent[key] = torch.empty(*key[:2], dtype=dtype, device=key[3])
        restored(self.codes, self.block_constants(), self._lent[key].view(-1))
        return self._lent[key]

    @property
    def weight(self) -> Tensor:
        return self.compute_weight(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return FrozenProduct.apply(x, self)


class FrozenProduct(torch.autograd.Function):
    """y = x W^T + b, keeping nothing: dx = dy W asks the layer for its weight again."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        return linear(even(x), layer.lent_weight(x.dtype), bias)[:len(x)]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return (even(grad) @ ctx.layer.lent_weight(grad.dtype))[:len(grad)], None


class HalfLinear(nn.Module):
    """x (N, in) -> (N, out) from a frozen weight in bfloat16, without a shadow: embedding and head of 4-bit layers."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)

    def compute_weight(self, dtype: torch.dtype) -> Tensor:
        return self.weight.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return linear(even(x), self.compute_weight(x.dtype))[:len(x)]

    def look_up(self, ids: Tensor) -> Tensor:
        return embedding(ids, self.weight)


def quantise(model: Transformer, *, double: bool = True) -> Transformer:
    """Freeze a model and put 4-bit layers in the place of those in its blocks, in place; the model.

    Embedding and head are kept in 16 bits, as in the paper; norms and learned positions stay as they are.  Weights are
    let go one by one.
    """
    model.requires_grad_(False)
    lent: dict[tuple, Tensor] = {}
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Linear) and name.startswith("blocks."):
            model.set_submodule(name, NF4Linear(layer.weight, layer.bias, double=double, lent=lent))
            layer.weight = None
    halves = {layer: HalfLinear(layer.weight) for layer in {model.head, model.embedding}}
    model.head, model.embedding = halves[model.head], halves[model.embedding]
    return model


def spread(layer: NF4Linear) -> Linear:
    """A plain frozen layer of what 4 bits tell of a weight, in fp32: what LoRA is merged into."""
    return plain(layer.weight, layer.bias)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of everything a model holds, each tensor once; buffers that products share are not counted."""
    held = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    return sum(held.values())
