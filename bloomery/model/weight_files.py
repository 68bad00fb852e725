"""Safetensors on disk: the weights of a folder in one file, or in shards with an index.

A pickle is never opened, and nothing outside the folder.  The library refuses a header that lies: sizes, gaps,
overlaps, a short file.  What is refused is refused before any weight is read.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import InputError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = "model-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9].safetensors"
SHARD_BYTES = 5e9                       # as large as transformers lets a file become
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def write_files(folder: Path, sizes: dict[str, int], tensor: Callable[[str], Tensor], limit: float) -> None:
    """Write tensors in the order of `sizes` (bytes by name), in as many files as `limit` asks for.

    All files are complete before the first takes its place, and what an earlier save left is then removed.
    """
    shards = cut(sizes, limit)
    names = [SINGLE] if len(shards) == 1 else [
        f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for file, shard in zip(names, shards, strict=True):
        save_file({name: tensor(name) for name in shard}, folder / f".tmp-{file}", metadata={"format": "pt"})
    for file in names:
        (folder / f".tmp-{file}").replace(folder / file)
    for stale in {SINGLE, *(path.name for path in folder.glob(SHARDS))} - set(names):
        (folder / stale).unlink(missing_ok=True)
    if len(names) == 1:
        (folder / INDEX).unlink(missing_ok=True)
    else:
        where = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where}
        write_atomic(folder / INDEX, json.dumps(index, indent=2))


def cut(sizes: dict[str, int], limit: float) -> list[list[str]]:
    """Names in order, a new list wherever one would grow beyond `limit` bytes."""
    shards: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if shards[-1] and held + size > limit:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, each of them inside it."""
    files = [folder / SINGLE]
    if (folder / INDEX).is_file():
        where = read_json(folder / INDEX).get("weight_map")
        if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
            raise InputError("a model folder cannot be read", where=str(folder / INDEX), why="it has no weight_map")
        files = [folder / name for name in sorted(set(where.values()))]
    home = folder.resolve()
    home = home.parents[1] if home.parent.name == "snapshots" else home         # the hub's cache links to its blobs
    for path in files:
        if path.parent != folder or not path.resolve().is_relative_to(home):
            raise InputError("a weight file lies outside the model folder", where=str(path),
                             why=f"it is {path.resolve()}", hint="copy the file itself into the folder")
        if not path.is_file() or path.suffix != ".safetensors":
            pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
            why = f"{', '.join(pickles)} are pickles and can run code when opened" if pickles else "the file is missing"
            raise InputError("no safetensors weights", where=str(path), why=why,
                             hint="convert them with safetensors in a sandbox" if pickles else "copy or make it again")
    return files


def headers(files: list[Path]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every tensor."""
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
                inside = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}
        except (SafetensorError, OSError) as error:
            raise InputError("a weight file cannot be read", where=str(path), why=str(error),
                             hint="it was cut short or overwritten: copy or make it again") from error
        if twice := sorted(inside.keys() & found.keys()):
            raise InputError("weights stand in two files", where=str(path), why=", ".join(twice))
        found |= inside
    return found


def tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of these files, one at a time."""
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)


def read_json(path: Path) -> dict:
    """One of a folder's JSON files; an `InputError` when it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        why = "" if isinstance(value, dict) else "it is not a JSON object"
    except (OSError, ValueError) as error:
        why = str(error)
    if why:
        raise InputError("a model folder cannot be read", where=str(path), why=why, hint="copy or make the file again")
    return value
