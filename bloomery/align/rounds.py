"""Training in rounds: draw from the newest model, judge, learn from it, and again; each round a folder of its own.

    out/round-1/    what the round drew, chose and learned, its model, DONE
    out/            metrics of all rounds, and the last round's model and answers

A finished round is never made again: a run that goes on after a stop begins in the round it was in.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from bloomery.align.candidates import Group, SamplingConfig, draw, room
from bloomery.align.diagnostics import Watch, WatchConfig
from bloomery.core.artifacts import fingerprint, produce, write_atomic
from bloomery.core.config import Input, essential, fixed
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import MetricLog, say, shorten
from bloomery.core.records import Problem
from bloomery.data.formats import conversations, problems
from bloomery.data.stream import samples
from bloomery.model.adapt import AdaptConfig
from bloomery.model.store import load_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.train.precision import machine
from bloomery.train.session import joined
from bloomery.train.tuning import TuningConfig, export, export_adapter

WHOLE = ("full", "lora", "qlora", "ia3")         # ways of adapting whose result is a model of plain weights

T = TypeVar("T")
Enough = Callable[[list[dict]], str | None]


class RoundsWatchConfig(WatchConfig):
    """What is looked at beside the loss, wherever there are held-out prompts."""

    prompts: int = Field(64, ge=0, description="held-out prompts the model answers at every validation; 0: none")


class RoundsConfig(TuningConfig):
    """Options of every stage that trains in rounds; those of training are each round's."""

    data: Input = Field(description="a file or folder of prompts, with or without answers")
    validation: Input | None = Field(None, description="held-out prompts, on which the model is watched")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ: question = \"prompt\"")
    rounds: int = Field(3, gt=0, description="how often to draw and learn")
    prompts: int = Field(256, gt=0, description="prompts a round, each round's the next of the data")
    sampling: SamplingConfig = SamplingConfig()
    adapt: AdaptConfig = AdaptConfig()
    watch: RoundsWatchConfig = RoundsWatchConfig()


class NothingToLearn(InputError):
    """A round found nothing it could learn from: an error in the first, in a later one the end."""


@dataclass(frozen=True)
class Round:
    """One round: its number from 1, the model it draws from, the folders of those before it, its own."""

    number: int
    source: Path
    before: tuple[Path, ...]
    folder: Path

    def of(self, rows: Sequence[T], size: int, seed: int) -> list[T]:
        """This round's share of the prompts: each is asked once before any is asked again."""
        order, size = samples(0, len(rows), len(rows), seed).tolist(), min(size, len(rows))
        start = (self.number - 1) * size
        return [rows[order[place % len(rows)]] for place in range(start, start + size)]

    def seed(self, seed: int) -> int:
        """A seed that no other round has."""
        return (seed << 16) + self.number


def in_rounds(config: RoundsConfig, out: Path, *, name: str, renderer: Renderer, build: Callable[[Round], dict],
              enough: Enough = lambda rows: None) -> list[dict]:
    """Make every round with `build`, or until `enough` gives a reason to stop; the last model is exported to `out`.

    What comes back are the rounds' metrics in order.
    """
    if joined().size > 1:
        raise ConfigError("rounds are drawn and trained by one process", where=name, hint="run it without torchrun")
    if config.adapt.method not in WHOLE:
        raise ConfigError("a round's model must be whole, for the next to draw from", where=f"{name}.adapt.method",
                          why=f"{config.adapt.method} cannot be merged", hint=f"one of {', '.join(WHOLE)}")
    folders: list[Path] = []
    rows: list[dict] = []
    options = {name: value for name, value in essential(config).items() if name != "rounds"}
    key = fingerprint(options)
    with MetricLog(out, name=name) as log:
        for number in range(1, config.rounds + 1):
            this = Round(number=number, source=folders[-1] if folders else Path(config.model), before=tuple(folders),
                         folder=out / f"round-{number}")
            key = fingerprint([key, number])
            try:
                made = produce(this.folder, stage=f"round-{number}", verb=name, key=key, config=options, parents={},
                               build=lambda folder, this=this: build(this), fixed=fixed(type(config)),
                               origin={"config": options, "inputs": {}}, adopt=config.accept_change)
            except NothingToLearn as error:
                if not folders:
                    raise
                say(f"  {name}: ends after round {number - 1}: {error.what}, {error.why}")
                break
            folders.append(this.folder)
            rows.append(made.metrics)
            log.log(number, quiet=True, **{k: v for k, v in made.metrics.items() if isinstance(v, (int, float))})
            say(f"  {name}: round {number} of {config.rounds}: {told(made.metrics)}")
            if reason := enough(rows):
                say(f"  {name}: ends after round {number}: {reason}")
                break
    model = load_model(folders[-1], compute=machine(config)[0])
    export(model, renderer, out)
    shutil.copyfile(folders[-1] / "answers.json", out / "answers.json")
    return rows


def prompts(config: RoundsConfig, out: Path, *, answered: bool = False) -> tuple[list[Problem], list[Problem]]:
    """The prompts to draw for, and those to watch the model on; if `answered`, with the answers that are wanted."""
    sources = [config.data, *([config.validation] if config.validation else [])]
    found = [wanted(source, config.columns) if answered else asked(source, config.columns) for source in sources]
    quarantine = Quarantine()
    for _, own in found:
        quarantine.entries += own.entries
        quarantine.reasons.update(own.reasons)
    quarantine.write(out)
    return found[0][0], found[1][0] if config.validation else []


def asked(path: str, columns: dict[str, str]) -> tuple[list[Problem], Quarantine]:
    """Prompts with the answers that are known, or conversations whose last answer is that."""
    quarantine = Quarantine()
    try:
        return problems(path, quarantine, columns=columns), quarantine
    except InputError as error:
        try:
            return wanted(path, columns)
        except InputError:
            raise error from None


def wanted(path: str, columns: dict[str, str]) -> tuple[list[Problem], Quarantine]:
    """Conversations as prompts with the answer that ends them. `InputError` if none ends with one."""
    quarantine = Quarantine()
    rows = conversations(path, quarantine, columns=columns)
    found = [Problem(row.messages[:-1], row.messages[-1].spoken, row.task, row.id) for row in rows
             if row.messages[-1].role == "assistant" and len(row.messages) > 1]
    if not found:
        raise InputError("no conversation has an answer", where=path, hint="end each with the wanted answer",
                         why=f"of {len(rows)} none ends with the assistant")
    return found, quarantine


def drawn(config: RoundsConfig, this: Round, model: Transformer, renderer: Renderer, rows: Sequence[Problem], *,
          n: int) -> tuple[list[Group], dict[str, int]]:
    """`n` answers to each of the round's prompts, and how many prompts there were and had no room for an answer."""
    fitting, without_room = room(this.of(rows, config.prompts, config.seed), renderer, model.config.context,
                                 where=config.data)
    groups = draw(model, renderer, fitting, config.sampling, n=n, seed=this.seed(config.seed),
                  path=this.folder / "candidates.jsonl")
    return groups, {"prompts": len(groups), "prompts_without_room": without_room}


def finish(model: Transformer, config: RoundsConfig, renderer: Renderer, this: Round, watch: Watch) -> None:
    """Write a round's model, whole, and what was answered before and is answered now."""
    whole = model if config.adapt.method == "full" else \
        export_adapter(model, renderer, this.folder, base=str(this.source))
    export(whole, renderer, this.folder)
    rows = watch.before_and_after(whole)
    write_atomic(this.folder / "answers.json", json.dumps(rows, indent=1, ensure_ascii=False))


def told(metrics: dict) -> str:
    """The figures of a round that a person looks for."""
    return "  ".join(f"{name} {shorten(metrics[name])}" for name in SAID if metrics.get(name) is not None)


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


SAID = ("examples", "pairs", "reward", "reward_best", "margin", "val_reward", "val_win_rate", "val_win_rate_low",
        "val_win_rate_high", "val_kl")
