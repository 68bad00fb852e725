"""Our weight names beside Hugging Face's: one table a family.

A row is ours -> theirs; where one matrix of ours is several of theirs, the rows of ours are theirs one below the other.
`{l}` is the layer.  Biases stand under their matrix's name: a row for `x.weight` is one for `x.bias` too, and a model
has the ones its configuration asks for.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from bloomery.model.config import ModelConfig
from bloomery.model.positions import interleaved_to_half

GPT2 = {
    "embedding.weight": ["transformer.wte.weight"],
    "head.weight": ["lm_head.weight"],
    "score.weight": ["score.weight"],
    "places.weight": ["transformer.wpe.weight"],
    "norm.weight": ["transformer.ln_f.weight"],
    "blocks.{l}.attention_norm.weight": ["transformer.h.{l}.ln_1.weight"],
    "blocks.{l}.attention.qkv.weight": ["transformer.h.{l}.attn.c_attn.weight"],
    "blocks.{l}.attention.output.weight": ["transformer.h.{l}.attn.c_proj.weight"],
    "blocks.{l}.mlp_norm.weight": ["transformer.h.{l}.ln_2.weight"],
    "blocks.{l}.mlp.up.weight": ["transformer.h.{l}.mlp.c_fc.weight"],
    "blocks.{l}.mlp.down.weight": ["transformer.h.{l}.mlp.c_proj.weight"],
}

LLAMA = {
    "embedding.weight": ["model.embed_tokens.weight"],
    "head.weight": ["lm_head.weight"],
    "score.weight": ["score.weight"],
    "norm.weight": ["model.norm.weight"],
    "blocks.{l}.attention_norm.weight": ["model.layers.{l}.input_layernorm.weight"],
    "blocks.{l}.attention.qkv.weight": [f"model.layers.{{l}}.self_attn.{x}_proj.weight" for x in "qkv"],
    "blocks.{l}.attention.output.weight": ["model.layers.{l}.self_attn.o_proj.weight"],
    "blocks.{l}.mlp_norm.weight": ["model.layers.{l}.post_attention_layernorm.weight"],
    "blocks.{l}.mlp.gate_up.weight": ["model.layers.{l}.mlp.gate_proj.weight", "model.layers.{l}.mlp.up_proj.weight"],
    "blocks.{l}.mlp.down.weight": ["model.layers.{l}.mlp.down_proj.weight"],
}

QWEN3 = LLAMA | {
    "blocks.{l}.attention.q_norm.weight": ["model.layers.{l}.self_attn.q_norm.weight"],
    "blocks.{l}.attention.k_norm.weight": ["model.layers.{l}.self_attn.k_norm.weight"],
}

GEMMA2 = LLAMA | {
    "blocks.{l}.attention_after.weight": ["model.layers.{l}.post_attention_layernorm.weight"],
    "blocks.{l}.mlp_norm.weight": ["model.layers.{l}.pre_feedforward_layernorm.weight"],
    "blocks.{l}.mlp_after.weight": ["model.layers.{l}.post_feedforward_layernorm.weight"],
}

BERT = {
    "embedding.weight": ["bert.embeddings.word_embeddings.weight"],
    "places.weight": ["bert.embeddings.position_embeddings.weight"],
    "types.weight": ["bert.embeddings.token_type_embeddings.weight"],
    "embedding_norm.weight": ["bert.embeddings.LayerNorm.weight"],
    "blocks.{l}.attention.qkv.weight": [f"bert.encoder.layer.{{l}}.attention.self.{x}.weight"
                                        for x in ("query", "key", "value")],
    "blocks.{l}.attention.output.weight": ["bert.encoder.layer.{l}.attention.output.dense.weight"],
    "blocks.{l}.attention_norm.weight": ["bert.encoder.layer.{l}.attention.output.LayerNorm.weight"],
    "blocks.{l}.mlp.up.weight": ["bert.encoder.layer.{l}.intermediate.dense.weight"],
    "blocks.{l}.mlp.down.weight": ["bert.encoder.layer.{l}.output.dense.weight"],
    "blocks.{l}.mlp_norm.weight": ["bert.encoder.layer.{l}.output.LayerNorm.weight"],
    "transform.dense.weight": ["cls.predictions.transform.dense.weight"],
    "transform.norm.weight": ["cls.predictions.transform.LayerNorm.weight"],
    "head.weight": ["cls.predictions.weight"],                  # only its bias stands there: the weight is tied
}

MODERNBERT = {
    "embedding.weight": ["model.embeddings.tok_embeddings.weight"],
    "embedding_norm.weight": ["model.embeddings.norm.weight"],
    "norm.weight": ["model.final_norm.weight"],
    "blocks.{l}.attention_norm.weight": ["model.layers.{l}.attn_norm.weight"],
    "blocks.{l}.attention.qkv.weight": ["model.layers.{l}.attn.Wqkv.weight"],
    "blocks.{l}.attention.output.weight": ["model.layers.{l}.attn.Wo.weight"],
    "blocks.{l}.mlp_norm.weight": ["model.layers.{l}.mlp_norm.weight"],
    "blocks.{l}.mlp.gate_up.weight": ["model.layers.{l}.mlp.Wi.weight"],
    "blocks.{l}.mlp.down.weight": ["model.layers.{l}.mlp.Wo.weight"],
    "transform.dense.weight": ["head.dense.weight"],
    "transform.norm.weight": ["head.norm.weight"],
    "head.weight": ["decoder.weight"],
}


@dataclass(frozen=True)
class Piece:
    """A tensor of a folder, and the rows of ours that it is."""

    theirs: str
    ours: str
    rows: slice
    shape: tuple[int, ...]              # of theirs
    transposed: bool = False


def pieces(config: ModelConfig, shapes: dict[str, torch.Size], names: dict[str, list[str]] | None, *,
           transposed: bool = False) -> list[Piece]:
    """Every tensor of a folder for a model with weights of these shapes; without a table names are ours."""
    found = []
    for ours, shape in shapes.items():
        theirs = [ours] if names is None else their_names(ours, names)
        parts, first = row_counts(config, ours) if len(theirs) > 1 else [shape[0]], 0
        turned = transposed and ours.startswith("blocks.") and len(shape) == 2
        for name, count in zip(theirs, parts, strict=True):
            whole = (count, *shape[1:])
            found.append(Piece(name, ours, slice(first, first + count), whole[::-1] if turned else whole, turned))
            first += count
    return found


def their_names(ours: str, names: dict[str, list[str]]) -> list[str]:
    layer, kind = re.search(r"\.(\d+)\.|$", ours)[1], ours.rpartition(".")[2]
    row = re.sub(r"\.\d+\.", ".{l}.", ours).removesuffix(kind) + "weight"
    return [name.replace("{l}", layer or "").removesuffix("weight") + kind for name in names[row]]


def row_counts(config: ModelConfig, ours: str) -> list[int]:
    """How many rows of one matrix of ours each of theirs is."""
    if ".qkv." in ours:
        return [config.heads * config.head_width] + [config.kv_heads * config.head_width] * 2
    return [config.kv_heads * config.head_width if ".key_value." in ours else config.hidden] * 2


def half_rotated(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Weights of a model with interleaved rotary pairs as those of one that turns halves, which computes the same.

    The rows of q and k, and the weights of their norms, change places within every head; v does not turn.
    """
    if config.positions != "rope_interleaved":
        return weights
    e, order = config.head_width, interleaved_to_half(config.rotary_width)
    order += range(len(order), e)
    turned = torch.cat([torch.tensor(order) + head * e for head in range(config.heads + config.kv_heads)])
    rows = torch.cat([turned, torch.arange(len(turned), len(turned) + config.kv_heads * e)])
    return {name: w[rows] if ".qkv." in name else w[order] if ".q_norm." in name or ".k_norm." in name else w
            for name, w in weights.items()}
