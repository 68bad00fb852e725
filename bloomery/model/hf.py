"""Hugging Face `config.json` to `ModelConfig` and back, and weights under the names of either side."""

import torch
from torch import Tensor

from bloomery.core.errors import InputError
from bloomery.model.config import ModelConfig
from bloomery.model.hf_names import FAMILIES

REFUSED = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}       # anything else changes the network


def to_config(hf: dict, *, where: str = "config.json") -> ModelConfig:
    """Read a Llama `config.json`, in the `rope_scaling` form or the `rope_parameters` form of transformers 5."""
    if hf.get("model_type") not in FAMILIES:
        raise InputError(f"unsupported model_type {hf.get('model_type')!r}", where=where,
                         why=f"the architectures known here are {', '.join(FAMILIES)}")
    odd = [f"{key}={hf[key]!r}" for key, only in REFUSED.items() if hf.get(key, only) != only]
    rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        odd.append(f"rope type {kind!r}")
    if odd:
        raise InputError("unsupported model options", where=where, why=", ".join(odd))
    heads = hf["num_attention_heads"]
    return ModelConfig(
        vocabulary=hf["vocab_size"], context=hf["max_position_embeddings"], depth=hf["num_hidden_layers"],
        width=hf["hidden_size"], heads=heads, kv_heads=hf.get("num_key_value_heads") or heads,
        head_width=hf.get("head_dim") or hf["hidden_size"] // heads, hidden=hf["intermediate_size"],
        rope_base=rope.get("rope_theta", hf.get("rope_theta", 10_000.0)), norm_eps=hf["rms_norm_eps"],
        tied=hf.get("tie_word_embeddings", False))


def from_config(config: ModelConfig, *, bos: int | None, eos: int | list[int] | None) -> dict:
    """A `config.json` that transformers 4 and 5 both read."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": config.vocabulary,
        "hidden_size": config.width, "intermediate_size": config.hidden, "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads, "head_dim": config.head_width,
        "max_position_embeddings": config.context, "rms_norm_eps": config.norm_eps, "hidden_act": "silu",
        "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": config.tied,
        "rope_theta": config.rope_base, "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "bos_token_id": bos, "eos_token_id": eos, "torch_dtype": "float32", "dtype": "float32", "use_cache": True}


def names(config: ModelConfig, family: str = "llama") -> dict[str, list[str]]:
    """Our name of every weight -> theirs, for a model of this shape. Tied weights appear once, as the embedding."""
    table: dict[str, list[str]] = {}
    for ours, theirs in FAMILIES[family].items():
        if ours == "head.weight" and config.tied:
            continue
        for layer in range(config.depth) if "{l}" in ours else [0]:
            table[ours.replace("{l}", str(layer))] = [name.replace("{l}", str(layer)) for name in theirs]
    return table


def export_weights(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our state dict under Hugging Face names, fused matrices split into theirs."""
    e = config.head_width
    parts = {"attention.qkv.weight": [config.heads * e, config.kv_heads * e, config.kv_heads * e],
             "mlp.gate_up.weight": [config.hidden] * 2}
    out = {}
    for ours, theirs in names(config).items():
        sizes = next((s for end, s in parts.items() if ours.endswith(end)), None)
        pieces = weights[ours].split(sizes) if sizes else [weights[ours]]
        out |= {name: piece.contiguous() for name, piece in zip(theirs, pieces, strict=True)}
    return out


def import_weights(theirs: dict[str, Tensor], config: ModelConfig, shapes: dict[str, torch.Size], *,
                   where: str) -> dict[str, Tensor]:
    """Hugging Face weights under our names; one error lists all missing, unexpected and misshaped ones."""
    table = names(config)
    wanted = {name for group in table.values() for name in group}
    ignored = {"lm_head.weight"} if config.tied else set()
    problems = [f"missing {name}" for name in sorted(wanted - set(theirs))]
    problems += [f"unexpected {name}" for name in sorted(set(theirs) - wanted - ignored)
                 if not name.endswith("rotary_emb.inv_freq")]
    out = {}
    for ours, group in table.items():
        if all(name in theirs for name in group):
            out[ours] = torch.cat([theirs[name] for name in group])
            found, expected = tuple(out[ours].shape), tuple(shapes[ours])
            if found != expected:
                problems.append(f"{' + '.join(group)} has shape {found}, expected {expected}")
    if problems:
        raise InputError("weights do not fit the configuration", where=where, why="; ".join(problems))
    return out
