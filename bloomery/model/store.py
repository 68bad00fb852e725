"""A model as a Hugging Face folder: `config.json`, `generation_config.json`, `model.safetensors`, tokenizer beside it.

Only safetensors are read; a pickle is never opened.  What is loaded is checked name by name and shape by shape.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import InputError
from bloomery.model.config import ModelConfig
from bloomery.model.hf import export_weights, from_config, import_weights, to_config
from bloomery.model.transformer import Transformer


def save_model(model: Transformer, folder: Path, *, bos: int | None = None, eos: list[int] | None = None) -> None:
    """Write weights in fp32 and the configuration; `eos` are the ids that end a generation."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = export_weights(model_weights(model), model.config)
    temporary = folder / ".tmp-model.safetensors"
    save_file({name: w.detach().float().contiguous().cpu() for name, w in weights.items()}, temporary,
              metadata={"format": "pt"})
    temporary.replace(folder / "model.safetensors")
    ends = eos[0] if eos and len(eos) == 1 else eos
    generation = {"bos_token_id": bos, "eos_token_id": ends, "max_length": model.config.context}
    write_atomic(folder / "config.json", json.dumps(from_config(model.config, bos=bos, eos=ends), indent=2))
    write_atomic(folder / "generation_config.json", json.dumps(generation, indent=2))


def model_weights(model: Transformer) -> dict[str, Tensor]:
    """The parameters by name, a tied head once."""
    return {("embedding.weight" if model.config.tied and name == "head.weight" else name): weight
            for name, weight in model.named_parameters()}


def load_config(folder: Path) -> ModelConfig:
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise InputError("not a model folder", where=str(folder), why="it has no config.json",
                         hint="give the folder of a pretrain, sft or dpo stage, or any Hugging Face Llama folder")
    return to_config(json.loads(path.read_text(encoding="utf-8")), where=str(path))


def load_model(folder: Path, *, compute: torch.dtype = torch.float32,
               dtype: torch.dtype = torch.float32) -> Transformer:
    """Read a folder, single or sharded safetensors, into a model with weights in `dtype`."""
    folder = Path(folder)
    config = load_config(folder)
    model = Transformer(config, seed=None, compute=compute)
    own = model_weights(model)
    shapes = {name: weight.shape for name, weight in own.items()}
    weights = import_weights(read_weights(folder), config, shapes, where=str(folder))
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].copy_(weight)
    return model.to(dtype)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder's safetensors files."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if any(Path(name).name != name for name in files):
            raise InputError("a shard lies outside the model folder", where=str(index))
    else:
        files = ["model.safetensors"]
    weights: dict[str, Tensor] = {}
    for name in files:
        path = folder / name
        if not path.is_file():
            pickles = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt"))
            why = f"{', '.join(pickles)} are pickles and can run code when opened" if pickles else "the file is missing"
            raise InputError("no safetensors weights", where=str(path), why=why,
                             hint="convert them with safetensors in a sandbox" if pickles else "copy or make it again")
        try:
            weights |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError("a weight file cannot be read", where=str(path), why=str(error),
                             hint="it was cut short or overwritten: copy or make it again") from error
    return weights
