"""The evaluate stage: the same questions put to every model of a recipe, from the base to the aligned one.

Bits per byte on held-out text beside what compressors and counting reach; nll of held-out answers; exact match of generated
ones; how often the preferred answer is the likelier one.  A metric is named `<model>.<metric>`; what the model before it
had is repeated as `<model>.<metric>_<before>`, so that a gain stands in one place.
"""

import json
from collections import defaultdict
from pathlib import Path

import torch
from pydantic import Field

from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Input, Settings
from bloomery.core.errors import ConfigError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import progress, say
from bloomery.core.records import Conversation, unit_hash
from bloomery.data.batch import Run, forest
from bloomery.data.formats import conversations, preferences
from bloomery.data.shards import Shard, open_shard
from bloomery.data.validation import batches, corpus_bits_per_byte
from bloomery.evaluate.compression import compressor_bits_per_byte, ngram_bits_per_byte
from bloomery.evaluate.metrics import exact_match
from bloomery.evaluate.preference import pair_accuracy
from bloomery.generate.decode import complete
from bloomery.model.store import load_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.text.tokenizer import Tokenizer, load_tokenizer
from bloomery.train.objective import total_nll
from bloomery.train.precision import Precision, choose


class Config(Settings):
    """Measure models side by side."""

    models: dict[str, Input] = Field(min_length=1, description="name = model folder, in the order they were trained")
    shards: Input | None = Field(None, description="a shards stage's output: bits per byte of its validation split")
    instructions: Input | None = Field(None, description="held-out conversations: nll and exact match of the answers")
    preferences: Input | None = Field(None, description="held-out preferences: how often the chosen answer is likelier")
    prompts: Input | None = Field(None, description="conversations answered by every model side by side")
    examples: int = Field(600, gt=0, description="most conversations and pairs looked at, chosen by hash")
    generated: int = Field(240, ge=0, description="of these, how many answers are generated for exact match")
    closed_tasks: list[str] = Field(["which", "parameters", "evaluate"], description="tasks with one right answer")
    max_tokens: int = Field(64, gt=0, description="longest generated answer")
    yardsticks: bool = Field(True, description="also measure xz, zstd and a byte 5-gram on the held-out text")
    template: str = Field("chatml", description="chat template")
    precision: Precision = Field("auto", description="bf16, fp32, or auto")


def run(config: Config, out: Path) -> dict:
    """Every model on everything that was given; side-by-side answers go to `answers.json`."""
    if not (config.shards or config.instructions or config.preferences or config.prompts):
        raise ConfigError("nothing to evaluate on", hint="give shards, instructions, preferences or prompts")
    compute, why = choose(config.precision)
    say(f"  evaluate: {why}")
    quarantine = Quarantine()
    shard = open_shard(Path(config.shards), "validation") if config.shards else None
    rows = chosen(conversations(config.instructions, quarantine), config.examples) if config.instructions else []
    pairs = chosen(preferences(config.preferences, quarantine), config.examples) if config.preferences else []
    prompts = conversations(config.prompts, quarantine) if config.prompts else []
    quarantine.write(out)
    measured: dict[str, dict] = {}
    answers: list[dict[str, str]] = [{} for _ in prompts]
    for name, folder in progress(config.models.items(), name="evaluate, models", total=len(config.models)):
        model, tokenizer = load_model(Path(folder), compute=compute), load_tokenizer(Path(folder))
        renderer = Renderer(tokenizer, config.template)
        found: dict = held_out_text(model, shard) if shard else {}
        if rows:
            found["answer_nll"] = answer_nll(model, rows, renderer)
            found |= generated_matches(model, rows, renderer, config)
        if pairs:
            found |= pair_accuracy(model, pairs, renderer)
        for kept, text in zip(answers, generate(model, prompts, renderer, config.max_tokens), strict=True):
            kept[name] = text
        measured[name] = found
    if shard and config.yardsticks:
        first = next(iter(config.models))
        measured[first] |= yardsticks(Path(config.shards), load_tokenizer(Path(config.models[first])))
    write_atomic(out / "answers.json", json.dumps(
        [{"prompt": p.messages[-2].content, "expected": p.messages[-1].content, "answers": a}
         for p, a in zip(prompts, answers, strict=True)], indent=1, ensure_ascii=False))
    return flat(measured)


def flat(measured: dict[str, dict]) -> dict:
    """`<model>.<metric>`, and `<model>.<metric>_<before>` for the model trained before it."""
    out: dict = {}
    before: tuple[str, dict] | None = None
    for name, found in measured.items():
        out |= {f"{name}.{metric}": value for metric, value in found.items()}
        if before:
            out |= {f"{name}.{metric}_{before[0]}": before[1][metric] for metric in found if metric in before[1]}
        before = name, found
    return out


def chosen(rows: list, limit: int) -> list:
    """At most `limit` rows, the same ones whatever their order in the file."""
    return sorted(rows, key=lambda row: unit_hash(row.id, "evaluate"))[:limit]


def held_out_text(model: Transformer, shard: Shard) -> dict[str, float]:
    """Bits per byte of the whole validation split."""
    return corpus_bits_per_byte(shard, lambda b: total_nll(model, b), context=model.config.context)


def yardsticks(shards: Path, tokenizer: Tokenizer) -> dict[str, float]:
    """The same held-out text under `xz`, `zstd` and a byte 5-gram of the same training text."""
    def texts(shard: Shard) -> list[bytes]:
        return [tokenizer.decode(shard.document(i)).encode() for i in range(len(shard.ends))]

    held_out = texts(open_shard(shards, "validation"))
    found = compressor_bits_per_byte(held_out)
    found["ngram5"] = ngram_bits_per_byte(texts(open_shard(shards, "train")), held_out)
    return {f"{name}_bpb": value for name, value in found.items()}


def split(row: Conversation, renderer: Renderer) -> tuple[list[int], list[int]]:
    """Ids of everything before the last message, and of the last message as the answer."""
    return renderer.prompt(row.messages[:-1]), renderer.answer(row.messages[-1].content)


@torch.no_grad()
def answer_nll(model: Transformer, rows: list[Conversation], renderer: Renderer) -> float:
    """Mean nll of held-out answers, nats a token, turn-end included; rows beyond the context are left out."""
    runs = []
    for row in rows:
        prompt, answer = split(row, renderer)
        if len(prompt) + len(answer) <= model.config.context + 1:
            ids = [*prompt, *answer]
            runs.append(Run(ids[:-1], ids[1:], [0.0] * (len(prompt) - 1) + [1.0] * len(answer)))
    nats, tokens = total_nll(model, batches(runs))
    return nats / tokens


def generate(model: Transformer, rows: list[Conversation], renderer: Renderer, max_tokens: int) -> list[str]:
    """Greedy answers to the last question of every conversation."""
    if not rows:
        return []
    tokenizer = renderer.tokenizer
    prompts = [renderer.prompt(row.messages[:-1]) for row in rows]
    done = complete(model, prompts, ends={tokenizer.turn_end, tokenizer.eos}, max_tokens=max_tokens)
    return [tokenizer.decode(c.ids).strip() for c in done]


def generated_matches(model: Transformer, rows: list[Conversation], renderer: Renderer, config: Config) -> dict[str, float]:
    """Exact match of generated answers: all closed tasks together, and each task; code answers compare as written."""
    asked = [row for row in rows if row.task in config.closed_tasks][:config.generated]
    if not asked:
        return {}
    by_task: dict[str, list[float]] = defaultdict(list)
    for row, text in zip(asked, generate(model, asked, renderer, config.max_tokens), strict=True):
        by_task[row.task].append(float(text == row.messages[-1].content.strip()))
    everything = [hit for hits in by_task.values() for hit in hits]
    return {"exact_match": sum(everything) / len(everything),
            "exact_match_by_task": {task: sum(hits) / len(hits) for task, hits in sorted(by_task.items())}}
