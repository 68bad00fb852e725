"""PPO-ptx: plain text beside what was drawn, so that what the model knew stays learned. Ouyang et al. 2022, eq. 2.

    loss = policy loss + gamma * mean of -log p over tokens of other text

The text's batches have weights that make its mean and a count of 0: they add to the sum and not to what divides it.
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from pydantic import Field

from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.data.batch import Batch, forest, sequence
from bloomery.data.formats import conversations
from bloomery.data.packing import best_fit_decreasing
from bloomery.data.stream import samples
from bloomery.text.chat import Rendered, Renderer, fit


class PtxConfig(Settings):
    """Text that is learned beside what the policy draws."""

    data: Input | None = Field(None, description="conversations; default: none")
    weight: float = Field(1.0, gt=0, description="of their loss a token, beside the policy's (InstructGPT: 27.8)")
    rows: int = Field(8, gt=0, description="conversations an update")


class Ptx:
    """The conversations of a configuration, rendered. What is too long is dropped and counted."""

    def __init__(self, config: PtxConfig, renderer: Renderer, context: int, quarantine: Quarantine):
        found = [fit(renderer.conversation(row.messages, tools=row.tools), context + 1)
                 for row in conversations(config.data, quarantine)]
        self.config = config
        self.rows: Sequence[Rendered] = [row for row in found if row is not None]
        self.dropped = len(found) - len(self.rows)
        if not self.rows:
            raise InputError("no text to keep", where=str(Path(config.data)), hint="shorter conversations",
                             why=f"all {len(found)} are longer than {context} tokens")

    def batches(self, update: int, *, count: float, micro_tokens: int, seed: int) -> list[Batch]:
        """The text of an update whose policy batches count `count` in all."""
        chosen = [self.rows[i] for i in samples(update, self.config.rows, len(self.rows), seed)]
        sizes = [len(row.ids) for row in chosen]
        total = sum(sum(row.weights[1:]) for row in chosen)
        scale = self.config.weight * count / total
        made = [forest([sequence(chosen[i].ids, [w * scale for w in chosen[i].weights]) for i in group])
                for group in best_fit_decreasing(sizes, max(micro_tokens, *sizes))]
        return [Batch(**{each.name: getattr(batch, each.name) for each in fields(batch)} | {"count": 0.0})
                for batch in made]
