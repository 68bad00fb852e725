"""What is served: a fixed table from ids to models, made once at the start. No request can name a path.

A model's folder speaks, if its generations end with a turn-end, else it continues text; an encoder's makes vectors.  A
training's folder, or one of checkpoints, serves the newest that is undamaged; `newest` looks again, without touching
what training is writing.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bloomery.core.errors import ConfigError, InputError
from bloomery.core.metrics import say
from bloomery.generate.engine import Engine
from bloomery.generate.scoring import Reward, RewardModel
from bloomery.generate.vectors import Reader
from bloomery.model.config import ModelConfig
from bloomery.model.hub import is_hub_id, located, parsed
from bloomery.model.int8 import quantise
from bloomery.model.scalar import is_scalar
from bloomery.model.store import is_model, load_config, load_generation, load_model
from bloomery.model.transformer import Transformer
from bloomery.model.vectors import pooling_in
from bloomery.model.weight_files import read_json
from bloomery.serve.settings import ServeSettings
from bloomery.text.chat import Renderer, load_renderer
from bloomery.text.tokenizer import Tokenizer
from bloomery.train.checkpoint import checkpoints, damage, whole_model
from bloomery.train.precision import choose, placed, products

CONTINUES = ("pretrain", "extend")          # verbs whose models continue text


@dataclass
class Served:
    """A model and what it takes to talk to it. What judges has a `reward` and no engine, and need not be a model."""

    id: str
    kind: str
    folder: Path = Path()
    config: ModelConfig | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    checkpoint: Path | None = None
    engine: Engine | Reader | None = None
    renderer: Renderer | None = None
    ends: frozenset[int] = frozenset()
    reward: Reward | None = None
    pooling: str | None = None          # where it learned to be read for vectors

    @property
    def tokenizer(self) -> Tokenizer:
        return self.renderer.tokenizer

    @property
    def context(self) -> int:
        return self.engine.context if self.engine else self.config.context if self.config else 0

    def card(self) -> dict:
        """Its entry in GET /v1/models."""
        return {"id": self.id, "object": "model", "created": self.created, "owned_by": "bloomery", "kind": self.kind,
                "context": self.context, "parameters": self.config.parameters() if self.config else 0,
                "checkpoint": self.checkpoint and self.checkpoint.name}


@dataclass
class Models:
    """All that is served, in the order given."""

    table: dict[str, Served] = field(default_factory=dict)

    def add(self, served: Served) -> None:
        if served.id in self.table:
            raise ConfigError(f"two models are called {served.id}", where=str(served.folder),
                              hint=f"name one of them: other={served.folder}")
        self.table[served.id] = served

    @property
    def engines(self) -> dict[str, Engine | Reader]:
        return {name: served.engine for name, served in self.table.items() if served.engine}


def open_models(models: list[str], settings: ServeSettings, *, rewards: list[str] = (), tokenizer: str = "") -> Models:
    """Load `[NAME=]FOLDER` or `[NAME=]hf:org/name` each; `tokenizer` is for trainings that have none beside them."""
    found = Models()
    for given in models:
        found.add(open_model(*named(given), settings, tokenizer))
    for given in rewards:
        name, folder = named(given)
        judge = RewardModel(folder, device=placed(settings.device))
        found.add(Served(name, "reward", folder, load_config(folder), reward=judge))
    return found


def named(given: str) -> tuple[str, Path]:
    """The id a model is served under, and its folder: `dpo=runs/x/dpo-1a2b`, or the folder's own name."""
    name, equals, place = given.partition("=")
    if not equals or "/" in name:
        name, place = "", given
    folder = Path(located(place) if is_hub_id(place) else place).resolve()
    return name or (parsed(place)[1] if is_hub_id(place) else folder.name), folder


def open_model(name: str, folder: Path, settings: ServeSettings, tokenizer: str = "") -> Served:
    """A model's folder, a training's, or one of checkpoints."""
    if not folder.is_dir():
        raise InputError("no model", where=str(folder), why="there is no such folder")
    if (folder / "config.json").is_file() and is_scalar(folder):
        raise InputError("this model scores and does not speak", where=str(folder), hint="give it with --reward")
    checkpoint = newest(folder)
    finished = is_model(folder)
    if not finished and checkpoint is None:
        load_config(folder)                                 # says what is missing
    stage = folder.parent if folder.name == "checkpoints" else folder
    words = Path(tokenizer) if tokenizer else speech_of(folder if finished else stage)
    renderer = load_renderer(words)
    config = load_config(folder) if finished else shape(checkpoint)
    compute, pooling = precision(settings, config), pooling_in(folder)
    if not config.causal:
        return Served(name, "embedding", folder, config, engine=encoder(folder, settings, compute), renderer=renderer,
                      pooling=pooling or "mean")
    if finished:
        model, checkpoint = load_model(folder, compute=compute, dtype=compute), None
        ends = load_generation(folder).get("eos_token_id")
        ends = {ends} if isinstance(ends, int) else set(ends or ())
    else:
        model = whole_model(config, checkpoint, compute).to(compute)
        ends = {renderer.tokenizer.eos} if verb(stage) in CONTINUES else {renderer.end}
    kind = "chat" if renderer.answers(ends) else "completion"
    engine = Engine(ready(model, settings), renderer.tokenizer, slots=settings.slots, chunk=settings.chunk,
                    context=min(settings.context or config.context, config.context), own=True)
    made = int(max(path.stat().st_mtime for path in (folder.glob("*config.json") if finished else [checkpoint])))
    return Served(name, kind, folder, config, made, checkpoint, engine, renderer,
                  frozenset(ends | {renderer.tokenizer.eos}), pooling=pooling)


def encoder(folder: Path, settings: ServeSettings, compute: torch.dtype) -> Reader:
    """A finished encoder, which is asked for vectors and nothing else."""
    if not is_model(folder):
        raise InputError("this encoder is still being trained", where=str(folder), hint="serve it when it is done")
    model, longest = load_model(folder, compute=compute, dtype=compute), load_config(folder).context
    return Reader(ready(model, settings), context=min(settings.context or longest, longest))


def precision(settings: ServeSettings, config: ModelConfig) -> torch.dtype:
    """What a model computes in; "auto" is what this machine is faster at when all slots decode."""
    return torch.bfloat16 if settings.dtype == "int8" else \
        choose(settings.dtype, products(config, settings.slots), device=settings.device)[0]


def ready(model: Transformer, settings: ServeSettings) -> Transformer:
    """The same where it is to be computed, with eight-bit weights if they are asked for."""
    model = model.eval().to(placed(settings.device))
    return quantise(model) if settings.dtype == "int8" else model


def speech_of(folder: Path) -> Path:
    """Where a model's tokenizer is: beside it, or with a training that is under way, in its recipe's only one."""
    beside = sorted(folder.parent.glob("tokenizer-*/tokenizer.json"))
    return beside[0].parent if not (folder / "tokenizer.json").is_file() and len(beside) == 1 else folder


def verb(stage: Path) -> str:
    """What makes a stage's folder, as far as that is known."""
    begun = stage / ".begun"
    return read_json(begun)["verb"] if begun.is_file() else ""


def shape(checkpoint: Path) -> ModelConfig:
    told = read_json(checkpoint / "state.json").get("model")
    if not told:
        raise InputError("this checkpoint does not say what its model is", where=str(checkpoint),
                         hint="go on with the run; newer checkpoints say it")
    return ModelConfig.model_validate(told)


def newest(folder: Path) -> Path | None:
    """The newest undamaged checkpoint of a folder, its `checkpoints`, or itself; damaged ones are passed over, said.

    Nothing is renamed or removed: a training may be at work here.
    """
    if (folder / "state.json").is_file():
        candidates = [folder]
    else:
        candidates = checkpoints(folder / "checkpoints") or checkpoints(folder)
    for candidate in reversed(candidates):
        problem = damage(candidate)
        if problem is None:
            return candidate
        say(f"warning: {candidate} is passed over: {problem}")
    return None


def reread(served: Served, settings: ServeSettings) -> tuple[Transformer, Path | None] | None:
    """The weights a model's folder holds now, and their checkpoint; None when they are those that are served."""
    compute = served.engine.model.compute
    if served.checkpoint is None:
        model = load_model(served.folder, compute=compute, dtype=compute)
        if load_config(served.folder) != served.config:
            raise InputError(f"{served.id} has changed its shape", hint="start the server again")
        return ready(model, settings), None
    found = newest(served.folder)
    if found is None or found == served.checkpoint:
        return None
    return ready(whole_model(served.config, found, compute).to(compute), settings), found
