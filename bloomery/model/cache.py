"""Keys and values of what was read before, so that each new token costs one column of attention.

Two tensors (L, S, K, C, E): layer, slot, key head, capacity, head width; keys are stored after rotary positions.  A
step feeds `counts[i]` new tokens to slot `slots[i]`, flat and in order; a token sees all earlier ones of its slot and
itself.

On a CPU they are best kept in fp32 whatever products run in: its batched products of one query are twice as fast in
fp32 as in bfloat16, and five times as fast as torch's fused attention.

Keys are read up to a multiple of `GRAIN`.  Those beyond a slot's own length weigh exactly nothing and stand at the end
of every sum, so that how long other slots are does not change a bit of what this one gets.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bloomery.model.config import ModelConfig
from bloomery.model.dot_product import PLAIN, Scoring

GRAIN = 64              # keys; of fewer, products of small heads are another kernel's
QUERIES = 64            # queries of a row whose scores are computed at once
FEW = 8                 # queries of a key head: below, k q^T runs at 1.3 times the speed of q k^T


class Cache:
    """Preallocated slots. Call `feed` before each forward pass, `advance` after it."""

    def __init__(self, config: ModelConfig, slots: int, capacity: int, *, dtype: torch.dtype = torch.float32):
        shape = (config.depth, slots, config.kv_heads, capacity, config.head_width)
        self.keys, self.values = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        self.lengths = [0] * slots
        self.capacity = capacity

    def feed(self, slots: Sequence[int], counts: Sequence[int], *, padding: int = 0) -> Tensor:
        """Announce the tokens of the next pass; their positions, (sum of counts + padding,) int64.

        Behind them stand `padding` tokens of no slot, which see nothing: they round up the rows of matrix products.
        Raises `ValueError` when a slot would overflow.
        """
        for slot, count in zip(slots, counts, strict=True):
            if self.lengths[slot] + count > self.capacity:
                raise ValueError(f"cache capacity {self.capacity} exceeded in slot {slot}: "
                                 f"{self.lengths[slot]} tokens held, {count} more fed")
        self._slots, self._counts = list(slots), list(counts)
        self._rows, self._width = rows_of(self._slots), max(counts)
        sizes, place = torch.tensor(self._counts), torch.arange(self._width)
        columns = torch.tensor([self.lengths[slot] for slot in slots])[:, None] + place                  # (B, T)
        rows = torch.tensor(self._slots)[:, None].expand_as(columns)
        even = min(counts) == self._width
        self._real = None if even else (place < sizes[:, None]).flatten().nonzero()[:, 0]  # flat tokens in padded rows
        self._row, self._column = (x.flatten() if even else x.flatten()[self._real] for x in (rows, columns))
        longest = max(self.lengths[slot] + count for slot, count in zip(slots, counts, strict=True))
        self._seen = min(-(-longest // GRAIN) * GRAIN, self.capacity)
        self._back = columns[:, None, :, None] - torch.arange(self._seen)                # (B, 1, T, S) tokens ago
        self._masks: dict[int | None, Tensor] = {}
        self._padding = padding
        return torch.cat((self._column, self._column.new_zeros(padding))) if padding else self._column

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring = PLAIN) -> Tensor:
        if self._padding:
            seen = self._attend(layer, *(x[:-self._padding] for x in (q, k, v)), scoring)
            return torch.cat((seen, seen.new_zeros(self._padding, *seen.shape[1:])))
        return self._attend(layer, q, k, v, scoring)

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
        keys, values = self.keys[layer], self.values[layer]                              # (S, K, C, E)
        for kept, new in ((keys, k), (values, v)):
            kept.transpose(1, 2).index_put_((self._row, self._column), new.to(kept.dtype))
        rows = q.to(keys.dtype)
        if self._real is not None:
            padded = rows.new_zeros(len(self._slots) * self._width, *q.shape[1:])
            padded[self._real] = rows
            rows = padded
        rows = rows.unflatten(0, (-1, self._width)).transpose(1, 2)                      # (B, H, T, E)
        seen = weighed(rows, keys[self._rows, :, :self._seen], values[self._rows, :, :self._seen],
                       self._mask(scoring.window, torch.promote_types(keys.dtype, torch.float32)), scoring)
        flat = seen.transpose(1, 2).flatten(0, 1)
        return (flat if self._real is None else flat[self._real]).to(q.dtype)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """0 where a query sees a key, -inf where it does not, (B, 1, T, S)."""
        if window not in self._masks:
            hidden = self._back < 0 if window is None else (self._back < 0) | (self._back >= window)
            self._masks[window] = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)
        return self._masks[window]

    def advance(self, slots: Sequence[int] | None = None) -> None:
        """The fed tokens are now part of their slots; with `slots`, only of these."""
        for slot, count in zip(self._slots, self._counts, strict=True):
            if slots is None or slot in slots:
                self.lengths[slot] += count

    def truncate(self, slot: int, tokens: int) -> None:
        """Forget what a slot holds beyond its first `tokens`."""
        if not 0 <= tokens <= self.lengths[slot]:
            raise ValueError(f"slot {slot} holds {self.lengths[slot]} tokens and cannot be cut to {tokens}")
        self.lengths[slot] = tokens

    def clear(self, slot: int) -> None:
        self.truncate(slot, 0)

    def wipe(self, slot: int) -> None:
        """Clear a slot whose numbers may not be finite: what weighs nothing must still be a number."""
        self.clear(slot)
        self.keys[:, slot], self.values[:, slot] = 0, 0

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Give `target` the first `tokens` tokens of `source`, and nothing else."""
        if tokens > self.lengths[source]:
            raise ValueError(f"slot {source} holds {self.lengths[source]} tokens, not {tokens}")
        for kept in (self.keys, self.values):
            kept[:, target, :, :tokens] = kept[:, source, :, :tokens]
        self.lengths[target] = tokens


def rows_of(slots: list[int]) -> slice | Tensor:
    """The slots as an index: of neighbours a slice, by which nothing is copied."""
    first = slots[0]
    return slice(first, first + len(slots)) if slots == [*range(first, first + len(slots))] else torch.tensor(slots)


def weighed(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scoring: Scoring) -> Tensor:
    """Attention of q (B, H, T, E) over k and v (B, K, S, E), mask (B, 1, T, S) added to the scores; (B, H, T, E)."""
    shape, key_heads, scale, parts = q.shape, k.shape[1], scoring.scale_of(q.shape[-1]), []
    k, v = k.flatten(0, 1), v.flatten(0, 1)                                              # (B K, S, E)
    for first in range(0, shape[2], QUERIES):
        part = q[:, :, first:first + QUERIES] if shape[2] > QUERIES else q
        queries = (part * scale).reshape(len(k), -1, shape[-1])                          # (B K, G T, E)
        scores = torch.bmm(k, queries.mT).mT if queries.shape[1] < FEW else torch.bmm(queries, k.mT)
        if scoring.softcap is not None:
            scores = scores.div_(scoring.softcap).tanh_().mul_(scoring.softcap)
        hidden = mask[:, :, None, first:first + QUERIES]                                 # (B, 1, 1, T, S)
        scores = scores.reshape(shape[0], key_heads, -1, part.shape[2], k.shape[1]) + hidden
        weights = scores.softmax(-1).to(v.dtype).view(len(k), -1, k.shape[1])
        parts.append(torch.bmm(weights, v).view(part.shape))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)
