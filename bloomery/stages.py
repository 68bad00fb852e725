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


def reinforcement(verb: str, about: str, **preset: object) -> Stage:
    """One stage for every way of learning from a reward: an advantage, a policy loss and a denominator."""
    reward = "models=judge" if verb == "ppo" else "verifier=number"
    return Stage("bloomery.align.rl", about,
                 f"bloomery {verb} model=assistant data=prompts.jsonl reward.{reward} steps=100 out=better", preset)


GRPO = {"advantage": "group", "policy": "token", "normalise": "grpo"}
REINFORCEMENTS = {
    "ppo": ("Learn from a reward with a critic and a clipped ratio: proximal policy optimisation.",
            {"advantage": "gae", "policy": "token", "normalise": "dapo", "samples": 1, "prompts": 64, "epochs": 4,
             "kl": {"beta": 0.05, "place": "reward", "estimator": "k1"}}),
    "reinforce": ("Learn from a reward by the plain policy gradient with a baseline.",
                  {"advantage": "batch", "policy": "reinforce", "normalise": "sum", "samples": 1, "prompts": 64}),
    "rloo": ("Learn from a reward against the other answers to the same prompt: leave one out.",
             {"advantage": "rloo", "policy": "answer", "normalise": "grpo", "samples": 4, "prompts": 16,
              "kl": {"beta": 0.05, "place": "reward", "estimator": "k1"}}),
    "grpo": ("Learn from a reward relative to a group of answers: no critic.", GRPO),
    "dr_grpo": ("GRPO without the biases of length and of easy prompts.",
                GRPO | {"scale": "none", "normalise": "dr_grpo"}),
    "dapo": ("GRPO for long answers: a higher upper clip, redrawn prompts, a mean over tokens.",
             GRPO | {"normalise": "dapo", "clip_high": 0.28, "redraws": 3, "mask_overlong": True}),
    "gspo": ("GRPO that clips the ratio of whole answers: sequence policy optimisation.",
             GRPO | {"policy": "sequence", "clip_low": 3e-4, "clip_high": 4e-4}),
}
STAGES = {
    "curate": Stage("bloomery.curate.run", "Clean, filter and deduplicate raw documents.",
                    "bloomery curate source=documents/ out=docs"),
    "quality": Stage("bloomery.curate.quality", "Learn what good text is from labelled texts; a curation step then.",
                     "bloomery quality data=labelled.jsonl out=judge"),
    "toxicity": Stage("bloomery.curate.quality", "Learn what is toxic from a table with a column for each kind of it.",
                      "bloomery toxicity data=train.csv out=judge", {
                          "text": "comment_text", "features": {"words": 2, "shape": 0},
                          "label": ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]}),
    "languages": Stage("bloomery.curate.quality", "Learn to tell languages apart from sentences of each.",
                       "bloomery languages data=sentences.jsonl out=languages",
                       {"label": "lang", "features": {"words": 1, "characters": 4, "shape": 0, "epochs": 2,
                                                      "rate": 0.5, "bits": 18}}),
    "pii": Stage("bloomery.curate.pii_score", "Measure the patterns for personal data on labelled texts, kind by kind.",
                 "bloomery pii data=labelled.jsonl out=card"),
    "introspect": Stage("bloomery.instruct.introspect", "Questions about Python itself, with known answers.",
                        "bloomery introspect out=facts"),
    "arithmetic": Stage("bloomery.instruct.sums", "Arithmetic problems, and demonstrations as careless as people's.",
                        "bloomery arithmetic below=50 out=sums"),
    "convert": Stage("bloomery.instruct.converters", "Turn task data into instructions in many wordings.",
                     "bloomery convert format=squad source=train-v1.1.json out=squad"),
    "tokenizer": Stage("bloomery.pretrain.vocabulary", "Learn a byte-level BPE vocabulary from documents.",
                       "bloomery tokenizer data=docs vocabulary=4096 out=vocabulary"),
    "shards": Stage("bloomery.pretrain.shards", "Turn documents into token shards, ready to be streamed.",
                    "bloomery shards data=docs tokenizer=vocabulary out=tokens"),
    "pretrain": Stage("bloomery.pretrain.run", "Train a language model from nothing on token shards.",
                      "bloomery pretrain data=tokens tokenizer=vocabulary steps=500 out=base"),
    "mlm": Stage("bloomery.pretrain.masked", "Train an encoder from nothing to guess hidden tokens (BERT, ModernBERT).",
                 "bloomery mlm data=tokens tokenizer=vocabulary steps=500 out=encoder"),
    "doremi": Stage("bloomery.pretrain.doremi", "Find out how much of each domain to train on, with two small models.",
                    "bloomery doremi data.web=web data.code=code tokenizer=vocabulary steps=300 out=weights"),
    "spans": Stage("bloomery.pretrain.denoise", "Pretrain an encoder-decoder by span corruption, as T5 was.",
                   "bloomery spans data=tokens tokenizer=vocabulary steps=500 out=t5", {"kind": "spans"}),
    "ul2": Stage("bloomery.pretrain.denoise", "Pretrain an encoder-decoder on UL2's seven denoisers.",
                 "bloomery ul2 data=tokens tokenizer=vocabulary steps=500 out=ul2", {"kind": "ul2"}),
    "prefix_lm": Stage("bloomery.pretrain.denoise", "Pretrain a decoder that sees the first part of a text both ways.",
                       "bloomery prefix_lm data=tokens tokenizer=vocabulary steps=500 out=base", {"kind": "prefix_lm"}),
    "extend": Stage("bloomery.pretrain.extend", "Teach a model to read a longer context: PI, NTK or YaRN.",
                    "bloomery extend model=base data=tokens context=2048 steps=400 out=long"),
    "fisher": Stage("bloomery.finetune.ewc", "How much each weight matters to what a model knows, for EWC.",
                    "bloomery fisher model=base data=tokens out=importance"),
    "classify": Stage("bloomery.finetune.classify", "Fine-tune on labelled texts: labels, numbers, tags, choices.",
                      "bloomery classify model=encoder data=reviews.tsv steps=500 out=classifier"),
    "qa": Stage("bloomery.finetune.extract", "Fine-tune to find answers in texts: SQuAD, with and without answers.",
                "bloomery qa model=encoder data=squad.json steps=500 out=reader"),
    "embed": Stage("bloomery.finetune.embed", "Learn vectors of texts from pairs that belong together, for search.",
                   "bloomery embed model=encoder data=pairs.jsonl steps=500 out=retriever"),
    "sft": Stage("bloomery.instruct.run", "Teach a model to answer, from conversations.",
                 "bloomery sft model=base data=facts steps=200 out=assistant"),
    "seq2seq": Stage("bloomery.finetune.seq2seq", "Learn to write a target for a source: translation, summaries.",
                     "bloomery seq2seq sources=train.en targets=train.de steps=3000 out=translator"),
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
    "constitution": Stage("bloomery.align.constitution", "Let a model criticise and revise its answers by principles.",
                          "bloomery constitution model=assistant data=prompts.jsonl out=revised"),
    "feedback": Stage("bloomery.align.feedback", "Let a model or a server label which of two answers is better.",
                      "bloomery feedback model=assistant data=pairs.jsonl out=labelled"),
    "spin": Stage("bloomery.align.spin", "Learn to tell wanted answers from a model's own: self-play, in rounds.",
                  "bloomery spin model=assistant data=chats.jsonl steps=50 out=better", {"loss": "spin"}),
    **{verb: reinforcement(verb, about, **preset) for verb, (about, preset) in REINFORCEMENTS.items()},
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
