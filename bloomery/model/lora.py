"""LoRA: a matrix learns a change of low rank beside itself (Hu et al. 2021).

    W = W0 + s B A,     A (r, in), B (out, r),     s = alpha / r, or alpha / sqrt(r) (Kalajdzievski 2023)

W is made once after every optimizer step, in fp32, and rounded as the weights of a plain layer are, so that a forward
pass costs what the plain model's does and training, sampling and the merged model compute the same numbers:

    y = x W^T,    dx = g W,    dA = s (g B)^T x,    dB = s g^T (x A^T)

Nothing is computed for W0.  Matrices that read the same x (q, k and v; gate and up) are one layer here: their A lie
stacked and are one product, each B has its own rows.  With dropout, and on a base that is not a plain layer, the change
is a branch beside the base instead, y = W0 x + s B A drop(x).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from bloomery.core.config import Fixed, Settings
from bloomery.core.errors import ConfigError, InputError
from bloomery.model.config import ModelConfig
from bloomery.model.hf import FAMILIES, family_of
from bloomery.model.hf_names import pieces
from bloomery.model.linear import Linear, ShadowLinear, even, frozen, plain
from bloomery.model.token_rows import DEFAULT, TokenRows
from bloomery.model.transformer import Transformer

ALL = "all-linear"              # every matrix of every block; not the head, as in PEFT


class LoraConfig(Settings):
    """Options of LoRA."""

    rank: Annotated[int, Fixed()] = Field(16, gt=0, description="lora: rank of what a matrix learns")
    alpha: float = Field(32.0, gt=0, description="lora: the change is multiplied by alpha / rank")
    rslora: bool = Field(False, description="lora: by alpha / sqrt(rank) instead")
    dropout: float = Field(0.0, ge=0, lt=1, description="lora: share of a change's inputs that are dropped in training")
    targets: Annotated[tuple[str, ...] | Literal["all-linear"], Fixed()] = Field(
        ALL, description="lora: all-linear, or names of matrices as in the folder, such as q_proj, v_proj")


class Part(NamedTuple):
    """One matrix of a folder within a layer of ours, and the change that it learns."""

    theirs: str                 # "model.layers.0.self_attn.q_proj"
    rows: slice                 # of our layer
    rank: int
    alpha: float
    rslora: bool

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class Adapter(NamedTuple):
    """One named change of one layer: `a` (sum of ranks, in), and a b (rows, rank) for each of its parts."""

    parts: tuple[Part, ...]
    a: nn.Parameter
    b: tuple[nn.Parameter, ...]
    dropout: float

    def each(self, a: Tensor) -> Iterator[tuple[Part, Tensor, Tensor]]:
        """Every part with its rows of `a`, or of whatever stands in its place, and its b."""
        return zip(self.parts, a.split([part.rank for part in self.parts]), self.b, strict=True)


class LoraLinear(Linear):
    """A linear layer and any number of named changes, of which one or none is active.

    `weight` and `bias` are those of the layer it takes the place of.  A layer that is no plain one (4-bit weights)
    becomes `base`, of which only `forward` and `compute_weight` are asked, and `weight` is empty.
    """

    def __init__(self, layer: nn.Module):
        with torch.device("meta"):
            super().__init__(layer.in_features, layer.out_features)
        is_plain = isinstance(layer, Linear)
        device = next((t.device for t in (*layer.parameters(), *layer.buffers())), None)
        self.weight = layer.weight if is_plain else frozen(torch.empty(0, self.in_features, device=device))
        self.bias = layer.bias if is_plain else frozen(layer.bias)
        self.base = None if is_plain else layer
        self.adapters: dict[str, tuple[tuple[Part, ...], float]] = {}
        self.active: str | None = None
        self.folds = is_plain                                   # False: always a branch beside the base
        self._folded: Tensor | None = None
        self._folded_of: tuple = ()

    def add(self, name: str, parts: tuple[Part, ...], *, dropout: float = 0.0) -> Adapter:
        """A change that is none yet: A empty, to be drawn or read, and B zero. It becomes the active one."""
        if name in self.adapters or not name.isidentifier():
            raise InputError(f"an adapter cannot be called {name!r}", why="the name is taken" if name in self.adapters
                             else "a name has letters, digits and _ only")
        ranks = [part.rank for part in parts]
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        where = self.weight.device
        a = nn.Parameter(torch.empty(sum(ranks), self.in_features, dtype=dtype, device=where))
        self.register_parameter(f"{name}_a", a)
        for i, part in enumerate(parts):
            b = torch.zeros(part.rows.stop - part.rows.start, part.rank, dtype=dtype, device=where)
            self.register_parameter(f"{name}_b{i}", nn.Parameter(b))
        self.adapters[name], self.active = (parts, dropout), name
        return self.adapter(name)

    def adapter(self, name: str) -> Adapter:
        parts, dropout = self.adapters[name]
        return Adapter(parts, self._parameters[f"{name}_a"],
                       tuple(self._parameters[f"{name}_b{i}"] for i in range(len(parts))), dropout)

    @torch.no_grad()
    def folded(self, name: str | None) -> Tensor:
        """W0 + s B A of the change of that name, a new tensor in fp32 at least."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        weight = self.base.compute_weight(wide) if self.base is not None else self.weight.to(wide, copy=True)
        return change_(weight, self.adapter(name)) if name is not None else weight

    @torch.no_grad()
    def weight_with(self, name: str | None, dtype: torch.dtype) -> Tensor:
        """The same in `dtype`, of a plain layer made anew only after a weight has changed."""
        if self.base is not None:
            return self.folded(name).to(dtype)
        if name is None:
            return super().compute_weight(dtype)
        adapter = self.adapter(name)
        stamp = (dtype, *((p._version, p.data_ptr()) for p in (self.weight, adapter.a, *adapter.b)))
        if self._folded is None or self._folded_of != stamp:
            self._folded, self._folded_of = self.folded(name).to(dtype), stamp
        return self._folded

    def compute_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight that the layer multiplies by now; carries no gradient of its own."""
        return self.weight_with(self.active, dtype)

    def forward(self, x: Tensor) -> Tensor:
        adapter = None if self.active is None else self.adapter(self.active)
        drops = adapter is not None and adapter.dropout > 0 and self.training and torch.is_grad_enabled()
        if adapter is not None and self.folds and not drops:
            return FoldedLinear.apply(x, self, self.active, adapter.a, *adapter.b)
        if self.base is not None:
            y = self.base(x)
        else:
            y = ShadowLinear.apply(x, self.weight, super().compute_weight(x.dtype), self.bias) \
                if x.dtype != self.weight.dtype else linear(x, self.weight, self.bias)
        return y if adapter is None else branch(x, y, adapter, adapter.dropout if drops else 0.0)

    def merged(self) -> Linear:
        """A plain layer of the same numbers."""
        return plain(self.folded(self.active).to(self.weight.dtype), self.bias)


class FoldedLinear(torch.autograd.Function):
    """y = x W^T + bias with the change folded into W, x (N, in); gradients go to x and the change only."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: LoraLinear, name: str, a: Tensor, *b: Tensor) -> Tensor:
        wide = even(x)
        ctx.save_for_backward(wide, a, *b)
        ctx.layer, ctx.name, ctx.rows = layer, name, len(x)
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        return linear(wide, layer.weight_with(name, x.dtype), bias)[:len(x)]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, a, *b = ctx.saved_tensors                            # torch refuses if one has changed since forward
        grad, parts = even(grad), ctx.layer.adapter(ctx.name).parts
        dx = (grad @ ctx.layer.weight_with(ctx.name, grad.dtype))[:ctx.rows] if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[3:]):
            return dx, *(None for _ in ctx.needs_input_grad[1:])
        inner = (x @ a.to(x.dtype).T).split([part.rank for part in parts], 1)            # (N, rank) each
        slopes = [grad[:, part.rows] for part in parts]                                  # (N, rows) each
        outer = torch.cat([part.scale * (g @ w.to(g.dtype)) for part, g, w in zip(parts, slopes, b, strict=True)], 1)
        db = [part.scale * (g.mT @ h).to(a.dtype) for part, g, h in zip(parts, slopes, inner, strict=True)]
        return dx, None, None, (outer.mT @ x).to(a.dtype), *db


def branch(x: Tensor, y: Tensor, adapter: Adapter, p: float) -> Tensor:
    """y (N, out) of the base with s B A drop(x) added to its rows."""
    rows, x = len(x), even(x)
    inner = linear(dropout(x, p) if p else x, adapter.a.to(x.dtype))                     # (N, sum of ranks)
    y = y.clone()                                               # a result of an autograd function is not written into
    for part, h, b in zip(adapter.parts, inner.split([part.rank for part in adapter.parts], 1), adapter.b, strict=True):
        y[:, part.rows] += part.scale * linear(h, b.to(x.dtype))[:rows]
    return y


def change_(weight: Tensor, adapter: Adapter, sign: float = 1.0) -> Tensor:
    """Add s B A to a weight (out, in) in place, in its dtype."""
    for part, a, b in adapter.each(adapter.a.to(weight.dtype)):
        weight[part.rows].addmm_(b.to(weight.dtype), a, alpha=sign * part.scale)
    return weight


# --- which matrices -----------------------------------------------------------------------------------------------

def matrices(config: ModelConfig, shapes: dict[str, tuple[int, int]]) -> dict[str, list[tuple[str, slice]]]:
    """The matrices of a folder within each layer of ours, and which rows of it they are.

    `shapes` is (out, in) of the layers by our names.
    """
    kind = family_of(config)
    names = FAMILIES[kind].names if kind in FAMILIES else None
    found: dict[str, list[tuple[str, slice]]] = {}
    for piece in pieces(config, {f"{name}.weight": torch.Size(shape) for name, shape in shapes.items()}, names):
        theirs = piece.theirs.removesuffix(".weight")
        found.setdefault(piece.ours.removesuffix(".weight"), []).append((theirs, piece.rows))
    return found


def block_layers(model: Transformer) -> dict[str, nn.Module]:
    """The linear layers of attention and feed-forward, plain or not, by name."""
    return {f"blocks.{i}.{kind}.{name}": layer for i, block in enumerate(model.blocks) for kind in ("attention", "mlp")
            for name, layer in block.get_submodule(kind).named_children() if hasattr(layer, "compute_weight")}


def selected(model: Transformer, targets: tuple[str, ...] | str) -> dict[str, list[tuple[str, slice]]]:
    """The matrices that are named: by the end of their path in the folder or here. `ConfigError` for a name of none."""
    layers = block_layers(model)
    known = matrices(model.config, {name: (layer.out_features, layer.in_features) for name, layer in layers.items()})
    if targets == ALL:
        return known
    wanted = {targets} if isinstance(targets, str) else set(targets)
    unknown = {target for target in wanted if not any(
        ends(path, target) for ours, parts in known.items() for path in (ours, *(theirs for theirs, _ in parts)))}
    if unknown or not wanted:
        names = sorted({theirs.rpartition(".")[2] for parts in known.values() for theirs, _ in parts})
        raise ConfigError("no matrix has that name", where="targets", why=", ".join(sorted(unknown)) or "none is named",
                          hint=f"one of {', '.join(names)}, or {ALL}")
    chosen = {ours: [(theirs, rows) for theirs, rows in parts if any(ends(theirs, t) or ends(ours, t) for t in wanted)]
              for ours, parts in known.items()}
    return {ours: parts for ours, parts in chosen.items() if parts}


def ends(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}")


# --- adapters on a model ------------------------------------------------------------------------------------------

def attach(model: Transformer, config: LoraConfig, seed: int, *, name: str = DEFAULT) -> Transformer:
    """Freeze a model and put an adapter on the chosen matrices, in place; the model, which computes what it did.

    B is zero and A drawn from U(-1/sqrt(in), 1/sqrt(in)), which is PEFT's beginning: the paper has a Gaussian.
    `ConfigError` for a rank above what a matrix can have, before anything is changed.
    """
    chosen, layers = selected(model, config.targets), block_layers(model)
    for ours, parts in chosen.items():
        for theirs, rows in parts:
            largest = min(layers[ours].in_features, rows.stop - rows.start)
            if config.rank > largest:
                raise ConfigError(f"rank {config.rank} is more than a matrix has", where=theirs,
                                  why=f"its own is {largest} at most", hint="a smaller rank, or other targets")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for ours, parts in sorted(chosen.items()):
        layer = adapted(model, ours)
        made = tuple(Part(theirs, rows, config.rank, config.alpha, config.rslora) for theirs, rows in parts)
        adapter = layer.add(name, made, dropout=config.dropout)
        bound = layer.in_features ** -0.5
        with torch.no_grad():
            adapter.a.copy_(torch.empty(adapter.a.shape).uniform_(-bound, bound, generator=generator))
    set_adapter(model, name)                                    # layers that it has not are the base's from now on
    return model


def adapted(model: Transformer, name: str) -> LoraLinear:
    """The layer of that name, which can have changes from now on."""
    layer = model.get_submodule(name)
    if not isinstance(layer, LoraLinear):
        layer = LoraLinear(layer).train(layer.training)
        model.set_submodule(name, layer)
    return layer


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLinear)}


def changed_layers(model: nn.Module) -> list[LoraLinear | TokenRows]:
    """The layers with named changes: matrices, and embedding and head where rows of them learn."""
    return [layer for layer in model.modules() if isinstance(layer, LoraLinear | TokenRows)]


def lora_weights(model: nn.Module, name: str) -> list[nn.Parameter]:
    """All A and B of one adapter."""
    found = [layer.adapter(name) for layer in lora_layers(model).values() if name in layer.adapters]
    return [weight for adapter in found for weight in (adapter.a, *adapter.b)]


def set_adapter(model: nn.Module, name: str | None) -> None:
    """Let this adapter count from now on, or with None the base alone. `InputError` when there is none of that name."""
    layers = changed_layers(model)
    known = {each for layer in layers for each in layer.adapters}
    if name is not None and name not in known:
        raise InputError(f"the model has no adapter {name}", why=f"it has {', '.join(sorted(known)) or 'none'}")
    for layer in layers:
        layer.active = name if name in layer.adapters else None


@contextmanager
def using(model: nn.Module, name: str | None) -> Iterator[None]:
    """Another adapter inside, or with None the base: the reference of a preference loss, exact and without a copy."""
    before = {layer: layer.active for layer in changed_layers(model)}
    try:
        set_adapter(model, name)
        yield
    finally:
        for layer, active_before in before.items():
            layer.active = active_before


@contextmanager
def unfolded(model: nn.Module) -> Iterator[None]:
    """Changes as branches beside the base inside: the definition, to which folded weights are compared."""
    before = {layer: layer.folds for layer in lora_layers(model).values()}
    for layer in before:
        layer.folds = False
    try:
        yield
    finally:
        for layer, folds in before.items():
            layer.folds = folds
