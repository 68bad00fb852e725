"""Adapters as PEFT's files, both ways: `adapter_config.json` and `adapter_model.safetensors`.

    base_model.model.<path>.lora_A.weight  (rank, in)      base_model.model.<path>.lora_B.weight  (out, rank)

A matrix of a folder has its own A and B there, whatever it is fused with here.  Rows of tokens that learn with them are
`token_rows.py`'s.  Bottleneck adapters have a kind of their own, which PEFT does not know.  Left out, and refused when
read: DoRA, trained biases, adapters on embeddings, and whole modules beside the adapter.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import InputError
from bloomery.model import adapters, ia3, prefix, token_rows
from bloomery.model.config import ModelConfig
from bloomery.model.hf import FAMILIES, family_of
from bloomery.model.hf_names import half_rotated
from bloomery.model.hub import ID, is_hub_id, located
from bloomery.model.lora import Part, adapted, block_layers, lora_layers, selected, set_adapter
from bloomery.model.token_rows import DEFAULT
from bloomery.model.transformer import Transformer
from bloomery.model.weight_files import read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
LORA = "LORA"
PLAIN = {"bias": "none", "use_dora": False, "lora_bias": False, "modules_to_save": None, "layer_replication": None,
         "target_parameters": None, "alora_invocation_tokens": None}


class Saved(NamedTuple):
    """The A and B of one matrix as they stand in a file."""

    a: Tensor
    b: Tensor


def save_adapter(model: Transformer, folder: Path, *, base: str = "", name: str = DEFAULT) -> None:
    """Write an adapter of this model; `base` is said to be the model that it belongs to."""
    kind = next((kind for kind, found in PRESENT.items() if found(model)), None)
    if kind is None:
        raise ValueError("the model has no adapter")
    said, tensors = lora_file(model, name) if kind == LORA else FILES[kind][0](model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, folder / f".tmp-{WEIGHTS}",
              metadata={"format": "pt"})
    (folder / f".tmp-{WEIGHTS}").replace(folder / WEIGHTS)
    write_atomic(folder / CONFIG, json.dumps({**said, "base_model_name_or_path": base or None,
                                              "inference_mode": True}, indent=2))


def load_adapter(model: Transformer, folder: Path, *, name: str = DEFAULT, trainable: bool = False) -> Transformer:
    """Put an adapter from a folder on a model, in place, and make it the active one; the model's own weights freeze."""
    folder = Path(folder)
    said = load_adapter_config(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise InputError("an adapter's weights cannot be read", where=str(folder / WEIGHTS), why=str(error),
                         hint="copy the file again; a .bin is a pickle and is not opened") from error
    model.requires_grad_(False)
    if said["peft_type"] == LORA:
        from_lora_file(model, said, tensors, name=name, where=str(folder))
    else:
        FILES[said["peft_type"]][1](model, said, tensors)
    if not trainable:
        model.requires_grad_(False)
    return model


def load_adapter_config(folder: Path) -> dict:
    """`adapter_config.json`; `InputError` for a kind of adapter, or an option, that is not known here."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise InputError("not an adapter's folder", where=str(folder), why=f"it has no {CONFIG}",
                         hint="give the folder that a training with adapt.method=lora wrote, or one of PEFT's")
    said = read_json(path)
    if said.get("peft_type") not in PRESENT:
        raise InputError(f"unsupported peft_type {said.get('peft_type')!r}", where=str(path),
                         why=f"the kinds known here are {', '.join(PRESENT)}")
    odd = [f"{key}={said[key]!r}" for key, value in PLAIN.items() if said.get(key, value) not in (value, None, [], {})]
    if odd:
        raise InputError("unsupported adapter options", where=str(path), why=", ".join(odd))
    return said


def adapter_base(folder: Path) -> Path | None:
    """Where the base of an adapter's folder lies; None for a folder that has a model of its own, or no adapter.

    `InputError` when the base is not to be found.
    """
    if (folder / "config.json").is_file() or not (folder / CONFIG).is_file():
        return None
    base = load_adapter_config(folder).get("base_model_name_or_path") or ""
    place = next((place for place in (Path(base), folder / base) if base and (
        (place / "config.json").is_file() or (place / CONFIG).is_file())), None)
    named = base if is_hub_id(base) else f"hf:{base}"
    if place is None and ID.fullmatch(named):
        place = Path(located(named))
    if place is None:
        raise InputError("the base of an adapter is not there", where=str(folder / CONFIG), why=base or "none is named",
                         hint="put its path into base_model_name_or_path, or: bloomery merge ADAPTER OUT --base FOLDER")
    return place


def text_room(context: int, folder: Path) -> int:
    """What is left of a context for text behind the adapter of a folder."""
    return context - load_adapter_config(folder).get("num_virtual_tokens", 0)


# --- LoRA ---------------------------------------------------------------------------------------------------------

def lora_file(model: Transformer, name: str) -> tuple[dict, dict[str, Tensor]]:
    """What PEFT's files say of one adapter: rank and alpha most matrices have, and patterns for those that differ."""
    parts: dict[str, Part] = {}
    tensors, dropout = {}, 0.0
    for ours, layer in lora_layers(model).items():
        if name in layer.adapters:
            adapter = layer.adapter(name)
            dropout = adapter.dropout
            for part, a, b in adapter.each(adapter.a):
                parts[part.theirs] = part
                tensors[f"{PREFIX}{part.theirs}.lora_A.weight"] = a
                tensors[f"{PREFIX}{part.theirs}.lora_B.weight"] = b[row_order(model.config, ours, part.rows)]
    if not parts:
        raise InputError(f"the model has no adapter {name}")
    tokens, rows = token_rows.to_file(model, name)
    rank, alpha = (Counter(kinds).most_common(1)[0][0] for kinds in
                   ([p.rank for p in parts.values()], [p.alpha for p in parts.values()]))
    family = FAMILIES.get(family_of(model.config))
    ends = sorted({path.rpartition(".")[2] for path in parts})
    everywhere = {theirs for found in selected(model, tuple(ends)).values() for theirs, _ in found} == set(parts)
    return {"peft_type": LORA, "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "lora_dropout": dropout,
            "use_rslora": next(iter(parts.values())).rslora, "target_modules": ends if everywhere else sorted(parts),
            "rank_pattern": {path: p.rank for path, p in parts.items() if p.rank != rank},
            "alpha_pattern": {path: p.alpha for path, p in parts.items() if p.alpha != alpha},
            "fan_in_fan_out": bool(family and family.transposed), "bias": "none", "init_lora_weights": True,
            "modules_to_save": None, "use_dora": False, "trainable_token_indices": tokens}, tensors | rows


def from_lora_file(model: Transformer, said: dict, tensors: dict[str, Tensor], *, name: str, where: str) -> None:
    """Put what a file holds on the matrices that it names, fused where they are fused here."""
    if tokens := said.get("trainable_token_indices"):
        token_rows.from_file(model, tokens, tensors, name=name)
    saved = paired(tensors, where)
    layers, known = block_layers(model), selected(model, "all-linear")
    rows = {theirs: (ours, part) for ours, found in known.items() for theirs, part in found}
    problems = [f"unexpected {path}" for path in sorted(saved.keys() - rows.keys())]
    for path, (a, b) in saved.items():
        if path in rows:
            ours, part = rows[path]
            wanted = (part.stop - part.start, layers[ours].in_features)
            problems += [] if (b.shape[0], a.shape[1]) == wanted and a.shape[0] == b.shape[1] else \
                [f"{path} has A {tuple(a.shape)} and B {tuple(b.shape)}, the matrix is {wanted}"]
    if problems:
        raise InputError("an adapter does not fit the model", where=where, why="; ".join(problems[:5]),
                         hint="it was made for another base, or for embeddings or a head, which have none here")
    alphas, rslora = said.get("alpha_pattern") or {}, bool(said.get("use_rslora"))
    for ours, found in known.items():
        here = [(path, part) for path, part in found if path in saved]
        if here:
            parts = tuple(Part(path, part, len(saved[path].a), patterned(alphas, path, said["lora_alpha"]), rslora)
                          for path, part in here)
            adapter = adapted(model, ours).add(name, parts, dropout=said.get("lora_dropout") or 0.0)
            with torch.no_grad():
                for part, a, b in adapter.each(adapter.a):
                    a.copy_(saved[part.theirs].a)
                    b[row_order(model.config, ours, part.rows)] = saved[part.theirs].b.to(b)
    set_adapter(model, name)


def paired(tensors: dict[str, Tensor], where: str) -> dict[str, Saved]:
    """The A and B of every matrix by its path in the base's folder."""
    found: dict[str, dict[str, Tensor]] = {}
    odd = []
    for key, tensor in tensors.items():
        match = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight", key)
        if match:
            found.setdefault(match[1], {})[match[2]] = tensor
        else:
            odd.append(key)
    odd += [f"{path} without its {'AB'.replace(next(iter(pair)), '')}" for path, pair in found.items() if len(pair) < 2]
    if odd or not found:
        raise InputError("these are not the tensors of a LoRA adapter", where=where,
                         why=", ".join(sorted(odd)[:5]) or "there is none")
    return {path: Saved(pair["A"], pair["B"]) for path, pair in found.items()}


def patterned(patterns: dict[str, float], path: str, default: float) -> float:
    """What a pattern says of a path, as PEFT looks for it: one that its end matches."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", path)), default)


def row_order(config: ModelConfig, ours: str, rows: slice) -> Tensor:
    """Which row of B here each row in a file is: another where rotary pairs lie side by side (`half_rotated`)."""
    count = (config.heads + 2 * config.kv_heads) * config.head_width
    order = torch.arange(rows.stop)
    if ours.endswith(".qkv") and family_of(config) in FAMILIES:
        order = half_rotated({".qkv.weight": torch.arange(count)}, config)[".qkv.weight"]
    return order[rows] - rows.start


PRESENT: dict[str, Callable[[Transformer], bool]] = {
    LORA: lambda model: any(layer.adapters for layer in lora_layers(model).values()),
    prefix.KIND: lambda model: hasattr(model, "prefix"),
    adapters.KIND: lambda model: any(isinstance(module, adapters.Bottleneck) for module in model.modules()),
    ia3.KIND: lambda model: any(isinstance(module, ia3.Scale) for module in model.modules())}
FILES = {prefix.KIND: (prefix.to_file, prefix.from_file), adapters.KIND: (adapters.to_file, adapters.from_file),
         ia3.KIND: (ia3.to_file, ia3.from_file)}
