"""`hf:org/name[@revision]`: a model on the Hugging Face hub, and `hf:datasets/org/name[@revision]`, its data.

What is read is named by its commit, so that a stage's hash covers content and never a branch that moves.  Only files we
read are fetched, safetensors, JSON, templates and data: never a pickle, never code.  What is in the local cache is used
when there is no network (`HF_HUB_OFFLINE=1` forbids asking).
"""

import re
from functools import cache
from pathlib import Path
from types import ModuleType

from bloomery.core.errors import BloomeryError, InputError
from bloomery.core.files import READERS

PREFIX = "hf:"
ID = re.compile(r"hf:(datasets/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
MODEL_FILES = ["*.safetensors", "*.json", "*.jinja"]
DATA_FILES = [f"*{extension}" for extension in READERS]
LEFT_OUT = ["*/*"]                      # of models: other formats and other people's checkpoints lie in folders


def is_hub_id(value: str) -> bool:
    """Whether a text names something on the hub; a local path never begins with `hf:`."""
    return value.startswith(PREFIX)


def parsed(value: str) -> tuple[str, str, str | None]:
    """Kind (model or dataset), repository and revision of an id."""
    found = ID.fullmatch(value)
    if not found:
        raise InputError("not a model on the hub", where=value, why="it is not of the form hf:org/name[@revision]",
                         hint="for example hf:HuggingFaceTB/SmolLM2-135M, or hf:datasets/org/name for data")
    return "dataset" if found[1] else "model", found[2], found[3]


def client() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise BloomeryError("huggingface_hub is not installed", why=str(error),
                            hint="pip install 'bloomery[hub]', or give a local folder") from error
    return huggingface_hub


@cache
def commit(value: str) -> str:
    """The commit an id stands for, the same all process long: the hub's word, or the cache's where it gives none."""
    kind, repository, revision = parsed(value)
    if revision and COMMIT.fullmatch(revision):
        return revision
    try:
        return client().HfApi().repo_info(repository, revision=revision, repo_type=kind).sha
    except BloomeryError:
        raise
    except Exception as error:                              # no network shows in a dozen kinds of error
        return Path(snapshot(value, revision, offline=True, instead=error)).name


def folder(value: str) -> Path:
    """The local folder with an id's files, fetched into the hub's cache when they are not there."""
    return Path(snapshot(value, commit(value)))


def snapshot(value: str, revision: str | None, *, offline: bool = False, instead: Exception | None = None) -> str:
    """The folder of one revision in the cache; `InputError` when there is none, with the reason the hub gave."""
    kind, repository, _ = parsed(value)
    wanted = {"allow_patterns": DATA_FILES} if kind == "dataset" else \
        {"allow_patterns": MODEL_FILES, "ignore_patterns": LEFT_OUT}
    hub = client()
    try:
        return hub.snapshot_download(repository, revision=revision, repo_type=kind, local_files_only=offline, **wanted)
    except Exception as error:
        said = str(instead or error).strip().partition("\n")[0]
        raise InputError("not found on the hub, and not in its cache", where=value,
                         why=f"{type(instead or error).__name__}: {said}",
                         hint="check the name and the network, or give a local folder; HF_TOKEN opens private ones"
                         ) from error


def located(value: str) -> str:
    """A path as it is, a hub id as the folder its files are in."""
    return str(folder(value)) if is_hub_id(value) else value
