"""The evaluate stage: the same questions put to every model of a recipe, from the base to the aligned one.

Bits per byte on held-out text beside what compressors and counting reach; nll of held-out answers; exact match of
generated ones; how often the preferred answer is the likelier one.  A metric is named `<model>.<metric>`; what the
model before it had is repeated as `<model>.<metric>_<before>`, so that a gain stands in one place.
"""

import json
import re
from functools import partial
from pathlib import Path

from pydantic import Field, field_validator

from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Input, Settings
from bloomery.core.errors import ConfigError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import progress, say
from bloomery.core.records import Conversation, unit_hash
from bloomery.data.formats import conversations, preferences
from bloomery.data.shards import SPLITS, Shard, open_shard
from bloomery.data.validation import corpus_bits_per_byte
from bloomery.evaluate.accuracies import policy_rows, reward_rows, say_rows
from bloomery.evaluate.compression import (
    compressor_bits_per_byte,
    ngram_bits_per_byte,
    ngram_word_perplexity,
    words,
)
from bloomery.evaluate.generative import answer_nll, exact_matches, generated, questions, well_formed
from bloomery.evaluate.preference import PairScores, preference_metrics, score_pairs
from bloomery.evaluate.winrate import open_duels
from bloomery.generate.scoring import RewardModel
from bloomery.losses.token import perplexity
from bloomery.model.store import load_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer, load_renderer
from bloomery.text.tokenizer import Tokenizer, load_tokenizer
from bloomery.train.objective import total_nll
from bloomery.train.precision import Device, Precision, choose, placed


class Config(Settings):
    """Measure models side by side."""

    models: dict[str, Input] = Field(min_length=1, description="name = model folder, in the order they were trained")
    shards: Input | None = Field(None, description="a shards stage's output: bits per byte of its validation split")
    instructions: Input | None = Field(None, description="held-out conversations: nll and exact match of the answers")
    preferences: Input | None = Field(None, description="held-out preferences: how often the chosen answer is likelier")
    prompts: Input | None = Field(None, description="conversations answered by every model side by side")
    reward: Input | None = Field(None, description="a reward model: how often it prefers each model's answers to the "
                                                   "prompts of preferences and instructions to the one before's")
    reference: str | None = Field(None, description="of models the one that implied rewards are counted from and "
                                                    "later ones are compared with; default: the one before each")
    rewards: dict[str, Input] = Field({}, description="name = reward model, measured on the same preferences")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ, in all of these files")
    examples: int = Field(600, gt=0, description="most conversations and pairs looked at, chosen by hash")
    generated: int = Field(240, ge=0, description="of these, how many answers are generated for exact match")
    closed_tasks: list[str] = Field(["which", "parameters", "evaluate"], description="tasks with one right answer")
    formats: dict[str, str] = Field({}, description="task = regular expression that a well-formed answer matches whole")
    max_tokens: int = Field(64, gt=0, description="longest generated answer")
    yardsticks: bool = Field(True, description="also measure xz, zstd and a byte 5-gram on the held-out text")
    stride: int | None = Field(None, gt=0, description="tokens of held-out text scored at a time, each after at least "
                                                       "a context less this many; default: a context")
    words: bool = Field(False, description="also perplexity by the word, of models and of a word 5-gram")
    template: str = Field("auto", description="chat template; auto: each model's own")
    precision: Precision = Field("auto", description="bf16, fp32, or auto")
    device: Device = "auto"

    @field_validator("formats")
    @classmethod
    def each_is_an_expression(cls, formats: dict[str, str]) -> dict[str, str]:
        for task, pattern in formats.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{task} is not a regular expression: {error}") from error
        return formats


def run(config: Config, out: Path) -> dict:
    """Every model on everything that was given; side-by-side answers go to `answers.json`."""
    raise_contradictions(config)
    (compute, why), device = choose(config.precision, device=config.device), placed(config.device)
    say(f"  evaluate: {why}")
    quarantine = Quarantine()
    shard = open_shard(Path(config.shards), "validation") if config.shards else None
    dialogues, preferred = (partial(read, quarantine=quarantine, columns=config.columns)
                            for read in (conversations, preferences))
    rows = chosen(dialogues(config.instructions), config.examples) if config.instructions else []
    pairs = chosen(preferred(config.preferences), config.examples) if config.preferences else []
    prompts = dialogues(config.prompts) if config.prompts else []
    quarantine.write(out)
    duels = open_duels(config.reward, rows, pairs, limit=config.generated, max_tokens=config.max_tokens,
                       compute=compute, device=device) if config.reward else None
    measured: dict[str, dict] = {}
    table: list[dict] = []
    shown: dict[str, dict] = {}
    scores: dict[str, PairScores] = {}
    count = 0
    for name, folder in progress(config.models.items(), name="evaluate, models", total=len(config.models)):
        model = load_model(Path(folder), compute=compute).to(device)
        renderer = load_renderer(Path(folder), config.template)
        tokenizer = renderer.tokenizer
        found = measured[name] = {}
        if shard:
            context, stride = model.config.context, config.stride and min(config.stride, model.config.context)
            found |= corpus_bits_per_byte(shard, partial(total_nll, model), context=context, stride=stride)
            if config.words:                                    # the text has as many words for every model
                count = count or sum(len(words(text)) for text in texts(shard, tokenizer))
                found["val_word_perplexity"] = perplexity(found["val_loss"] * len(shard.tokens), count)
        if rows:
            found |= answered(model, rows, renderer, config)
        if pairs:
            before = config.reference if config.reference in scores else next(reversed(scores), None)
            scores[name] = score_pairs(model, pairs, renderer)
            found |= preference_metrics(scores[name], scores.get(before))
            table += policy_rows(name, scores[name], before and (before, scores[before]))
        if duels:
            found |= duels.answer(name, model, renderer)
        if prompts:
            asked, _ = questions(prompts, renderer, model.config.context, where=config.prompts)
            for q, text in zip(asked, generated(model, asked, renderer, config.max_tokens), strict=True):
                row = shown.setdefault(q.asked, {"prompt": q.asked, "expected": q.expected, "answers": {}})
                row["answers"][name] = text
    if shard and config.yardsticks:
        first = next(iter(config.models))
        measured[first] |= yardsticks(Path(config.shards), load_tokenizer(Path(config.models[first])), config.words)
    for name, folder in config.rewards.items():
        table += reward_rows(name, RewardModel(Path(folder), compute=compute, device=device), pairs)
    say_rows(table)
    write_atomic(out / "accuracies.json", json.dumps(table, indent=1))
    write_atomic(out / "answers.json", json.dumps([*shown.values()], indent=1, ensure_ascii=False))
    return flat(measured, config.reference) | (duels.metrics() if duels else {})


def raise_contradictions(config: Config) -> None:
    """One `ConfigError` for nothing to measure, before any model is opened."""
    if not (config.shards or config.instructions or config.preferences or config.prompts):
        raise ConfigError("nothing to evaluate on", hint="give shards, instructions, preferences or prompts")
    if config.reference and config.reference not in config.models:
        raise ConfigError(f"{config.reference} is none of the models", where="evaluate.reference",
                          why=f"they are {', '.join(config.models)}")
    if config.rewards and not config.preferences:
        raise ConfigError("reward models have nothing to be measured on", where="evaluate.rewards",
                          hint="give preferences")


def flat(measured: dict[str, dict], reference: str | None = None) -> dict:
    """`<model>.<metric>`, and `<model>.<metric>_<before>` for the reference if it came before, else the one before."""
    out: dict = {}
    before: str | None = None
    for name, found in measured.items():
        out |= {f"{name}.{metric}": value for metric, value in found.items()}
        if before:
            out |= {f"{name}.{metric}_{before}": measured[before][metric] for metric, value in found.items()
                    if isinstance(value, float) and metric in measured[before]}
        before = before if before and before == reference else name
    return out


def chosen(rows: list, limit: int) -> list:
    """At most `limit` rows, the same ones whatever their order in the file."""
    return sorted(rows, key=lambda row: unit_hash(row.id, "evaluate"))[:limit]


def yardsticks(shards: Path, tokenizer: Tokenizer, by_word: bool) -> dict[str, float]:
    """The same held-out text under `xz`, `zstd` and a 5-gram, of bytes or of words, of the same training text."""
    train, held_out = (texts(open_shard(shards, split), tokenizer) for split in SPLITS)
    raw = [text.encode() for text in held_out]
    found = compressor_bits_per_byte(raw)
    found["ngram5"] = ngram_bits_per_byte([text.encode() for text in train], raw)
    named = {f"{name}_bpb": value for name, value in found.items()}
    return named | ({"ngram5_word_perplexity": ngram_word_perplexity(train, held_out)} if by_word else {})


def texts(shard: Shard, tokenizer: Tokenizer) -> list[str]:
    """The documents of a split as they were, without control tokens."""
    return [tokenizer.decode(shard.document(i)) for i in range(len(shard.ends))]


def answered(model: Transformer, rows: list[Conversation], renderer: Renderer, config: Config) -> dict:
    """Nll of the right answers; of generated ones exact match where one answer is right, and form where it is known."""
    asked, dropped = questions(rows, renderer, model.config.context, where=config.instructions)
    found = {"answer_nll": answer_nll(model, asked), "questions": len(asked), "questions_dropped": dropped}
    tried = [q for q in asked if q.task in config.closed_tasks or q.task in config.formats][:config.generated]
    if tried:
        answers = generated(model, tried, renderer, config.max_tokens)
        found |= exact_matches(tried, answers, config.closed_tasks) | well_formed(tried, answers, config.formats)
    return found
