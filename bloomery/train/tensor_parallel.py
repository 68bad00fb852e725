"""Tensor parallelism: every matrix product split over ranks, by torch's DTensor engine, from outside the model.

    attention  qkv by rows (heads)       output by columns          mlp  gate_up by rows       down by columns
    head, embedding  by rows (vocabulary)

Shoeybi et al. 2019 (Megatron-LM): one sum over ranks after attention and one after the feed-forward layer.  The loss
never sees all logits: a head split by rows is a DTensor, which `losses/linear_ce.py` hands to `losses/parallel_ce.py`.

q, k, v and gate, up are rows of one matrix.  Cut as it stands, one rank would get all queries: its rows are put into
the order of ranks first, and `Split.order` says where each came from.  Norms and positions are whole on every rank, and
so are head and embedding when the vocabulary is no multiple of the ranks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import DeviceMesh
from torch.nn.functional import embedding

from bloomery.core.errors import ConfigError
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer


@dataclass(frozen=True)
class Split:
    """How one parameter is cut: along rows (0) or columns (1), and which row of the whole each of its rows is."""

    dim: int
    order: Tensor | None = None


def interleaved(sizes: list[int], parts: int) -> Tensor:
    """Rows of matrices that lie stacked, in an order whose p-th part has the p-th part of each: (sum of sizes,)."""
    stacked = torch.arange(sum(sizes)).split(sizes)
    return torch.cat([chunk for part in zip(*(rows.chunk(parts) for rows in stacked), strict=True) for chunk in part])


def check(config: ModelConfig, parts: int) -> None:
    """`ConfigError` unless whole heads and equal parts of the feed-forward layer fall to each rank."""
    wrong = [f"{name} {size}" for name, size in (("heads", config.heads), ("kv_heads", config.kv_heads),
                                                 ("hidden", config.hidden)) if size % parts]
    if wrong:
        raise ConfigError(f"the model cannot be split over {parts} ranks", where="parallel.tensor",
                          why=f"{', '.join(wrong)}: not a multiple of {parts}", hint="choose a smaller parallel.tensor")


def split_tensors(model: Transformer, mesh: DeviceMesh) -> dict[str, Split]:
    """Split a model over the ranks of `mesh` in place; how each split parameter was cut, by name."""
    from torch.distributed.tensor import Replicate, parallel  # half a second that a model in one piece is spared

    config, parts = model.config, mesh.size()
    check(config, parts)
    heads = [count * config.head_width for count in (config.heads, config.kv_heads, config.kv_heads)]
    splits: dict[str, Split] = {}
    for layer, block in enumerate(model.blocks):
        plan = {}
        for name, module in block.named_modules():
            kind = name.rpartition(".")[2]
            if kind in ("qkv", "gate_up", "up"):
                order = interleaved({"qkv": heads, "gate_up": [config.hidden] * 2, "up": [config.hidden]}[kind], parts)
                plan[name] = parallel.ColwiseParallel()
                for key, p in module.named_parameters():
                    p.data = p.data[order]
                    splits[f"blocks.{layer}.{name}.{key}"] = Split(0, order)
            elif kind in ("output", "down"):
                plan[name] = parallel.RowwiseParallel()
                splits[f"blocks.{layer}.{name}.weight"] = Split(1)
            elif kind in ("q_norm", "k_norm"):
                plan[name] = parallel.SequenceParallel(sequence_dim=1, use_local_output=True)     # (N, H, E)
        parallel.parallelize_module(block, mesh, plan)
        block.attention.heads, block.attention.kv_heads = config.heads // parts, config.kv_heads // parts
    if config.vocabulary % parts == 0:
        for name, module in (("head", model.head), *([] if config.tied else [("embedding", model.embedding)])):
            parallel.parallelize_module(module, mesh, parallel.ColwiseParallel(output_layouts=Replicate()))
            splits[f"{name}.weight"] = Split(0)
        look_up_everywhere(model, mesh)
    return splits


def look_up_everywhere(model: Transformer, mesh: DeviceMesh) -> None:
    """Embeddings from the rank that has their row: the others add zeros."""
    from torch.distributed.tensor import DTensor, Replicate

    def look_up(ids: Tensor) -> Tensor:
        return embedding(DTensor.from_local(ids, mesh, [Replicate()]), model.embedding.weight).full_tensor()

    model.look_up = look_up
