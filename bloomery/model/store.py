"""A model as a Hugging Face folder: `config.json`, `generation_config.json`, safetensors, tokenizer beside it.

What is loaded is checked name by name and shape by shape, before the first weight is read.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import InputError
from bloomery.model.adapt import merge, merges
from bloomery.model.config import ModelConfig
from bloomery.model.hf import FAMILIES, family_of, from_config, to_config
from bloomery.model.hf_names import Piece, half_rotated, pieces
from bloomery.model.peft_files import adapter_base, load_adapter, text_room
from bloomery.model.transformer import Transformer, model_weights
from bloomery.model.weight_files import SHARD_BYTES, headers, read_json, tensors, weight_files, write_files

HEAD = "lm_head.weight"
FLOATS = ("F16", "BF16", "F32", "F64")
GAMMA = {"gamma": "weight", "beta": "bias"}
BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")       # of old folders: computed, not learned


def folder_pieces(config: ModelConfig, weights: dict[str, Tensor], kind: str) -> dict[str, Piece]:
    """What a folder of this `model_type` holds, by name, for a model with these weights."""
    family = FAMILIES.get(kind)
    shapes = {name: weight.shape for name, weight in weights.items()}
    plan = pieces(config, shapes, family and family.names, transposed=bool(family and family.transposed))
    return {piece.theirs: piece for piece in plan}


def save_model(model: Transformer, folder: Path, *, bos: int | None = None, eos: list[int] | None = None,
               generation: dict | None = None, dtype: torch.dtype = torch.float32,
               shard_bytes: float = SHARD_BYTES) -> None:
    """Write weights in `dtype` and the configuration; `eos` are the ids that end a generation.

    `generation` is another folder's `generation_config.json` (see `load_generation`), carried on.
    """
    folder = Path(folder)
    save_weights(model_weights(model), model.config, folder, dtype=dtype, shard_bytes=shard_bytes)
    said = save_generation(folder, model.config.context, bos=bos, eos=eos, before=generation)
    config = from_config(model.config, bos=said.get("bos_token_id"), eos=said.get("eos_token_id"),
                         pad=said.get("pad_token_id"), dtype=str(dtype).removeprefix("torch."))
    write_atomic(folder / "config.json", json.dumps(config, indent=2))


def save_generation(folder: Path, context: int, *, bos: int | None, eos: list[int] | None,
                    before: dict | None = None) -> dict:
    """Write `generation_config.json`, on from one `before`; what it says."""
    ids = {"bos_token_id": bos, "eos_token_id": eos[0] if eos and len(eos) == 1 else eos}
    said = ids | {"max_length": context} if before is None else \
        before | {key: value for key, value in ids.items() if value is not None}
    write_atomic(folder / "generation_config.json", json.dumps(said, indent=2))
    return said


@torch.no_grad()
def save_weights(weights: dict[str, Tensor], config: ModelConfig, folder: Path, *, dtype: torch.dtype = torch.float32,
                 shard_bytes: float = SHARD_BYTES) -> None:
    """Write weights, by our names (`model_weights`), under those of the folder's family."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = family_of(config)
    weights = half_rotated(weights, config) if kind in FAMILIES else weights
    plan = folder_pieces(config, weights, kind)

    def tensor(name: str) -> Tensor:
        piece = plan[name]
        part = weights[piece.ours].detach()[piece.rows]
        return (part.T if piece.transposed else part).to("cpu", dtype).contiguous()

    sizes = {name: weights[piece.ours][piece.rows].numel() * dtype.itemsize for name, piece in plan.items()}
    write_files(folder, sizes, tensor, shard_bytes)


def load_model(folder: Path, *, compute: torch.dtype = torch.float32,
               dtype: torch.dtype = torch.float32) -> Transformer:
    """Read a folder, single or sharded safetensors, into a model with weights in `dtype`.

    Of an adapter's folder it is the base with the adapter: plain weights where it is a change of weights.
    """
    folder = Path(folder)
    if base := adapter_base(folder):
        model = load_adapter(load_model(base, compute=compute), folder)
        return (merge(model).requires_grad_(True) if merges(model) else model).to(dtype)
    config, kind = load_config(folder), read_json(folder / "config.json")["model_type"]
    files, beside = weight_files(folder), FAMILIES[kind].beside if kind in FAMILIES else ()
    found = {current(name): about for name, about in headers(files).items() if not name.startswith(beside)}
    model = Transformer(config, seed=None, compute=compute).to(dtype)
    own, head = model_weights(model), None
    plan = with_their_prefix(folder_pieces(config, own, kind), kind, found)
    raise_misfits(plan, found, tied=config.tied, where=str(folder))
    with torch.no_grad():
        for name, tensor in tensors(files):
            if piece := plan.get(current(name)):
                own[piece.ours][piece.rows].copy_(tensor.T if piece.transposed else tensor)
            elif name == HEAD:
                head = tensor.to(dtype)
        if head is not None and not torch.equal(head, own["embedding.weight"]):
            raise InputError("the head is not the embedding it is tied to", where=str(folder),
                             why=f"config.json ties them, and {HEAD} holds other numbers",
                             hint='set "tie_word_embeddings" to false in config.json if the head is the right one')
    return model


def current(name: str) -> str:
    """A weight's name as it is today: BERT's first files call those of a norm gamma and beta."""
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda old: "LayerNorm." + GAMMA[old[1]], name)


def with_their_prefix(plan: dict[str, Piece], kind: str, found: Iterable[str]) -> dict[str, Piece]:
    """The same under the names a folder of a bare trunk has: `wte.weight` for `transformer.wte.weight`."""
    prefix = FAMILIES[kind].prefix if kind in FAMILIES else ""
    bare = not any(name.startswith(prefix) for name in found)
    return {name.removeprefix(prefix): piece for name, piece in plan.items()} if bare else plan


def raise_misfits(plan: dict[str, Piece], found: dict[str, tuple[tuple[int, ...], str]], *, tied: bool,
                  where: str) -> None:
    """One error that lists all missing, unexpected and misshaped weights, and those that are no ordinary floats."""
    extra = set(found) - set(plan) - ({HEAD} if tied else set())
    problems = [f"missing {name}" for name in sorted(set(plan) - set(found))]
    problems += [f"unexpected {name}" for name in sorted(extra) if not name.endswith(BUFFERS)]
    for name in sorted(set(plan) & set(found)):
        (shape, kind), wanted = found[name], plan[name].shape
        problems += [f"{name} has shape {shape}, expected {wanted}"] if shape != wanted else []
        problems += [f"{name} is {kind}, expected one of {', '.join(FLOATS)}"] if kind not in FLOATS else []
    if problems:
        raise InputError("weights do not fit the configuration", where=where, why="; ".join(problems))


def is_model(folder: Path) -> bool:
    """Whether a folder holds a model, or an adapter that names its base."""
    return (Path(folder) / "config.json").is_file() or adapter_base(Path(folder)) is not None


def load_config(folder: Path) -> ModelConfig:
    """The shape of a model; behind a learned prefix the context is that of text."""
    if base := adapter_base(Path(folder)):
        config = load_config(base)
        return config.model_copy(update={"context": text_room(config.context, folder)})
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise InputError("not a model folder", where=str(folder), why="it has no config.json",
                         hint=f"give what a training stage wrote, or a Hugging Face folder of {', '.join(FAMILIES)}")
    return to_config(read_json(path), where=str(path))


def load_generation(folder: Path) -> dict:
    """`generation_config.json`, or what `config.json` says about where generations begin and end."""
    path = Path(folder) / "generation_config.json"
    if path.is_file():
        return read_json(path)
    if base := adapter_base(Path(folder)):
        return load_generation(base)
    config = read_json(Path(folder) / "config.json")
    return {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if config.get(key) is not None}
