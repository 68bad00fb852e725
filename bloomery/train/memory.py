"""What training will hold in memory, told before it starts, and the choice to keep less and compute it again.

Bytes a token and layer kept for the backward pass, in a dtype of s bytes (a = H E, b = K E, g matrices into f hidden):

    none         counted on a small block of the same kind; a plain one needs about s (6 D + 2 b + 4 f)
    selective    s (3 D + a + 2 b + g f)      outputs of matrix products; the rest is computed again
    full         4 D                          the block's input, fp32; a third more work (Chen et al. 2016)

On top of it comes the block that is going backward.  A process holds more than is allocated, since malloc keeps holes:
`slack` was measured on a CPU; plans are within 16 % of the highest resident set of nine runs of 0.15 to 1.7 GB.
"""

import math
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from bloomery.losses.linear_ce import head_bytes
from bloomery.model.config import GATED, ModelConfig
from bloomery.model.forest import Forest, Segments
from bloomery.model.linear import Linear
from bloomery.model.lora import LoraLinear
from bloomery.model.nf4 import weight_bytes
from bloomery.model.prefix import parts
from bloomery.model.token_rows import TokenRows
from bloomery.model.transformer import Transformer

Checkpointing = Literal["none", "selective", "full"]
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
COUNTED = 128           # tokens of the small block
HOLES = 1.5             # blocks' worth of freed memory that malloc keeps, measured
LIBRARIES = 80e6        # bytes that kernels and their caches take at the first step, measured
MOMENTS = {"adamw": 8.0, "muon": 4.0, "sgd": 4.0, "adamw8bit": 2.0 + 8 / 256}        # bytes a weight


@dataclass(frozen=True)
class Plan:
    """Bytes of one process while it trains, at their highest."""

    weights: float              # fp32, and their shadow in the compute dtype
    gradients: float
    moments: float
    activations: float          # kept of one micro-batch until its backward pass
    working: float              # the block going backward, or the head, or the optimizer's step: what needs most
    slack: float                # what the allocator and the libraries hold beside it

    @property
    def total(self) -> float:
        return sum(getattr(self, each.name) for each in fields(self))

    def __str__(self) -> str:
        parts = ", ".join(f"{each.name} {getattr(self, each.name) / 1e9:.2f}" for each in fields(self))
        return f"{self.total / 1e9:.2f} GB: {parts}"


class Adapted(NamedTuple):
    """Of a model that learns in part: how many weights do, and the bytes of all there are."""

    learned: int
    bytes_: float


def adapted(model: Transformer) -> Adapted | None:
    """What of a model learns, None for all of it. Frozen weights are in memory twice where products are narrower."""
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if learned == sum(p.numel() for p in model.parameters()):
        return None
    shadows = [layer.weight.numel() for layer in model.modules() if isinstance(layer, Linear)
               and (layer.weight.dtype != model.compute or isinstance(layer, LoraLinear | TokenRows))]
    return Adapted(learned, weight_bytes(model) + model.compute.itemsize * sum(shadows))


def flops_per_token(model: Transformer) -> float:
    """Training FLOPs for one token at full context: 6 a weight that learns, 4 a frozen one: nobody makes its gradient.

    Attention as `ModelConfig.flops_per_token` counts it.  An adapter's own weights are in none of the shape's counts,
    and the network that says a prefix is run once a batch.
    """
    whole = model.config.flops_per_token()
    if all(p.requires_grad for p in model.parameters()):
        return whole
    learned = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and name not in parts(model))
    return whole - 2 * (model.config.parameters() - model.config.tables()) + 6 * learned


def plan(config: ModelConfig, *, tokens: int, compute: torch.dtype = torch.bfloat16, optimizer: str = "adamw",
         checkpointing: Checkpointing = "none", device: str = "cpu", adapted: Adapted | None = None) -> Plan:
    """What a model holds while it learns from micro-batches of `tokens`; `optimizer` is a name of `OptimizerConfig`.

    `adapted` says what of it learns, where that is not all.
    """
    everything = config.parameters()
    matrices = everything - config.tables() - config.vocabulary * config.width       # those in blocks
    learned, wide = (adapted.learned, 0) if adapted else (everything, everything - matrices)
    moments = MOMENTS[optimizer] * learned + (4 * wide if optimizer == "muon" else 0)
    kept, size = kept_per_token(config, compute), compute.itemsize
    block = tokens * kept["none"]
    edges = 4 * tokens * config.width * size                                         # embedded, last norm, head, slope
    head = head_bytes(tokens, config.vocabulary, compute, device)
    again = 0 if checkpointing == "none" else block
    stacks = 4 * (learned - wide) if optimizer == "muon" else 0                      # directions, stacked by shape
    weights = adapted.bytes_ if adapted else everything * (4 if size == 4 else 4 + size)
    return Plan(weights=weights, gradients=4 * learned, moments=moments,
                activations=tokens * config.depth * kept[checkpointing] + edges,
                working=max(block + again, head, stacks), slack=HOLES * block + LIBRARIES)


def kept_per_token(config: ModelConfig, compute: torch.dtype) -> dict[str, float]:
    """Bytes that one block keeps of one token, for every way of checkpointing."""
    if hasattr(config, "kept_per_token"):                       # a network that is no stack of blocks says it itself
        return config.kept_per_token(compute)
    d, f, s = config.width, config.hidden, compute.itemsize
    a, b = config.heads * config.head_width, config.kv_heads * config.head_width
    gates = 2 if config.activation in GATED else 1
    return {"none": counted(config, compute), "selective": s * (3 * d + a + 2 * b + gates * f), "full": 4 * d}


def counted(config: ModelConfig, compute: torch.dtype) -> float:
    """Bytes that autograd keeps of one token in one block, counted on one with one key head: sizes scale alike."""
    parts = config.kv_heads
    model = Transformer(config.model_copy(update={
        "vocabulary": 1, "context": COUNTED, "depth": 1, "width": -(-config.width // parts), "kv_heads": 1,
        "heads": config.heads // parts, "hidden": -(-config.hidden // parts), "window": None, "window_layers": None}),
        compute=compute)
    forest = Forest(Segments(torch.tensor([0, COUNTED], dtype=torch.int32), torch.tensor([-1], dtype=torch.int32)))
    x = torch.zeros(COUNTED, model.config.width, requires_grad=True)
    turns = model.turns(torch.arange(COUNTED))
    shared = [*model.parameters(), *turns]
    shared += [m.compute_weight(compute) for m in model.modules() if isinstance(m, Linear)]
    known = {t.untyped_storage().data_ptr() for t in shared if t is not None}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.blocks[0](x, *turns, forest, 0)
    return parts * sum(t.untyped_storage().nbytes() for where, t in kept.items() if where not in known) / COUNTED


def checkpointed(model: Transformer, how: Checkpointing) -> Transformer:
    """Let every block forget what it can compute again in the backward pass. Losses and gradients keep their bits."""
    for block in model.blocks:
        block.__dict__.pop("forward", None)
        if how != "none":
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, **CONTEXTS[how])
    return model


def free_gb(device: torch.device) -> float:
    """Memory that can still be had on a device, in GB (10^9 bytes). Infinite where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 1e9
    told = Path("/proc/meminfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("MemAvailable")), math.inf)


CONTEXTS = {"full": {}, "selective": {"context_fn": partial(create_selective_checkpoint_contexts, list(PRODUCTS))}}
