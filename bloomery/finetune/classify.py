"""The classify stage: a head on a pretrained model, for every task whose answer is a label or a number.

    one label of several, any of several, a number          of a text, or of two
    a tag for every word                                     of a sentence
    which answer is right                                    of a question with choices

The task follows from the columns and labels of the data (`labelled.py`).  An encoder is read at [CLS], a decoder at its
last token (Devlin et al. 2019, section 3.2; Radford et al. 2018, section 3.2).  The folder opens in transformers as the
matching class, with the same outputs; beside it lie the predictions on held-out rows, worst first, and `card.json`:
what was taken for what, figures by class, and how far its probabilities can be believed.
"""

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Fixed, Input
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine, write_jsonl
from bloomery.core.metrics import say
from bloomery.finetune.before import Before, BeforeConfig
from bloomery.finetune.inputs import Encoder, forest_of, packed, share_cut, stream_of
from bloomery.finetune.labelled import Labelled, classes, names_of, read, renamed, stratified, task_of
from bloomery.finetune.measures import MEASURES, tags
from bloomery.finetune.objectives import objective
from bloomery.finetune.predictions import TASK, evaluating, said, scored
from bloomery.model.adapt import AdaptConfig, adapt, merge, trained_share
from bloomery.model.headed import Headed, Shape, open_headed, save_headed
from bloomery.model.store import is_model, load_config
from bloomery.text.framing import frame_of
from bloomery.text.tokenizer import load_tokenizer
from bloomery.train.objective import Metrics
from bloomery.train.session import TrainingConfig, train

MERGED = ("full", "lora", "ia3")                # ways of adapting that end in plain weights, which a folder can hold
PROBLEMS = {"single": "single_label_classification", "multi": "multi_label_classification", "regression": "regression"}


class Config(TrainingConfig):
    """Fine-tune on labelled rows."""

    model: Annotated[Input, Fixed()] = Field(description="the pretrained encoder or decoder, a Hugging Face folder")
    data: Input = Field(description="rows: text, label; premise, hypothesis, label; tokens, tags; question, choices, "
                                    "answer")
    validation: Input | None = Field(None, description="held-out rows; default: a share of those of every label")
    held_out: float = Field(0.1, gt=0, lt=1, description="that share")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ: review = \"text\"")
    labels: dict[str, str] = Field({}, description="their label = its name: 0 = \"negative\"")
    task: Literal["auto", "single", "multi", "regression", "tagging", "choice"] = Field(
        "auto", description="one label, any of several, a number, tags, or which answer; auto: what the data look like")
    pooling: Annotated[Literal["auto", "first", "last", "mean"], Fixed()] = Field(
        "auto", description="where a text is read; auto: an encoder at [CLS], a decoder at its last token")
    class_weights: Literal["none", "balanced"] | dict[str, float] = Field(
        "none", description="what a row of a class counts; balanced: every class alike in all")
    examples: int = Field(32, gt=0, description="rows a step")
    micro_tokens: int = Field(8192, gt=0, description="tokens held in memory at once; any value gives the same step")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of what is read that the head does not see in training")
    frozen: bool = Field(False, description="the trunk stays as it is: only the head learns")
    auxiliary: float = Field(0.0, ge=0, description="weight of the language model's loss on the inputs, 0.5 in GPT-1; "
                                                    "for decoders")
    both_orders: bool = Field(False, description="two texts are read as A B and B A and their states added: similarity")
    adapt: AdaptConfig = AdaptConfig()
    before: BeforeConfig | None = None


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """The steps, at 64 tokens a row."""
    model = (planned or {}).get(config.model, {}).get("model")
    if model is None and not is_model(Path(config.model)):
        return {}
    model = model or load_config(Path(config.model))
    tokens = config.steps * config.examples * min(64, model.context)
    return {"model": model, "parameters": model.parameters(), "tokens": tokens,
            "flops": tokens * model.flops_per_token(), "memory_gb": 18 * model.parameters() / 1e9 + 1.0,
            "note": "64 tokens a row assumed"}


def run(config: Config, out: Path) -> dict:
    """Train, measure on held-out rows, and export."""
    raise_contradictions(config)
    training, held_out, task, names, quarantine = gathered(config)
    before = Before(config.before, Path(config.model), quarantine) if config.before else None
    quarantine.write(out)
    tokenizer, pretrained = load_tokenizer(Path(config.model)), load_config(Path(config.model))
    frame = frame_of(tokenizer, causal=pretrained.causal, where=config.model)
    shape = shape_of(config, task, names, causal=pretrained.causal)
    model = open_headed(Path(config.model), shape, seed=config.seed, pad=frame.pad, dropout=config.dropout,
                        keeps_head=config.auxiliary > 0)
    encoder = Encoder(task, names, frame, model.config.context, both_orders=config.both_orders,
                      class_weights=weights_of(config, training, names))
    inputs, over = zip(*map(encoder, training), strict=True)
    measured = [encoder(row)[0] for row in held_out]
    say(f"  classify: {task}, {len(training)} rows to learn from, {len(held_out)} held out, "
        f"{config.steps * config.examples / len(training):.1f} epochs; {share_cut(over):.1%} of them are cut to "
        f"{model.config.context} tokens")
    adapt(model.trunk, config.adapt, seed=config.seed)
    model.trunk.requires_grad_(False) if config.frozen else None
    make = partial(forest_of, causal=model.config.causal, typed=model.config.types > 0, language=config.auxiliary > 0)
    loss = objective(task, auxiliary=config.auxiliary)

    def validate(model: Headed) -> Metrics:
        figures, _ = judged(task, names, scored(model, measured, config.micro_tokens), held_out, measured)
        with evaluating(model):
            batches = packed(measured, config.micro_tokens, partial(make, language=False))[0]
            total = sum(loss(model, b.beside(model))[1]["loss"] for b in batches) / sum(b.count for b in batches)
        return {"val_loss": total, **{f"val_{name}": value for name, value in figures.items()},
                **(before.measure(model) if before else {})}

    stream = stream_of(inputs, size=config.examples, micro_tokens=config.micro_tokens, seed=config.seed, make=make)
    state = train(model, config, out, name="classify", stream=stream, objective=loss, validate=validate,
                  penalty=before if before and before.weight else None, epoch=config.examples / len(training))
    learned, share = state.model, trained_share(state.model)
    learned.trunk = learned.trunk if config.adapt.method == "full" else merge(learned.trunk)
    figures = written(learned, encoder, held_out, measured, out, config.micro_tokens)
    save_headed(learned, out, bos=tokenizer.begin if pretrained.causal else None)
    tokenizer.save(out, context=model.config.context)
    return {"task": task, "classes": len(names), "rows": len(training), "held_out_rows": len(held_out),
            "quarantined": len(quarantine), "cut": share_cut(over), "tokens": state.tokens, "trained_share": share,
            **state.best, **{f"val_{name}": value for name, value in figures.items()}}


# --- before -------------------------------------------------------------------------------------------------------

def raise_contradictions(config: Config) -> None:
    """One `ConfigError` for options that exclude each other, before any data is read."""
    if config.adapt.method not in MERGED:
        raise ConfigError(f"a classifier is not made with adapt.method = {config.adapt.method}", where="classify.adapt",
                          why="its folder holds plain weights", hint=f"one of {', '.join(MERGED)}")
    if config.before and (config.frozen or config.adapt.method != "full"):
        raise ConfigError("weights that stay as they are forget nothing", where="classify.before",
                          hint="leave it out, or train all weights")
    if config.frozen and (config.adapt.method != "full" or config.auxiliary):
        raise ConfigError("a frozen trunk neither adapts nor learns language", where="classify.frozen",
                          hint="leave out frozen, or adapt and auxiliary")
    if config.sample_every:
        raise ConfigError("a classifier writes no samples", where="classify.sample_every", hint="leave it out")
    if max(config.parallel.shard, config.parallel.tensor) > 1:
        raise ConfigError("a classifier is not split over ranks", where="classify.parallel",
                          hint="leave out shard and tensor: ranks then hold copies")
    if config.auxiliary and not load_config(Path(config.model)).causal:
        raise ConfigError("an encoder has no next token to predict", where="classify.auxiliary", hint="leave it out")


def gathered(config: Config) -> tuple[list[Labelled], list[Labelled], str, tuple[str, ...], Quarantine]:
    """The rows to learn from, those held out, the task they are of and its classes."""
    quarantine = Quarantine()
    rows = [renamed(row, config.labels) for row in read(config.data, config.columns, quarantine)]
    held_out = [renamed(row, config.labels) for row in read(config.validation, config.columns, quarantine)] \
        if config.validation else []
    task = task_of(rows, config.task)
    if not config.validation:
        rows, held_out = stratified(rows, config.held_out, by_label=task == "single")
    if not rows or not held_out:
        raise InputError("nothing is left to learn from" if not rows else "nothing is held out", where=config.data,
                         hint="give more rows, or another held_out")
    names = classes(rows) if task in ("single", "multi", "tagging") else ()
    if task in ("single", "tagging") and len(names) < 2:
        raise InputError("all rows have one label", where=config.data, why=f"it is {names[0]}",
                         hint="two labels at least are needed")
    unknown = {name for row in held_out for name in names_of(row)} - set(names) if names else ()
    if unknown:
        raise InputError("a held-out label that no training row has", where=config.validation or config.data,
                         why=", ".join(sorted(unknown)), hint="mend the labels, or hold out other rows")
    return rows, held_out, task, names, quarantine


def shape_of(config: Config, task: str, names: tuple[str, ...], *, causal: bool) -> Shape:
    pooling = config.pooling if config.pooling != "auto" else "last" if causal else "first"
    if task == "choice":
        return Shape("choice", 1, (), pooling)
    if task == "tagging":
        return Shape("token", len(names), names)
    return Shape("sequence", max(1, len(names)), names, pooling, PROBLEMS[task])


def weights_of(config: Config, rows: Sequence[Labelled], names: tuple[str, ...]) -> tuple[float, ...] | None:
    """What a row of each class counts; balanced is n / (C n_c), as in scikit-learn."""
    if config.class_weights == "none":
        return None
    if config.task == "multi" or any(row.kind != "text" or isinstance(row.label, list) for row in rows) or not names:
        raise ConfigError("weights of classes are for rows with one label", where="classify.class_weights",
                          hint="leave them out")
    counts = Counter(str(row.label) for row in rows)
    if config.class_weights == "balanced":
        return tuple(len(rows) / (len(names) * counts[name]) for name in names)
    if strange := sorted(set(config.class_weights) - set(names)):
        raise ConfigError(f"no class is called {strange[0]}", where="classify.class_weights",
                          hint=f"one of {', '.join(names)}")
    return tuple(config.class_weights.get(name, 1.0) for name in names)


# --- after --------------------------------------------------------------------------------------------------------

def judged(task: str, names: Sequence[str], scores: list[np.ndarray], rows: Sequence[Labelled],
           inputs: Sequence) -> tuple[dict, dict]:
    """Figures of held-out rows, and their card."""
    if task == "tagging":
        return tags([said(task, names, own, row)["prediction"] for own, row in zip(scores, rows, strict=True)],
                    [row.label for row in rows])
    widest = max(map(len, scores))
    table = np.array([np.pad(own, (0, widest - len(own)), constant_values=-np.inf) for own in scores])
    return MEASURES[task](table, np.array([one.truth for one in inputs]), names)


def written(model: Headed, encoder: Encoder, rows: Sequence[Labelled], inputs: Sequence, out: Path,
            micro_tokens: int) -> dict:
    """Write `predictions.jsonl`, the surest mistakes first, `card.json` and `task.json`; the figures."""
    task, names, scores = encoder.task, encoder.names, scored(model, inputs, micro_tokens)
    figures, card = judged(task, names, scores, rows, inputs)
    temperature = figures.get("temperature", 1.0)
    lines = [row.row | {"label": row.label} | said(task, names, own, row, temperature)
             for row, own in zip(rows, scores, strict=True)]
    lines.sort(key=lambda line: wrongness(task, line), reverse=True)
    write_jsonl(out / "predictions.jsonl", lines)
    write_atomic(out / "card.json", json.dumps({"task": task, **figures, **card}, indent=1))
    write_atomic(out / TASK, json.dumps({"task": task, "names": names, "temperature": temperature,
                                         "both_orders": encoder.both_orders}, indent=1))
    told = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    say(f"  classify: on {len(rows)} held-out rows {told}")
    return figures


def wrongness(task: str, line: dict) -> float:
    """How sure a wrong answer is; how far off a number; 0 where it is right."""
    label, prediction = line["label"], line["prediction"]
    if task == "regression":
        return float(np.abs(np.asarray(label, float) - np.asarray(prediction, float)).max())
    if task == "tagging":
        return sum(a != b for a, b in zip(label, prediction, strict=True)) / max(1, len(label))
    if task == "multi":
        return float(len(set(map(str, label)) ^ set(prediction)))
    sure = max(line["probabilities"].values() if task == "single" else line["probabilities"])
    return sure if str(label) != str(prediction) else 0.0
