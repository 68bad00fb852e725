"""The table of stages: verb -> the module that does it. One line a verb; this is the only place that imports by name.

A stage module holds `class Config(Settings)`, `run(config, out) -> metrics` and, where the work can be foretold,
`forecast(config, planned) -> dict`, where `planned` is what stages before it have foretold of folders not made yet.
It is imported when it is needed, so that `bloomery --help` does not wait for torch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType

from bloomery.core.config import Settings


@dataclass(frozen=True)
class Stage:
    """Where a verb's code is, which options it presets, and what `--help` says of it."""

    module: str
    about: str
    example: str
    preset: dict = field(default_factory=dict)


Run = Callable[[Settings, Path], dict]
Forecast = Callable[[Settings, dict[str, dict]], dict]

STAGES = {
    "curate": Stage("bloomery.curate.run", "Clean, filter and deduplicate raw documents.",
                    "bloomery curate source=documents/ out=docs"),
    "introspect": Stage("bloomery.instruct.introspect", "Questions about Python itself, with known answers.",
                        "bloomery introspect out=facts"),
    "convert": Stage("bloomery.instruct.converters", "Turn task data into instructions in many wordings.",
                     "bloomery convert format=squad source=train-v1.1.json out=squad"),
    "tokenizer": Stage("bloomery.pretrain.vocabulary", "Learn a byte-level BPE vocabulary from documents.",
                       "bloomery tokenizer data=docs vocabulary=4096 out=vocabulary"),
    "shards": Stage("bloomery.pretrain.shards", "Turn documents into token shards, ready to be streamed.",
                    "bloomery shards data=docs tokenizer=vocabulary out=tokens"),
    "pretrain": Stage("bloomery.pretrain.run", "Train a language model from nothing on token shards.",
                      "bloomery pretrain data=tokens tokenizer=vocabulary steps=500 out=base"),
    "extend": Stage("bloomery.pretrain.extend", "Teach a model to read a longer context: PI, NTK or YaRN.",
                    "bloomery extend model=base data=tokens context=2048 steps=400 out=long"),
    "fisher": Stage("bloomery.finetune.ewc", "How much each weight matters to what a model knows, for EWC.",
                    "bloomery fisher model=base data=tokens out=importance"),
    "sft": Stage("bloomery.instruct.run", "Teach a model to answer, from conversations.",
                 "bloomery sft model=base data=facts steps=200 out=assistant"),
    "dpo": Stage("bloomery.align.preference", "Prefer the better of two answers: direct preference optimisation.",
                 "bloomery dpo model=assistant data=pairs.jsonl steps=100 out=aligned", {"loss": "dpo"}),
    "evaluate": Stage("bloomery.evaluate.run", "Measure models: bits per byte, exact match, preference accuracy.",
                      "bloomery evaluate models.base=base models.sft=assistant shards=tokens out=scores"),
    "report": Stage("bloomery.report.run", "One page of curves, tables and answers that opens anywhere.",
                    "bloomery report runs=base,assistant out=page"),
}


def load_module(name: str) -> ModuleType:
    """Import one of our own modules when it is first needed."""
    return import_module(name)


def load(verb: str, stages: dict[str, Stage] = STAGES) -> tuple[type[Settings], Run, Forecast | None]:
    """A verb's configuration class, the function that does it, and the one that foretells its cost."""
    module = load_module(stages[verb].module)
    return module.Config, module.run, getattr(module, "forecast", None)
