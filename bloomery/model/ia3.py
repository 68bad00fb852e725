"""IA3: a frozen model whose keys, values and feed-forward units are scaled by learned numbers (Liu et al. 2022,
"Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning").

    k <- l_k k,   v <- l_v v,   h <- l_ff h for what the last feed-forward matrix reads;   all begin at 1

The model keeps its layers and their names: `ia3` is a child of the layer that it scales.  Merged, it is scaled rows of
one matrix and columns of another.  The file is PEFT's; where the family's folder has q, k and v in one matrix, PEFT
scales all three, and so do we.
"""

import torch
from torch import Tensor, nn

from bloomery.core.config import Settings
from bloomery.core.errors import InputError
from bloomery.model.adapters import fill
from bloomery.model.hf import FAMILIES, family_of
from bloomery.model.hf_names import row_counts, their_names
from bloomery.model.linear import Linear
from bloomery.model.transformer import Transformer

KIND = "IA3"
BEFORE = "base_model.model."


class Scale(nn.Module):
    """y (N, D) with its last numbers scaled; those before them stay."""

    def __init__(self, numbers: int, first: int = 0):
        super().__init__()
        self.first, self.scale = first, nn.Parameter(torch.ones(numbers))

    def forward(self, y: Tensor) -> Tensor:
        return y * self.whole().to(y.dtype)

    def whole(self) -> Tensor:
        """One for each number that stays, then the learned ones."""
        return torch.cat((self.scale.new_ones(self.first), self.scale)) if self.first else self.scale


def attach(model: Transformer, config: Settings, seed: int) -> Transformer:
    """Freeze a model and scale its layers by ones, in place; the model. Nothing is drawn: `seed` changes nothing."""
    return put(model, feedforward=True)


def put(model: Transformer, *, feedforward: bool) -> Transformer:
    queries = 0 if fused(model) else model.config.heads * model.config.head_width
    model.requires_grad_(False)
    for block in model.blocks:
        qkv, down = block.attention.qkv, block.mlp.down
        qkv.ia3 = Scale(qkv.out_features - queries, queries).to(qkv.weight.device)
        qkv.register_forward_hook(scaled)
        if feedforward:
            down.ia3 = Scale(down.in_features).to(down.weight.device)
            down.register_forward_pre_hook(scaled_input)
    return model


def scaled(layer: nn.Module, read: tuple, said: Tensor) -> Tensor:
    """Torch calls this after a layer whose outputs are scaled."""
    return layer.ia3(said)


def scaled_input(layer: nn.Module, read: tuple) -> tuple:
    """Torch calls this before a layer whose inputs are scaled."""
    return (layer.ia3(*read),)


@torch.no_grad()
def merge(model: Transformer) -> Transformer:
    """The scales become part of the weights, in place; the model, plain again."""
    for block in model.blocks:
        for layer, hooks in ((block.attention.qkv, "_forward_hooks"), (block.mlp.down, "_forward_pre_hooks")):
            if not hasattr(layer, "ia3"):
                continue
            if not isinstance(layer, Linear):
                raise InputError("a scale cannot be merged", why="the weights are not plain", hint="load a plain base")
            rows = hooks == "_forward_hooks"
            scale = layer.ia3.whole().to(layer.weight.dtype)
            layer.weight.mul_(scale[:, None] if rows else scale)
            if rows and layer.bias is not None:
                layer.bias.mul_(scale)
            del layer.ia3
            getattr(layer, hooks).clear()
    return model


def fused(model: Transformer) -> bool:
    """Whether the family's folders hold q, k and v in one matrix."""
    return len(names(model, 0)[0]) == 1


def names(model: Transformer, layer: int) -> tuple[list[str], str]:
    """PEFT's names of what is scaled in a layer: the attention matrices, and the last one of the feed-forward."""
    kind = family_of(model.config)
    if kind not in FAMILIES or model.config.positions == "rope_interleaved":
        raise InputError("ia3 needs a model whose matrices are those of a Hugging Face folder", why=
                         "rotary pairs lie next to each other" if kind in FAMILIES else "no family says this one")
    theirs = [their_names(f"blocks.{layer}.{name}.weight", FAMILIES[kind].names)
              for name in ("attention.qkv", "mlp.down")]
    qkv, down = ([name.removesuffix(".weight") for name in part] for part in theirs)
    return qkv, down[0]


def parts(model: Transformer) -> dict[str, Tensor]:
    """Every scale under PEFT's name; views of the parameters, (out, 1) after a matrix and (1, in) before one."""
    found = {}
    for number, block in enumerate(model.blocks):
        qkv, down = names(model, number)
        scale = block.attention.qkv.ia3.scale.detach()
        rows = [len(scale)] if len(qkv) == 1 else row_counts(model.config, ".qkv.")[1:]
        for name, part in zip(qkv[-len(rows):], scale.split(rows), strict=True):
            found[f"{BEFORE}{name}.ia3_l"] = part[:, None]
        if hasattr(block.mlp.down, "ia3"):
            found[f"{BEFORE}{down}.ia3_l"] = block.mlp.down.ia3.scale.detach()[None]
    return found


def to_file(model: Transformer) -> tuple[dict, dict[str, Tensor]]:
    """What PEFT's `adapter_config.json` says, and the tensors beside it."""
    qkv, down = names(model, 0)
    last = [name.rpartition(".")[2] if not fused(model) else ".".join(name.split(".")[-2:]) for name in (*qkv, down)]
    feedforward = last[-1:] if hasattr(model.blocks[0].mlp.down, "ia3") else []
    said = {"peft_type": KIND, "task_type": "CAUSAL_LM", "fan_in_fan_out": fused(model),
            "target_modules": last[1 if len(qkv) > 1 else 0:-1] + feedforward, "feedforward_modules": feedforward}
    return said, {name: part.contiguous() for name, part in parts(model).items()}


def from_file(model: Transformer, said: dict, tensors: dict[str, Tensor]) -> Transformer:
    """Give a model the scales of a folder, in place; the model."""
    put(model, feedforward=bool(said.get("feedforward_modules")))
    fill(parts(model), tensors)
    return model
