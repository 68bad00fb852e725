"""Rotary positions in a `config.json`: transformers 4 writes `rope_theta` and `rope_scaling`, 5 `rope_parameters`.

Both are read and both are written.  A key nobody knows is warned about: it may change the network.
"""

from typing import Any

from bloomery.core.metrics import say
from bloomery.model.config import ModelConfig, Rope

KEYS = {"factor": "factor", "original_context": "original_max_position_embeddings",
        "low_freq_factor": "low_freq_factor", "high_freq_factor": "high_freq_factor", "beta_fast": "beta_fast",
        "beta_slow": "beta_slow", "attention_factor": "attention_factor", "mscale": "mscale",
        "mscale_all_dim": "mscale_all_dim", "truncate": "truncate"}
USED = {"default": (), "linear": ("factor",), "dynamic": ("factor",),
        "llama3": ("factor", "original_context", "low_freq_factor", "high_freq_factor"),
        "yarn": ("factor", "original_context", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim",
                 "truncate")}
SILENT = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned", *KEYS.values()}


def read_rope(hf: dict, odd: list[str], *, fraction: float | None) -> dict[str, Any]:
    """`rope_base` and `rope` of a configuration; `fraction` is the family's default, None if it turns whole heads."""
    found = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    kind = found.get("rope_type", found.get("type", "default"))
    if kind not in USED or any(isinstance(value, dict) for value in found.values()):
        odd.append(f"rope type {kind!r}" if kind not in USED else "rope parameters that differ between layers")
        return {}
    if unknown := sorted(set(found) - SILENT):
        say(f"config.json: unknown rope {'keys' if len(unknown) > 1 else 'key'} {', '.join(unknown)}, not used")
    values = {ours: found[KEYS[ours]] for ours in USED[kind] if found.get(KEYS[ours]) is not None}
    context = hf.get("max_position_embeddings")
    if "original_context" in USED[kind]:
        values.setdefault("original_context", context)
        if hf.get("original_max_position_embeddings"):                      # transformers lets the outer one win
            values["original_context"] = hf["original_max_position_embeddings"]
    if "factor" in USED[kind] and "factor" not in values:
        if kind != "yarn" or not context:
            odd.append(f"rope type {kind!r} without a factor")
        else:
            values["factor"] = context / values["original_context"]
    turned = found.get("partial_rotary_factor", hf.get("partial_rotary_factor", fraction))
    if turned not in (None, 1) and fraction is None:
        odd.append(f"partial_rotary_factor={turned!r}")
    base = found.get("rope_theta") or hf.get("rope_theta") or 10_000.0
    return {"rope_base": base, "rope": {"type": kind, "fraction": 1.0 if turned is None else turned} | values}


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """The same in both forms; what no Hugging Face model can say is left out."""
    rope = config.rope
    values = {KEYS[ours]: getattr(rope, ours) for ours in USED.get(rope.type, ()) if getattr(rope, ours) is not None}
    scaled = {"rope_type": rope.type} | values
    partial = {"partial_rotary_factor": rope.fraction} if rope.fraction != 1 else {}
    return {"rope_theta": config.rope_base, "rope_scaling": None if rope == Rope(fraction=rope.fraction) else scaled,
            "rope_parameters": scaled | {"rope_theta": config.rope_base} | partial, **partial}
