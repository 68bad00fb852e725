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


def preference(verb: str, about: str, **preset: object) -> Stage:
    """One stage for every way of preferring: a verb presets the loss, whose own options are its paper's."""
    data = "ratings" if verb == "kto" else "pairs"
    return Stage("bloomery.align.preference", about,
                 f"bloomery {verb} model=assistant data={data}.jsonl steps=100 out=aligned", {"loss": verb} | preset)


PREFERENCES = {
    "dpo": ("Prefer the better of two answers: direct preference optimisation.", {}),
    "cdpo": ("DPO that expects a tenth of the labels to be wrong.", {"loss": "dpo", "smoothing": 0.1}),
    "robust": ("DPO without the bias of wrong labels.", {}),
    "rpo": ("DPO beside the likelihood of the better answer, which stays likely.", {"loss": "dpo", "nll": 0.2}),
    "rdpo": ("DPO in which every token of an answer costs reward.", {"loss": "dpo", "length_penalty": 0.01}),
    "ldpo": ("DPO to which the end of the longer answer counts half.", {"loss": "dpo", "tail": 0.5}),
    "dpo_norm": ("DPO on means over tokens, so that long answers weigh as short ones.", {}),
    "ipo": ("Prefer by a gap of 1 / (2 beta) a token and no more: identity preference optimisation.", {}),
    "hinge": ("Prefer until the margin is reached: SLiC.", {}),
    "simpo": ("Prefer without a reference, by mean log-probability and a margin.", {}),
    "orpo": ("Fine-tune and prefer at once, without a reference: odds ratios.", {}),
    "cpo": ("Fine-tune and prefer at once, without a reference: log-probabilities.", {}),
    "exo": ("Prefer by the reverse KL to the labels: exact optimisation.", {}),
    "nca": ("Prefer while the better answer may not fall: noise contrast.", {}),
    "apo_zero": ("Better answers up, worse ones down: for answers better than the model's.", {}),
    "apo_down": ("Both down, worse ones more: for answers worse than the model's.", {}),
    "sppo": ("Every answer to half a win against the reference: self-play preference.", {}),
    "kto": ("Learn from single answers that were wanted or not: prospect theory.", {}),
}
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
    "split": Stage("bloomery.align.split", "Hold out whole questions of preferences, from one file or several.",
                   "bloomery split sources.chats=pairs.jsonl held_out=0.2 out=compared"),
    "reward": Stage("bloomery.align.reward_model", "Learn a score that puts preferred answers first.",
                    "bloomery reward model=assistant data=pairs.jsonl steps=100 out=judge"),
    "calibrate": Stage("bloomery.align.report_card", "Report card of reward models: right how often, sure how rightly.",
                       "bloomery calibrate models.a=judge1 models.b=judge2 data=judge1/heldout.jsonl out=card"),
    **{verb: preference(verb, about, **preset) for verb, (about, preset) in PREFERENCES.items()},
    "rejection": Stage("bloomery.align.rejection", "Fine-tune on a model's own best answers, in rounds.",
                       "bloomery rejection model=assistant data=prompts.jsonl reward.models=judge steps=50 out=better"),
    "online": Stage("bloomery.align.online", "Prefer the best of a model's own answers to the worst, in rounds.",
                    "bloomery online model=assistant data=prompts.jsonl reward.models=judge steps=50 out=better"),
    "spin": Stage("bloomery.align.spin", "Learn to tell wanted answers from a model's own: self-play, in rounds.",
                  "bloomery spin model=assistant data=chats.jsonl steps=50 out=better", {"loss": "spin"}),
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
