"""One model over many processes: a mesh in the configuration, applied from outside to a model that knows nothing of it.

    replicate x shard x tensor = number of ranks

`replicate` copies alone are the exact sum of `replicas.py`.  `shard` splits weights, gradients and moments: torch's
`fully_shard` (FSDP2, Zhao et al. 2023) gathers a block's weights just before they are needed, in the compute dtype, and
adds gradients in fp32; with `replicate` it is hybrid (HSDP).  `tensor` splits every matrix product itself
(`tensor_parallel.py`).  Optimizers see this rank's pieces as plain tensors, so that fused kernels, clipping and
checkpoints need to know only which rows and columns a piece has.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributed import init_device_mesh

from bloomery.core.config import Settings
from bloomery.core.errors import ConfigError
from bloomery.model.transformer import Transformer
from bloomery.train.muon import Muon, muon_update
from bloomery.train.optim import OptimizerConfig, optimizers
from bloomery.train.replicas import Replicated
from bloomery.train.team import Team, portion
from bloomery.train.tensor_parallel import Split, split_tensors

T = TypeVar("T")


class ParallelConfig(Settings):
    """How ranks share a model. 0 and 1 mean not at all; what is left of the ranks holds copies."""

    replicate: int = Field(0, ge=0, description="copies of the model; left out: as many as the ranks allow")
    shard: int = Field(0, ge=0, description="ranks that split the weights, gradients and moments of a copy")
    tensor: int = Field(0, ge=0, description="ranks that split every matrix product of a copy")

    def sizes(self, ranks: int) -> tuple[int, int, int]:
        """Copies, shards, tensor ranks, all at least 1. `ConfigError` unless they make up the ranks there are."""
        shard, tensor = max(self.shard, 1), max(self.tensor, 1)
        replicate = self.replicate or max(ranks // (shard * tensor), 1)
        if replicate * shard * tensor != ranks:
            raise ConfigError(f"the mesh does not fit {ranks} {'ranks' if ranks > 1 else 'rank'}", where="parallel",
                              why=f"replicate {replicate} x shard {shard} x tensor {tensor} = "
                                  f"{replicate * shard * tensor}",
                              hint=f"start {replicate * shard * tensor} ranks, or choose sizes that give {ranks}")
        return replicate, shard, tensor


@dataclass(frozen=True)
class Piece:
    """What a rank holds of one parameter: these rows and, of a matrix, these columns."""

    rows: Tensor                    # (n,) int64
    columns: Tensor | None          # (m,) int64, None for a vector
    owned: bool                     # whether this rank, of those that hold the same, speaks for it

    @property
    def size(self) -> int:
        return len(self.rows) * (1 if self.columns is None else len(self.columns))


class Sharded:
    """How ranks share a step when each holds pieces of the weights; in the place of `Replicated`.

    `held` is a copy of the model whose parameters are this rank's pieces, sharing memory with the distributed ones.
    """

    def __init__(self, model: Transformer, held: Transformer, team: Team, sizes: tuple[int, int, int],
                 splits: dict[str, Split], shapes: dict[str, torch.Size]):
        self.model, self.held, self.team = model, held, team
        self.sizes, self.splits, self.shapes = sizes, splits, shapes
        self.weights = dict(model.named_parameters())
        for name, p in held.named_parameters():
            p.data = local(self.weights[name])
        self.pieces = {name: self.piece(name, team.rank) for name in self.weights}

    def optimizers(self, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
        """Optimizers of this rank's pieces: elementwise ones as they are, Muon by `WholeMatrices`."""
        if config.name == "adamw8bit":
            raise ConfigError("8-bit moments cannot be split over ranks", where="optimizer.name",
                              why="a block of moments that shares a scale would lie on two of them",
                              hint="choose adamw, whose moments are split, or leave out parallel.shard")
        made = optimizers(self.held, config)
        for optimizer in made:
            if isinstance(optimizer, Muon):
                optimizer.whole = {p: self.shapes[name] for name, p in self.held.named_parameters()}
                optimizer.directions = WholeMatrices(self, optimizer)
        return made

    def piece(self, name: str, rank: int) -> Piece:
        """The rows and columns of a parameter that a rank holds, by the arithmetic of `torch.chunk`."""
        shape, split = self.shapes[name], self.splits.get(name)
        copies, shards, tensors = self.sizes
        at, part = divmod(rank, tensors)
        copy, shard = divmod(at, shards)
        rows = torch.arange(shape[0]) if split is None or split.order is None else split.order
        columns = torch.arange(shape[1]) if len(shape) > 1 else None
        if split and split.dim == 0:
            rows = rows.chunk(tensors)[part]
        elif split:
            columns = columns.chunk(tensors)[part]
        chunks = rows.chunk(shards)
        return Piece(chunks[shard] if shard < len(chunks) else rows[:0], columns,
                     owned=copy == 0 and (split is not None or part == 0))

    def whole(self) -> Transformer:
        """The model in one piece, adapters and all, on every rank; all of them call it. Not for split products."""
        made = copy.deepcopy(self.held)
        for name, p in made.named_parameters():
            p.data = self.weights[name].full_tensor().detach()
        return made

    def share(self, count: int) -> range:
        """The micro-batches of a step that are this rank's; ranks that split a product have the same."""
        copies, shards, tensors = self.sizes
        return portion(count, self.team.rank // tensors, copies * shards)

    def collect(self, own: list[T]) -> list[T]:
        return [each for told in self.team.gather(own)[::self.sizes[2]] for each in told]

    def backward(self, share: range, one: Callable[..., None], count: int) -> None:
        """Leave this rank's piece of the step's gradient in `.grad`; `one(i)` runs micro-batch i forward and backward.

        Weights are gathered by all ranks together, so a rank with fewer micro-batches runs one again for nothing.
        """
        copies, shards, _ = self.sizes
        for i in share:
            one(i)
        for _ in range(len(portion(count, 0, copies * shards)) - len(share)):
            one(share[0] if share else 0, counted=False)
        for name, piece in self.held.named_parameters():
            p = self.weights[name]
            piece.grad, p.grad = None if p.grad is None else local(p.grad), None

    def clip(self, limit: float | None) -> float:
        """Scale all pieces of the gradient down to `limit`; the norm of the whole before."""
        gradients = {name: p.grad for name, p in self.held.named_parameters() if p.grad is not None}
        own = [g.double().square().sum() for name, g in gradients.items() if self.pieces[name].owned]
        norm = math.sqrt(math.fsum(self.team.gather(float(torch.stack(own).sum()) if own else 0.0)))
        if limit is not None and limit - 1e-6 < norm < float("inf"):
            torch._foreach_mul_(list(gradients.values()), limit / (norm + 1e-6))
        return norm


class WholeMatrices:
    """Muon's directions for matrices of which every rank has a piece: each rank makes its share of them whole.

    Pieces travel to the rank whose share a matrix is, directions travel back: twice the gradient's bytes over the
    number of ranks, and no product is made twice.
    """

    def __init__(self, ranks: Sharded, muon: Muon):
        self.ranks, self.muon = ranks, muon
        self.names = {p: name for name, p in ranks.held.named_parameters()}
        self.layout = {name: [ranks.piece(name, r) for r in range(ranks.team.size)] for name in ranks.weights}

    def __call__(self, matrices: list[Tensor], ahead: list[Tensor]) -> list[Tensor]:
        team, layouts = self.ranks.team, [self.layout[self.names[p]] for p in matrices]
        shares = [portion(len(matrices), r, team.size) for r in range(team.size)]
        mine, empty = shares[team.rank], ahead[0].new_empty(0)
        here = [[layouts[i][r] for i in mine] for r in range(team.size)]        # what others have of my matrices
        parcels = [torch.cat([empty, *(ahead[i].flatten() for i in share if layouts[i][team.rank].owned)])
                   for share in shares]
        arrived = team.trade(parcels, [sum(piece.size * piece.owned for piece in pieces) for pieces in here])
        stack = ahead[0].new_empty(len(mine), *self.muon.whole[matrices[0]])                     # (B, n, m)
        for pieces, parcel in zip(here, arrived, strict=True):
            sent = iter(parcel.split([piece.size for piece in pieces if piece.owned]))
            for whole, piece in zip(stack, pieces, strict=True):
                if piece.owned:
                    whole[piece.rows[:, None], piece.columns] = next(sent).view(len(piece.rows), -1)
        made = muon_update(stack, rows=self.muon.rows.get(matrices[0]), rounds=self.muon.rounds, dtype=self.muon.dtype,
                           iteration=self.muon.iteration) if len(mine) else stack
        parcels = [torch.cat([empty, *(whole[piece.rows[:, None], piece.columns].flatten()
                                       for whole, piece in zip(made, pieces, strict=True))]) for pieces in here]
        sizes = [sum(layouts[i][team.rank].size for i in share) for share in shares]
        flat = torch.cat(team.trade(parcels, sizes))            # shares lie in the order of ranks, so of matrices
        return [part.view_as(piece) for part, piece in zip(flat.split([a.numel() for a in ahead]), ahead, strict=True)]


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a distributed tensor, sharing its memory."""
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def apply(model: Transformer, team: Team, config: ParallelConfig) -> Replicated | Sharded:
    """Spread `model` over the team in place. Its compute dtype must be set before: weights travel in it."""
    copies, shards, tensors = sizes = config.sizes(team.size)
    model.to(team.device)
    if shards == tensors == 1:
        return Replicated(model, team)
    if tensors > 1 and not all(p.requires_grad for p in model.parameters()):
        raise ConfigError("products of an adapted model are not split over ranks", where="parallel.tensor",
                          why="a change of low rank would have to be split with its matrix",
                          hint="use parallel.shard, or copies")
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # half a second, so only where needed

    shapes = {name: p.shape for name, p in model.named_parameters()}
    held = copy.deepcopy(model, {id(p): nn.Parameter(p.detach()[:0], p.requires_grad) for p in model.parameters()})
    mesh = init_device_mesh(team.device.type, sizes, mesh_dim_names=("replicate", "shard", "tensor"))
    splits = split_tensors(model, mesh["tensor"]) if tensors > 1 else {}
    policy = MixedPrecisionPolicy(None if model.compute == torch.float32 else model.compute, torch.float32,
                                  cast_forward_inputs=False)    # the residual stream stays in fp32
    data = mesh["replicate", "shard"] if copies > 1 else mesh["shard"]
    for module in (*model.blocks, model):                       # the root keeps its head for the loss: torch's default
        fully_shard(module, mesh=data, mp_policy=policy)
        module.set_gradient_divide_factor(1.0)                  # losses are divided by the global count already
        module.set_force_sum_reduction_for_comms(True)          # gloo knows no other
    return Sharded(model, held, team, sizes, splits, shapes)
