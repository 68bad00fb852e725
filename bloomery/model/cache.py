"""Keys and values of what was read before, so that each new token costs one column of attention.

Two tensors (L, S, K, C, E): layer, slot, key head, capacity, head width; keys are stored after rotary positions.  A
step feeds `counts[i]` new tokens to slot `slots[i]`, flat and in order; a token sees all earlier ones of its slot and
itself.
"""

import torch
from torch import Tensor

from bloomery.model.blocked import Sees
from bloomery.model.config import ModelConfig
from bloomery.model.dot_product import PLAIN, Scoring
from bloomery.model.padded import padded_attention


class Cache:
    """Preallocated slots. Call `feed` before each forward pass, `advance` after it."""

    def __init__(self, config: ModelConfig, slots: int, capacity: int, *, dtype: torch.dtype = torch.float32):
        shape = (config.depth, slots, config.kv_heads, capacity, config.head_width)
        self.keys, self.values = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        self.lengths = [0] * slots
        self.capacity = capacity

    def feed(self, slots: list[int], counts: list[int]) -> Tensor:
        """Announce the tokens of the next pass; their positions, (sum of counts,) int64.

        Raises `ValueError` when a slot would overflow.
        """
        for slot, count in zip(slots, counts, strict=True):
            if self.lengths[slot] + count > self.capacity:
                raise ValueError(f"cache capacity {self.capacity} exceeded in slot {slot}: "
                                 f"{self.lengths[slot]} tokens held, {count} more fed")
        self._slots, self._counts = slots, counts
        before = torch.tensor([self.lengths[slot] for slot in slots])                    # (B,)
        sizes, width = torch.tensor(counts), max(counts)
        place = torch.arange(width)
        self._real = (place < sizes[:, None]).flatten().nonzero()[:, 0]                  # flat tokens in padded rows
        self._row = torch.tensor(slots)[:, None].expand(-1, width).flatten()[self._real]
        self._column = (before[:, None] + place).flatten()[self._real]
        self._seen = int((before + sizes).max())
        columns = torch.arange(self._seen)
        self._back = (before[:, None] + place)[:, None, :, None] - columns               # (B, 1, T, S) tokens ago
        return self._column

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring = PLAIN) -> Tensor:
        keys, values = self.keys[layer], self.values[layer]                              # (S, K, C, E)
        keys[self._row, :, self._column] = k
        values[self._row, :, self._column] = v
        slots = torch.tensor(self._slots)
        padded = q.new_zeros(len(self._slots) * max(self._counts), *q.shape[1:])
        padded[self._real] = q
        rows = padded.unflatten(0, (len(self._slots), -1)).transpose(1, 2)               # (B, H, T, E)
        hidden = self._back < 0 if scoring.window is None else (self._back < 0) | (self._back >= scoring.window)
        seen = padded_attention(rows, keys[slots, :, :self._seen], values[slots, :, :self._seen],
                                Sees(causal=False, hidden=hidden), scoring)
        return seen.transpose(1, 2).flatten(0, 1)[self._real]

    def advance(self) -> None:
        """The fed tokens are now part of their slots."""
        for slot, count in zip(self._slots, self._counts, strict=True):
            self.lengths[slot] += count

    def clear(self, slot: int) -> None:
        self.lengths[slot] = 0
