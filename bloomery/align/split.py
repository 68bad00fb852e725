"""The split stage: preferences of several sources, into what is learned from and what is held out by whole questions.

Every comparison of one dialogue stands on one side, whatever file it came from: no held-out answer can be remembered.
Beside the pairs stand the chosen answers as conversations, which a model is fine-tuned on before it learns to prefer.
"""

import json
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import say
from bloomery.core.records import Conversation, Message, Preference
from bloomery.data.formats import conversation_row, preference_row, preferences
from bloomery.data.splits import split_by_prompt


class Config(Settings):
    """Hold out whole questions."""

    sources: dict[str, Input] = Field(min_length=1, description="name = a file or folder of preferences; metrics are "
                                                                "told for every name")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ: question = \"prompt\"")
    held_out: float = Field(0.2, gt=0, lt=1, description="share of the questions to hold out")
    seed: int = Field(0, description="names the split")


def run(config: Config, out: Path) -> dict:
    """`preferences.jsonl` and `instructions.jsonl`, and of both the held-out part as `..._heldout.jsonl`."""
    quarantine, rows = Quarantine(), []
    for name, source in config.sources.items():
        rows += [replace(row, kind=name, id=f"{name}:{place}") for place, row in
                 enumerate(preferences(source, quarantine, columns=config.columns))]
    quarantine.write(out)
    sides = split_by_prompt(rows, config.held_out, seed=config.seed)
    for side, what in zip(sides, ("to learn from", "held out"), strict=True):
        if not side:
            raise InputError(f"nothing is {what}", where="split.held_out", why=f"there are {len(rows)} pairs",
                             hint="give more data, or another share")
    for side, ending in zip(sides, ("", "_heldout"), strict=True):
        write_rows(out / f"preferences{ending}.jsonl", [preference_row(pair) for pair in side])
        write_rows(out / f"instructions{ending}.jsonl", [conversation_row(demonstration(pair)) for pair in side])
    learned, spare = map(len, sides)
    say(f"  split: {learned} pairs to learn from, {spare} held out, no question on both sides")
    return {"pairs": learned, "held_out": spare, "quarantined": len(quarantine)}


def demonstration(pair: Preference) -> Conversation:
    """The dialogue that ends with the chosen answer."""
    return Conversation((*pair.prompt, Message("assistant", pair.chosen)), task=pair.kind, id=pair.id)


def write_rows(path: Path, rows: list[dict]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
