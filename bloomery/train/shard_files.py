"""A checkpoint of a split model: every rank writes what it holds, any number of ranks can read it.

    model-00001-of-00002.safetensors   optim-00001-of-00002.safetensors   ...   shards.json

`shards.json` has for every tensor its whole shape and the pieces: which file, which rows, which columns.  A piece need
not be a run of rows: tensor parallelism gives a rank some rows of q, of k and of v.  A folder with one whole
`model.safetensors` is read the same way, so a run may go on with more ranks, fewer, or one.  There is no pickle, unlike
in torch's own format; that whole files are undamaged is the manifest's business (`checkpoint.py`).
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import InputError
from bloomery.model.store import model_weights
from bloomery.train.optim import moments, restore_moments
from bloomery.train.parallel import Sharded
from bloomery.train.state import State
from bloomery.train.tensor_file import write_tensors

LAYOUT = "shards.json"


def save_shards(state: State, folder: Path) -> dict[str, tuple[int, str]]:
    """Write weights and moments, each rank its own; size and SHA-256 of every file of every rank, by name.

    All ranks call it, with a folder that all of them see; it returns when all are done.
    """
    ranks, team = state.ranks, state.team
    if not isinstance(ranks, Sharded):
        raise ValueError("only a split model is written in pieces")
    written, layout = {}, {}
    for kind, tensors in contents(state).items():
        files = [f"{kind}-{rank + 1:05d}-of-{team.size:05d}.safetensors" for rank in range(team.size)]
        own = {name: t.cpu().contiguous() for name, (t, whose) in tensors.items()
               if (ranks.pieces[whose].owned if t.dim() else team.leads)}
        written[files[team.rank]] = write_tensors(Path(folder) / files[team.rank], own)
        layout[kind] = {name: {"shape": list(ranks.shapes[whose]) if t.dim() else [],
                               "pieces": list(described(ranks, whose, files)) if t.dim() else [{"file": files[0]}]}
                        for name, (t, whose) in tensors.items()}
    if team.leads:
        write_atomic(Path(folder) / LAYOUT, json.dumps(layout))
    return {name: tuple(told) for each in team.gather(written) for name, told in each.items()}


def contents(state: State) -> dict[str, dict[str, tuple[Tensor, str]]]:
    """Weights and moments of this rank by kind and name, each with the name of the parameter that it belongs to."""
    held = state.ranks.held
    weights = {name: (p.detach(), own) for (name, p), (own, _) in
               zip(model_weights(held).items(), held.named_parameters(), strict=True) if p.requires_grad}
    names = [name for name, _ in held.named_parameters()]
    return {"model": weights, "optim": {key: (value, next(n for n in names if key.startswith(n + ".")))
                                        for key, value in moments(held, state.optimizers).items()}}


def described(ranks: Sharded, name: str, files: list[str]) -> Iterator[dict]:
    """The pieces of one parameter, by the files they are in."""
    for rank, file in enumerate(files):
        piece = ranks.piece(name, rank)
        if piece.owned and piece.size:
            yield {"file": file, "rows": runs(piece.rows),
                   **({} if piece.columns is None else {"columns": runs(piece.columns)})}


def runs(index: Tensor) -> list[list[int]]:
    """Numbers in order as [first, end) runs: 0 1 2 6 7 -> [0, 3], [6, 8]."""
    cuts = (index.diff() != 1).nonzero()[:, 0] + 1
    return [[int(part[0]), int(part[-1]) + 1] for part in index.tensor_split(cuts.tolist())]


def numbers(found: list[list[int]]) -> Tensor:
    return torch.cat([torch.arange(first, end) for first, end in found])


class Shards:
    """The tensors of a checkpoint folder, whole or in part, whoever wrote it."""

    def __init__(self, folder: Path):
        self.folder, self.open = Path(folder), {}
        path = self.folder / LAYOUT
        if path.is_file():
            self.layout = json.loads(path.read_text(encoding="utf-8"))
        else:
            self.layout = {kind: self._whole(f"{kind}.safetensors") for kind in ("model", "optim")}

    def _whole(self, file: str) -> dict[str, dict]:
        """The layout of a file that has every tensor in one piece."""
        shapes = {name: self._file(file).get_slice(name).get_shape() for name in self._file(file).keys()}  # noqa: SIM118
        kinds = ("rows", "columns")
        return {name: {"shape": shape, "pieces": [{"file": file, **{
            kind: [[0, size]] for kind, size in zip(kinds, shape, strict=False)}}]} for name, shape in shapes.items()}

    def _file(self, name: str) -> safe_open:
        if Path(name).name != name:
            raise InputError("a piece lies outside the checkpoint", where=str(self.folder / LAYOUT), why=name)
        if name not in self.open:
            try:
                self.open[name] = safe_open(self.folder / name, framework="pt")
            except (SafetensorError, OSError) as error:
                raise InputError("a piece of the checkpoint cannot be read", where=str(self.folder / name),
                                 why=str(error), hint="use the checkpoint before this one") from error
        return self.open[name]

    def names(self, kind: str) -> list[str]:
        return list(self.layout[kind])

    def read(self, kind: str, name: str, rows: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
        """Some rows and columns of a tensor in the order asked for; all when left out."""
        if name not in self.layout[kind]:
            raise InputError(f"the checkpoint has no {name}", where=str(self.folder), why="it is of another model")
        entry = self.layout[kind][name]
        shape, pieces = entry["shape"], entry["pieces"]
        if not shape:
            return self._file(pieces[0]["file"]).get_tensor(name)
        wanted = [torch.arange(size) if index is None else index
                  for index, size in zip((rows, columns), shape, strict=False)]
        out = self._file(pieces[0]["file"]).get_tensor(name).new_empty([len(index) for index in wanted])
        filled = 0
        for piece in pieces:
            there = [numbers(piece[key]) for key in ("rows", "columns")[:len(shape)]]
            found = [shared(index, own, size) for index, own, size in zip(wanted, there, shape, strict=True)]
            if all(len(to) for to, _ in found):
                part = self._file(piece["file"]).get_tensor(name)
                for axis, (_, source) in enumerate(found):
                    part = part.index_select(axis, source)
                out[torch.meshgrid(*(to for to, _ in found), indexing="ij")] = part
                filled += part.numel()
        if filled != out.numel():
            raise InputError(f"the checkpoint has not all of {name}", where=str(self.folder),
                             why=f"{filled} of {out.numel()} values")
        return out


def shared(wanted: Tensor, there: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Where the numbers that two lists share stand in the one and in the other."""
    place = torch.full((size,), -1)
    place[wanted] = torch.arange(len(wanted))
    source = (place[there] >= 0).nonzero()[:, 0]
    return place[there][source], source


@torch.no_grad()
def load_shards(state: State, folder: Path, *, stepped: bool = True) -> None:
    """Put a checkpoint's weights and moments into a fresh state, whether it is split as the writer's was or not.

    One that was written before the first step, not `stepped`, has no moments.
    """
    shards, held = Shards(folder), state.ranks.held
    split = state.ranks.pieces if isinstance(state.ranks, Sharded) else {}
    pieces = {name: (split[name].rows, split[name].columns) if split else () for name, _ in held.named_parameters()}
    for (name, weight), own in zip(model_weights(held).items(), pieces, strict=True):
        if weight.requires_grad:
            weight.copy_(shards.read("model", name, *pieces[own]))
    saved = {}
    for key in shards.names("optim"):
        own = next((name for name in pieces if key.startswith(name + ".")), None)
        saved[key] = shards.read("optim", key, *(pieces[own] if own else ()))
    if stepped:
        restore_moments(held, state.optimizers, saved)
    for module in state.model.modules():
        if hasattr(module, "reshard"):                          # what was gathered before is no longer true
            module.reshard()


def consolidate(folder: Path) -> dict[str, Tensor]:
    """The whole weights of a checkpoint, by the names of `model_weights`, for export."""
    shards = Shards(folder)
    return {name: shards.read("model", name) for name in shards.names("model")}
