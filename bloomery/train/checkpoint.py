"""Checkpoints that survive `kill -9` and are never loaded damaged.

    step-00001200/  model.safetensors  optim.safetensors (moments by parameter name)  state.json  MANIFEST.json
                    ema.safetensors (the average of the weights, if one is kept); split models: see `shard_files.py`

A checkpoint is written into a temporary folder, every file is hashed and synced, `MANIFEST.json` comes last, and one
rename makes it real.  Loading starts with the newest, compares every hash, sets a damaged one aside as `.corrupt` and
takes the one before.  There is no pickle and no random state: data order and randomness are functions of the step.

`Saver` copies the state and lets training go on while a thread of low priority writes the copy.
"""

import json
import math
import os
import shutil
import sys
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from bloomery.core.artifacts import FULL, check_space, file_hash, sync_folder
from bloomery.core.errors import BloomeryError, InputError
from bloomery.core.metrics import say
from bloomery.model.adapt import trained_weights
from bloomery.model.config import ModelConfig
from bloomery.model.store import model_weights
from bloomery.model.transformer import Transformer
from bloomery.train.ema import Ema
from bloomery.train.hooks import BEST_STEP
from bloomery.train.optim import moments
from bloomery.train.parallel import Sharded
from bloomery.train.shard_files import LAYOUT, consolidate, load_shards, save_shards
from bloomery.train.state import State
from bloomery.train.tensor_file import write_tensors

KEPT = 2                # complete checkpoints that are never removed
FAILURES = 3            # failed saves in a row after which training stops
IDLE = 19               # niceness of the writing thread

Files = dict[str, dict[str, Tensor]]


def contents(state: State, average: Ema | None = None) -> Files:
    """The tensors of a state, by file and name; not copied. Frozen weights are those the training began with."""
    return {"model.safetensors": {name: w.detach() for name, w in trained_weights(state.model).items()},
            "optim.safetensors": moments(state.model, state.optimizers),
            **({"ema.safetensors": average.tensors()} if average else {})}


def record(state: State) -> dict:
    """What a state is beside its tensors, as it is now: it is written beside training, which goes on."""
    return {"step": state.step, "steps": state.steps, "tokens": state.tokens, "best": dict(state.best),
            "guard": state.guard.remembered()}


@dataclass
class Saver:
    """Writes the checkpoints of one run. Training waits for a copy in memory only; one write is under way at a time.

    `identity` names configuration and data; a checkpoint of another identity is not resumed from.  What goes wrong
    while writing is raised by the next call; a full disk only after `FAILURES` times, the checkpoints before are safe.
    """

    folder: Path
    identity: str
    kept: int = KEPT
    background: bool = True
    failures: int = 0
    _copy: Files = field(default_factory=dict)
    _writer: threading.Thread | None = None
    _error: BaseException | None = None

    def save(self, state: State, *, about: dict | None = None, average: Ema | None = None) -> None:
        """Save this very state, whatever training does to it afterwards. All ranks call it, each does its part."""
        self.wait()
        final = Path(self.folder) / f"step-{state.step:08d}"
        told = {**record(state), "identity": self.identity, **(about or {})}
        if isinstance(state.ranks, Sharded):
            write_split(final, state, told, kept=self.kept)
            return
        if not state.team.leads or final.exists():
            return
        files = contents(state, average)
        if not self.background:
            self._write(final, files, told)
            self._raise()
            return
        self._keep(files)
        self._writer = threading.Thread(target=self._write_aside, args=(final, self._copy, told), name="checkpoint")
        self._writer.start()

    def wait(self) -> None:
        """Until what was saved is on disk; raises what went wrong with it."""
        if self._writer:
            self._writer.join()
            self._writer = None
        self._raise()

    def _keep(self, files: Files) -> None:
        """Copy tensors into buffers that are used again for every checkpoint: new memory would cost a page fault each
        4 KB, three times the copy itself."""
        for name, tensors in files.items():
            kept = self._copy.setdefault(name, {})
            for key, tensor in tensors.items():
                if key not in kept:
                    kept[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            if tensors:                                         # before the first step there are no moments
                torch._foreach_copy_([kept[key] for key in tensors], list(tensors.values()))

    def _write_aside(self, final: Path, files: Files, told: dict) -> None:
        """Let training have the processor first (on Linux, threads have priorities of their own)."""
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), IDLE)
        self._write(final, files, told)

    def _write(self, final: Path, files: Files, told: dict) -> None:
        try:
            write(final, files, told, kept=self.kept)
            self.failures = 0
        except OSError as error:
            self.failures += 1
            if error.errno not in FULL or self.failures >= FAILURES:
                self._error = error
            else:
                say(f"warning: no checkpoint at step {told['step']} ({error.strerror}); those before are kept")
        except BaseException as error:
            self._error = error

    def _raise(self) -> None:
        if self._error:
            error, self._error = self._error, None
            if isinstance(error, OSError):
                raise BloomeryError("checkpoints cannot be written", where=str(self.folder), why=str(error),
                                    hint="the last complete one is kept; free some space and run again") from error
            raise error


def save(state: State, folder: Path, *, identity: str, about: dict | None = None) -> Path:
    """Write `folder/step-<step>` and return when it is on disk."""
    Saver(Path(folder), identity, background=False).save(state, about=about)
    return Path(folder) / f"step-{state.step:08d}"


def write(final: Path, files: Files, told: dict, *, kept: int = KEPT) -> None:
    """Write one checkpoint folder; older ones beyond `kept` are removed once it has been read back."""
    folder = final.parent
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensor in files["model.safetensors"].items():
        if not math.isfinite(total(tensor)):
            raise BloomeryError("weights are not finite, so they are not saved", where=f"step {told['step']}, {name}",
                                hint="lower optimizer.lr; the checkpoint before is kept")
    check_space(folder, sum(t.nbytes for tensors in files.values() for t in tensors.values()) + 2**20)
    temporary = folder / f".tmp-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        commit(temporary, final, {name: write_tensors(temporary / name, {key: t.cpu().contiguous() for key, t in
                                                                         tensors.items()})
                                  for name, tensors in files.items()}, told)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)            # a full disk is not helped by half a checkpoint
        raise
    retire(folder, final, kept, told)


def write_split(final: Path, state: State, told: dict, *, kept: int = KEPT) -> None:
    """The same for a split model: every rank writes its pieces, rank 0 commits when all of them are on disk."""
    team, folder = state.team, final.parent
    name = team.broadcast(None if final.exists() else f".tmp-{uuid.uuid4().hex}")
    if name is None:
        return
    temporary = folder / name
    if team.leads:
        temporary.mkdir(parents=True)
    team.barrier()
    manifest = save_shards(state, temporary)
    if team.leads:
        manifest[LAYOUT] = ((temporary / LAYOUT).stat().st_size, file_hash(temporary / LAYOUT))
        commit(temporary, final, manifest, told)
        retire(folder, final, kept, told)
    team.barrier()


def commit(temporary: Path, final: Path, manifest: dict[str, tuple[int, str]], told: dict) -> None:
    """Make a folder whose tensors are on disk a checkpoint: what it is, the hash of everything, one rename."""
    text = json.dumps(told, indent=1)
    synced(temporary / "state.json", text)
    manifest["state.json"] = (len(text.encode()), file_hash(temporary / "state.json"))
    synced(temporary / "MANIFEST.json", json.dumps(manifest, indent=1))
    sync_folder(temporary)
    os.rename(temporary, final)
    sync_folder(final.parent)


def retire(folder: Path, final: Path, kept: int, told: dict) -> None:
    """Remove checkpoints beyond the newest `kept` and the best, once the newest has been read back."""
    if damage(final) is None:
        for old in checkpoints(folder)[:-max(kept, KEPT)]:
            if int(old.name[5:]) != told.get("best", {}).get(BEST_STEP):
                shutil.rmtree(old)


def total(weights: Tensor) -> float:
    """The sum of all weights, which is finite if they are; by numpy, which starts no threads beside training's."""
    return float(weights.cpu().float().numpy().sum(dtype=np.float64))


def synced(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


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
        whole = {"model.safetensors", "optim.safetensors", "state.json"} <= set(manifest)
        return None if whole or {LAYOUT, "state.json"} <= set(manifest) else "files missing"
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


def load(state: State, checkpoint: Path, saved: dict, *, identity: str, accept: bool = False) -> None:
    """Put a verified checkpoint into a fresh state of the same run; with `accept`, of a run whose options changed."""
    if saved["identity"] != identity or saved["steps"] != state.steps:
        if not accept:
            raise InputError("this checkpoint belongs to another run", where=str(checkpoint),
                             why="its configuration or data differ",
                             hint="choose another out=FOLDER, or go on all the same with accept_change=true")
        say(f"warning: {checkpoint.name} was made with other options or data; training goes on from it as asked")
    load_shards(state, checkpoint, stepped=saved["step"] > 0)
    state.step, state.tokens, state.best = saved["step"], saved["tokens"], saved["best"]
    state.guard.restore(saved["guard"])


def load_best(state: State, average: Ema | None, folder: Path) -> int:
    """Put the weights and metrics of the best validation back; its step. `state.step` stays how far training came."""
    step = int(state.best[BEST_STEP])
    path = folder / f"step-{step:08d}"
    state.team.barrier()                                        # rank 0 has written it
    if problem := damage(path):
        raise BloomeryError("the best checkpoint is damaged", where=str(path), why=problem,
                            hint="the last one is whole: run again without early_stopping and accept_change=true")
    load_shards(state, path, stepped=step > 0)
    restore_average(average, folder, step)
    state.best |= json.loads((path / "state.json").read_text())["best"]
    return step


def restore_average(average: Ema | None, folder: Path, step: int) -> None:
    """Put the average of the weights back that the checkpoint of `step` has."""
    if average:
        average.restore(load_file(folder / f"step-{step:08d}" / "ema.safetensors"))


def whole_model(config: ModelConfig, checkpoint: Path, compute: torch.dtype) -> Transformer:
    """The model of a checkpoint in one piece, whoever wrote it."""
    model = Transformer(config, seed=None, compute=compute)
    weights, own = consolidate(checkpoint), model_weights(model)
    raise_unless_whole(own, weights, checkpoint)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    return model


def raise_unless_whole(own: Iterable[str], saved: Iterable[str], checkpoint: Path) -> None:
    """`InputError` for a checkpoint of a training in which weights were frozen: it does not hold them."""
    if set(own) != set(saved):
        raise InputError("this checkpoint is no whole model", where=str(checkpoint),
                         why="it holds what was trained of an adapted model, and not the base",
                         hint="run the training's command again to its end, then use the folder it writes")
