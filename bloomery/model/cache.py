"""Keys and values of what was read before, so that each new token costs one column of attention.

Two tensors (L, S, K, C, E): layer, slot, key head, capacity, head width; keys are stored after rotary positions.  A
step feeds `counts[i]` new tokens to slot `slots[i]`, flat and in order; a token sees all earlier ones of its slot and
itself.  The first tokens of a slot may be lent by another, which keeps them until nobody borrows them any more.

One token a slot is attended by a kernel (`decode_kernel.py`) where numba is installed, keys then being kept as the
model computes them.  Everything else is three products: those of few queries run twice as fast on a CPU in fp32 as in
bfloat16, and five times as fast as torch's fused attention.

Keys are read up to a multiple of `GRAIN`.  Those beyond a slot's own length weigh exactly nothing and stand at the end
of every sum, so that how long other slots are does not change a bit of what this one gets.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bloomery.core.kernels import kernel
from bloomery.model.config import ModelConfig
from bloomery.model.dot_product import PLAIN, Scoring

GRAIN = 64              # keys; of fewer, products of small heads are another kernel's
QUERIES = 64            # queries of a row whose scores are computed at once
FEW = 8                 # queries of a key head: below, k q^T runs at 1.3 times the speed of q k^T
KERNEL = (torch.bfloat16, torch.float32)                        # what the kernel reads


class Cache:
    """Preallocated slots. Call `feed` before each forward pass, `advance` after it.

    `before` keys of every slot stand in front of its text, and count neither as length nor as capacity.
    """

    def __init__(self, config: ModelConfig, slots: int, capacity: int, *, dtype: torch.dtype = torch.float32,
                 before: int = 0):
        shape = (config.depth, slots, config.kv_heads, before + capacity, config.head_width)
        self.keys, self.values = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        self.lengths, self.capacity, self.before = [0] * slots, capacity, before
        self.lenders, self.lent = [*range(slots)], [0] * slots  # in whose place a slot's first keys lie, and how many
        self.single = False                                     # whether the kernel attends what was fed last
        self.kernel = kernel("model/decode") if dtype in KERNEL and self.keys.is_cpu else None

    def feed(self, slots: Sequence[int], counts: Sequence[int], *, padding: int = 0) -> Tensor:
        """Announce the tokens of the next pass; their positions, (sum of counts + padding,) int64.

        Behind them stand `padding` tokens of no slot, which see nothing: they round up the rows of matrix products.
        Raises `ValueError` when a slot would overflow.
        """
        for slot, count in zip(slots, counts, strict=True):
            if self.lengths[slot] + count > self.capacity:
                raise ValueError(f"cache capacity {self.capacity} exceeded in slot {slot}: "
                                 f"{self.lengths[slot]} tokens held, {count} more fed")
        self._slots, self._counts, self._padding = list(slots), list(counts), padding
        self.single = bool(self.kernel) and max(counts) == min(counts) == 1
        columns = self._feed_single() if self.single else self._feed_many()
        return torch.cat((columns, columns.new_zeros(padding))) if padding else columns

    def _feed_single(self) -> Tensor:
        held, lenders, lent = ([of[slot] for slot in self._slots] for of in (self.lengths, self.lenders, self.lent))
        self._step = self.kernel.Step(self._slots, [self.before + length for length in held], lenders, lent)
        return torch.tensor(held)

    def _feed_many(self) -> Tensor:
        for slot in self._slots:
            self._own(slot)
        self._index, self._width = rows_of(self._slots), max(self._counts)
        sizes, place = torch.tensor(self._counts), torch.arange(self._width)
        starts = torch.tensor([self.lengths[slot] for slot in self._slots])
        columns = starts[:, None] + place                                                # (B, T)
        rows = torch.tensor(self._slots)[:, None].expand_as(columns)
        even = min(self._counts) == self._width
        self._real = None if even else (place < sizes[:, None]).flatten().nonzero()[:, 0]  # flat tokens in padded rows
        row, column = (x.flatten() if even else x.flatten()[self._real] for x in (rows, columns))
        self._row, self._column = row, column + self.before
        longest = self.before + int((starts + sizes).max())
        self._seen = min(-(-longest // GRAIN) * GRAIN, self.keys.shape[3])
        self._back = self.before + columns[:, None, :, None] - torch.arange(self._seen)  # (B, 1, T, S) tokens ago
        self._masks: dict[int | None, Tensor] = {}
        return column

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring = PLAIN) -> Tensor:
        if self.single:
            return self._step.attend(q, k, v, self.keys[layer], self.values[layer], scoring).to(q.dtype)
        if self._padding:
            seen = self._attend_many(layer, *(x[:-self._padding] for x in (q, k, v)), scoring)
            return torch.cat((seen, seen.new_zeros(self._padding, *seen.shape[1:])))
        return self._attend_many(layer, q, k, v, scoring)

    def attend_turned(self, layer: int, qkv: Tensor, cos: Tensor, sin: Tensor, scoring: Scoring) -> Tensor:
        """`attend` where `single`, from qkv (N, H + 2K, E) as one product gives them; the kernel turns q and k."""
        return self._step.attend_turned(qkv, cos, sin, self.keys[layer], self.values[layer], scoring).to(qkv.dtype)

    def _attend_many(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
        keys, values = self.keys[layer], self.values[layer]                              # (S, K, C, E)
        for kept, new in ((keys, k), (values, v)):
            kept.transpose(1, 2).index_put_((self._row, self._column), new.to(kept.dtype))
        wide = torch.promote_types(keys.dtype, torch.float32) if keys.is_cpu else keys.dtype
        rows = q.to(wide)
        if self._real is not None:
            padded = rows.new_zeros(len(self._slots) * self._width, *q.shape[1:])
            padded[self._real] = rows
            rows = padded
        rows = rows.unflatten(0, (-1, self._width)).transpose(1, 2)                      # (B, H, T, E)
        seen = weighed(rows, *(kept[self._index, :, :self._seen].to(wide) for kept in (keys, values)),
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
        """Forget what a slot holds beyond its first `tokens`; what others borrow of it is theirs first."""
        if not 0 <= tokens <= self.lengths[slot]:
            raise ValueError(f"slot {slot} holds {self.lengths[slot]} tokens and cannot be cut to {tokens}")
        self._hand_over(slot, self.before + tokens)
        if self.lent[slot] > self.before + tokens:
            self._own(slot)
        self.lengths[slot] = tokens

    def clear(self, slot: int) -> None:
        self.truncate(slot, 0)

    def wipe(self, slot: int) -> None:
        """Clear a slot whose numbers may not be finite: what weighs nothing must still be a number."""
        self.clear(slot)
        self.keys[:, slot, :, self.before:], self.values[:, slot, :, self.before:] = 0, 0

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Give `target` the first `tokens` tokens of `source`, and nothing else."""
        if tokens > self.lengths[source]:
            raise ValueError(f"slot {source} holds {self.lengths[source]} tokens, not {tokens}")
        self.clear(target)
        self._take(source, target, 0, tokens)

    def lend(self, source: int, target: int, tokens: int) -> None:
        """As `copy`, but whole blocks of keys that the kernel can read in `source` stay there."""
        blocks = (self.before + tokens) // self.kernel.BLOCK * self.kernel.BLOCK if self.kernel else 0
        lender = self.lenders[source] if blocks <= self.lent[source] else source
        if not blocks or self.lent[lender]:
            return self.copy(source, target, tokens)
        self.clear(target)
        self._take(source, target, blocks - self.before, tokens)
        self.lenders[target], self.lent[target] = lender, blocks

    def _take(self, source: int, target: int, first: int, last: int) -> None:
        """What `source` reads of its text from `first` on is copied to `target`, which then has `last` tokens."""
        edge = max(first, min(self.lent[source] - self.before, last))
        self._move(self.lenders[source], target, first, edge)
        self._move(source, target, edge, last)
        self.lengths[target] = last

    def _own(self, slot: int) -> None:
        """What a slot has borrowed is copied into it."""
        self._move(self.lenders[slot], slot, 0, self.lent[slot] - self.before)
        self.lenders[slot], self.lent[slot] = slot, 0

    def _hand_over(self, lender: int, keys: int) -> None:
        """A slot keeps its first `keys`: of those who have borrowed more, who has most lends to the others now."""
        needy = [slot for slot, other in enumerate(self.lenders) if other == lender and self.lent[slot] > keys]
        if needy:
            heir = max(needy, key=lambda slot: self.lent[slot])
            self._own(heir)
            for slot in needy:
                self.lenders[slot] = heir

    def _move(self, source: int, target: int, first: int, last: int) -> None:
        part = slice(self.before + first, self.before + max(first, last))
        for kept in (self.keys, self.values):
            kept[:, target, :, part] = kept[:, source, :, part]


def kept_as(compute: torch.dtype, device: torch.device) -> torch.dtype:
    """How keys and values are best kept: as they are computed, but in fp32 where a CPU has no kernel for less."""
    return compute if device.type != "cpu" or kernel("model/decode") else torch.promote_types(compute, torch.float32)


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
