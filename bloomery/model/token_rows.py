"""Rows of embedding and head that learn while all others stay: tokens that a base has never read.

    x_t = e_v and logit_v = h_t . e_v for the tokens v that learn, all others have the rows of the base

What ends a turn is scored by one row of the head, and a base that was not trained on the template's control tokens
gives them no probability, which no change of the blocks can mend.  So an adapter learns their rows outright, as PEFT's
`trainable_token_indices` do: one for both sides where the head is tied.  No gradient of any other row is made.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from bloomery.core.errors import InputError
from bloomery.model.config import ModelConfig
from bloomery.model.hf import FAMILIES, family_of
from bloomery.model.hf_names import their_names
from bloomery.model.linear import Linear, even, plain
from bloomery.model.transformer import Transformer

DEFAULT = "default"             # the name of an adapter nobody has named, PEFT's too
BEFORE, AFTER = "base_model.model.", ".token_adapter.trainable_tokens_delta"


class TokenRows(Linear):
    """An embedding or a head with named sets of rows in the place of its own, of which one or none is active.

    `weight` is that of the layer it takes the place of and never changes.
    """

    def __init__(self, layer: nn.Module):
        with torch.device("meta"):
            super().__init__(layer.in_features, layer.out_features)
        self.weight = layer.weight
        self.adapters: set[str] = set()
        self.active: str | None = None
        self._whole: Tensor | None = None
        self._whole_of: tuple = ()
        self._rows_of: tuple = ()

    def add(self, name: str, ids: Iterable[int]) -> nn.Parameter:
        """Rows (n, D) of these tokens in ascending order, as they are now in the base. They become the active ones."""
        tokens = torch.tensor(sorted(set(ids)), device=self.weight.device)
        if not len(tokens) or not 0 <= int(tokens[0]) <= int(tokens[-1]) < self.out_features:
            raise InputError("these are not tokens of the model", why=f"{tokens.tolist()} of {self.out_features}")
        rows = self.weight.detach()[tokens]
        self.register_buffer(f"{name}_ids", tokens, persistent=False)
        self.register_parameter(f"{name}_rows", nn.Parameter(rows.to(torch.promote_types(rows.dtype, torch.float32))))
        self.adapters.add(name)
        self.active = name
        return self.learned(name)[0]

    def learned(self, name: str) -> tuple[nn.Parameter, Tensor]:
        """The rows (n, D) of that name, and which they are, (n,) ascending."""
        return self._parameters[f"{name}_rows"], self._buffers[f"{name}_ids"]

    @torch.no_grad()
    def compute_weight(self, dtype: torch.dtype) -> Tensor:
        """The whole weight with its learned rows; after a step only those are written anew."""
        if self.active is None:
            return super().compute_weight(dtype)
        rows, ids = self.learned(self.active)
        whole_of = (self.active, dtype, self.weight._version, self.weight.data_ptr())
        if self._whole is None or self._whole_of != whole_of:
            self._whole, self._whole_of, self._rows_of = self.weight.to(dtype, copy=True), whole_of, ()
        if self._rows_of != (rows._version, rows.data_ptr()):
            self._whole[ids], self._rows_of = rows.to(dtype), (rows._version, rows.data_ptr())
        return self._whole

    def forward(self, x: Tensor) -> Tensor:
        if self.active is None:
            return super().forward(x)
        return RowsProduct.apply(x, self.compute_weight(x.dtype), *self.learned(self.active))

    def look_up(self, ids: Tensor) -> Tensor:
        found = super().look_up(ids)
        if self.active is None:
            return found
        rows, own = self.learned(self.active)
        place, here = places(own, ids)
        return torch.where(here[:, None], embedding(place, rows), found)

    def merged(self) -> Linear:
        """A plain layer of the same numbers."""
        return plain(self.compute_weight(torch.promote_types(self.weight.dtype, torch.float32)).clone(), None)


class RowsProduct(torch.autograd.Function):
    """y = x W^T, x (N, D); gradients go to x and to the learned rows of W."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, rows: Tensor, ids: Tensor) -> Tensor:
        wide = even(x)
        ctx.save_for_backward(wide, weight, ids)
        ctx.rows, ctx.dtype = len(x), rows.dtype
        return linear(wide, weight)[:len(x)]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, ids = ctx.saved_tensors
        grad = even(grad)
        dx = (grad @ weight)[:ctx.rows] if ctx.needs_input_grad[0] else None
        return dx, None, (grad[:, ids].mT @ x).to(ctx.dtype) if ctx.needs_input_grad[2] else None, None


def places(own: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Where each of `ids` (N,) stands in `own` (n,) ascending, and whether it does."""
    place = torch.searchsorted(own, ids).clamp(max=len(own) - 1)
    return place, own[place] == ids


def learned_rows(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """What of an embedding or a head may learn: its weight, or some rows and which they are."""
    if isinstance(layer, TokenRows) and layer.active is not None:
        return layer.learned(layer.active)
    return layer.weight, None


def rows_of(model: nn.Module) -> dict[str, TokenRows]:
    """Embedding and head, where rows of them have names; a tied one once."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, TokenRows)}


def attach(model: Transformer, ids: Iterable[int], *, name: str = DEFAULT,
           sides: tuple[str, ...] = ("embedding", "head")) -> Transformer:
    """Let the rows of these tokens learn on both sides of a model, in place; the model. All else stays as it is."""
    for layer in dict.fromkeys(getattr(model, side) for side in sides):
        rows = layer if isinstance(layer, TokenRows) else TokenRows(layer).train(layer.training)
        rows.add(name, ids)
        for side in ("embedding", "head"):
            if getattr(model, side) is layer:
                setattr(model, side, rows)
    return model


# --- PEFT's files -------------------------------------------------------------------------------------------------

def paths(config: ModelConfig) -> dict[str, str]:
    """Where embedding and head are in a folder; a tied head is nowhere."""
    kind = family_of(config)
    sides = ("embedding",) if config.tied else ("embedding", "head")
    return {side: their_names(f"{side}.weight", FAMILIES[kind].names)[0].removesuffix(".weight")
            if kind in FAMILIES else side for side in sides}


def to_file(model: Transformer, name: str) -> tuple[list[int] | dict[str, list[int]] | None, dict[str, Tensor]]:
    """What PEFT's `adapter_config.json` says of the rows of an adapter, None for none, and the tensors beside it."""
    found = {path: getattr(model, side).learned(name) for side, path in paths(model.config).items()
             if name in getattr(getattr(model, side), "adapters", ())}
    said = {path.rpartition(".")[2]: ids.tolist() for path, (_, ids) in found.items()}
    return (next(iter(said.values())) if model.config.tied and said else said or None,
            {f"{BEFORE}{path}{AFTER}": rows for path, (rows, _) in found.items()})


def from_file(model: Transformer, said: list[int] | dict[str, list[int]], tensors: dict[str, Tensor], *,
              name: str) -> None:
    """Give a model the rows of a folder; takes out of `tensors` what is theirs. A list of tokens is of the embedding.

    `InputError` where they do not fit.
    """
    where = paths(model.config)
    named = {"embedding": said} if isinstance(said, list) else {
        side: ids for key, ids in said.items() for side, path in where.items() if f".{path}".endswith(f".{key}")}
    wide = model.config.width
    for side, ids in named.items():
        rows = tensors.pop(f"{BEFORE}{where[side]}{AFTER}", None)
        if rows is None or rows.shape != (len(ids), wide) or len(set(ids)) < len(ids):
            raise InputError("rows of tokens do not fit the model", where=where[side],
                             why="there is none" if rows is None else
                             f"they are {tuple(rows.shape)}, expected ({len(set(ids))}, {wide})")
        attach(model, ids, name=name, sides=(side,))
        with torch.no_grad():
            getattr(model, side).learned(name)[0].copy_(rows[torch.tensor(ids).argsort()])
