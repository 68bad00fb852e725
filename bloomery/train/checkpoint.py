"""Checkpoints that survive `kill -9` and are never loaded damaged.

    step-00001200/  model.safetensors  optim.safetensors (moments by parameter name)  state.json  MANIFEST.json

A checkpoint is written into a temporary folder, every file is hashed and synced, `MANIFEST.json` comes last, and one
rename makes it real.  Loading starts with the newest, compares every hash, sets a damaged one aside as `.corrupt` and
takes the one before.  There is no pickle and no random state: data order and randomness are functions of the step.
"""

import json
import os
import shutil
import uuid
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bloomery.core.artifacts import check_space, file_hash, sync_folder
from bloomery.core.errors import InputError
from bloomery.core.metrics import say
from bloomery.model.store import model_weights
from bloomery.train.optim import moments, restore_moments
from bloomery.train.state import State

KEPT = 2                # complete checkpoints that are never removed


def save(state: State, folder: Path, *, identity: str, about: dict | None = None) -> Path:
    """Write `folder/step-<step>`; older ones beyond `KEPT` are removed once the new one has been read back.

    `identity` names configuration and data; a checkpoint of another identity is not resumed from.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{state.step:08d}"
    if final.exists():
        return final
    weights = {name: w.detach() for name, w in model_weights(state.model).items()}
    optimizer_state = moments(state.model, state.optimizers)
    check_space(folder, 2 * sum(t.nbytes for t in (*weights.values(), *optimizer_state.values())))
    temporary = folder / f".tmp-{uuid.uuid4().hex}"
    temporary.mkdir()
    save_file(weights, temporary / "model.safetensors")
    save_file(optimizer_state, temporary / "optim.safetensors")
    (temporary / "state.json").write_text(json.dumps(
        {"step": state.step, "steps": state.steps, "tokens": state.tokens, "best": state.best, "identity": identity,
         **(about or {})}, indent=1))
    manifest = {p.name: (p.stat().st_size, file_hash(p)) for p in sorted(temporary.iterdir())}
    (temporary / "MANIFEST.json").write_text(json.dumps(manifest, indent=1))
    for path in temporary.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    sync_folder(temporary)
    os.rename(temporary, final)
    sync_folder(folder)
    if damage(final) is None:
        for old in checkpoints(folder)[:-KEPT]:
            shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders by step, oldest first."""
    found = [p for p in Path(folder).glob("step-*") if p.is_dir() and p.name[5:].isdigit()]
    return sorted(found, key=lambda p: int(p.name[5:]))


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None: every file is there with its size and SHA-256."""
    try:
        manifest = json.loads((checkpoint / "MANIFEST.json").read_text())
        for name, (size, digest) in manifest.items():
            path = checkpoint / name
            if not path.is_file() or path.stat().st_size != size or file_hash(path) != digest:
                return f"{name} does not match its hash"
        return None if {"model.safetensors", "optim.safetensors", "state.json"} <= set(manifest) else "files missing"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"MANIFEST.json cannot be read ({error})"


def latest(folder: Path) -> tuple[Path, dict] | None:
    """The newest undamaged checkpoint and its state; damaged ones are renamed to `.corrupt-*`, loudly."""
    folder = Path(folder)
    for leftover in folder.glob(".tmp-*"):
        shutil.rmtree(leftover)
    for checkpoint in reversed(checkpoints(folder)):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint, json.loads((checkpoint / "state.json").read_text())
        aside = folder / f".corrupt-{checkpoint.name}-{uuid.uuid4().hex[:6]}"
        checkpoint.rename(aside)
        say(f"warning: checkpoint {checkpoint} is damaged ({problem}); kept as {aside.name}, using the one before")
    return None


def load(state: State, checkpoint: Path, saved: dict, *, identity: str) -> None:
    """Put a verified checkpoint into a fresh state of the same run."""
    if saved["identity"] != identity or saved["steps"] != state.steps:
        raise InputError("this checkpoint belongs to another run", where=str(checkpoint),
                         why="its configuration or data differ", hint="choose another out=FOLDER")
    weights = load_file(checkpoint / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model_weights(state.model).items():
            parameter.copy_(weights[name])
    restore_moments(state.model, state.optimizers, load_file(checkpoint / "optim.safetensors"))
    state.step, state.tokens, state.best = saved["step"], saved["tokens"], saved["best"]
