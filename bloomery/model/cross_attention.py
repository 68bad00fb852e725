"""Cross-attention: the tokens of a target read the source they belong to, all of it.

    out = softmax(q k^T / sqrt(E)) v,     q of the target, k and v of the encoder's last states    Vaswani et al. 2017

`Paired` is its memory in training: flat targets over flat sources, nothing padded outside the product.  `Kept` is that
of decoding: keys and values of every source are made once a layer, when they are first asked for.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from bloomery.model.attention import Memory, scoring
from bloomery.model.blocked import Sees
from bloomery.model.cache import weighed
from bloomery.model.config import ModelConfig
from bloomery.model.dot_product import PLAIN, Scoring, attention
from bloomery.model.forest import Segments, padded, width
from bloomery.model.linear import Linear
from bloomery.model.tree import Piece, tree_attention


class Sources(Protocol):
    """What a target may read of its source."""

    def read(self, layer: int, q: Tensor, key_value: Linear, scoring: Scoring = PLAIN) -> Tensor:
        """q (N, H, E) over what `key_value` makes of the encoded source -> (N, H, E)."""
        ...


class CrossAttention(nn.Module):
    """x (N, D) -> (N, D); keys and values are one matrix, rows in that order."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.heads, self.head_width, self.scoring = config.heads, config.head_width, scoring(config, layer)
        bias = config.biases in ("attention", "all")
        self.query = Linear(config.width, config.heads * config.head_width, bias=config.biases != "none")
        self.key_value = Linear(config.width, 2 * config.kv_heads * config.head_width, bias=config.biases != "none")
        self.output = Linear(config.heads * config.head_width, config.width, bias=bias)

    def forward(self, x: Tensor, sources: Sources, layer: int) -> Tensor:
        q = self.query(x).view(len(x), self.heads, self.head_width)
        return self.output(sources.read(layer, q, self.key_value, self.scoring).flatten(1))


@dataclass(frozen=True)
class Target:
    """The memory of a decoder: its own past, and its source."""

    past: Memory
    source: Sources

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring = PLAIN) -> Tensor:
        return self.past.attend(layer, q, k, v, scoring)

    def read(self, layer: int, q: Tensor, key_value: Linear, scoring: Scoring = PLAIN) -> Tensor:
        return self.source.read(layer, q, key_value, scoring)


def keys_values(encoded: Tensor, key_value: Linear, head_width: int) -> tuple[Tensor, Tensor]:
    """Keys and values (M, K, E) of encoded sources (M, D)."""
    return key_value(encoded).view(len(encoded), -1, head_width).chunk(2, 1)


@dataclass
class Paired:
    """Runs of a target over runs of a source: target run i reads source run `owner[i]`, of `encoded` (M, D).

    All targets of one source are one row of queries, so that every source is read, and its gradient made, once.
    """

    targets: Segments
    sources: Segments
    owner: list[int]
    encoded: Tensor
    _pieces: dict[tuple[int, int], list[Piece]] = field(default_factory=dict)

    def read(self, layer: int, q: Tensor, key_value: Linear, scoring: Scoring = PLAIN) -> Tensor:
        k, v = keys_values(self.encoded, key_value, q.shape[-1])
        if not q.is_cpu:                                        # torch's kernels for CPUs are what pieces are made for
            return attention(*(x.transpose(0, 1) for x in (q, k, v)), self.mask.to(q.device), scoring).transpose(0, 1)
        heads = q.shape[1], k.shape[1]
        if heads not in self._pieces:
            self._pieces[heads] = self.pieces(*heads)
        return tree_attention(q, k, v, self._pieces[heads], scoring)

    @property
    def mask(self) -> Tensor:
        """Who reads whom, (N, M) bool."""
        def numbers(segments: Segments) -> Tensor:
            return torch.arange(len(segments.runs)).repeat_interleave(segments.start.diff().cpu())

        return torch.tensor(self.owner)[numbers(self.targets)][:, None] == numbers(self.sources)

    def pieces(self, heads: int, key_heads: int) -> list[Piece]:
        """Queries of each source over that source, in rows of similar shape."""
        asking: dict[int, list[Tensor]] = {}
        for (first, end), source in zip(self.targets.runs, self.owner, strict=True):
            asking.setdefault(source, []).append(torch.arange(first, end))
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for source, runs in asking.items():
            queries, keys = torch.cat(runs), torch.arange(*self.sources.runs[source])
            alike.setdefault((width(len(queries)), width(len(keys))), []).append((queries, keys))
        found = []
        for group in alike.values():
            queries, keys = zip(*group, strict=True)
            keys = padded(keys, key_heads)
            sees = Sees(causal=False, hidden=None if keys.full else ~keys.real[:, None, None])
            found.append(Piece(padded(queries, heads), keys, sees, own=True, whole=True))
        return found


class Kept:
    """Sources while their targets are decoded, one token a row: padded (S, T), read once a layer.

    `feed(owner)` says which source each row of the next step reads.
    """

    def __init__(self, encoded: Tensor, segments: Segments):
        rows = padded([torch.arange(first, end) for first, end in segments.runs], 1)
        self.encoded, self.index = encoded, rows.index.to(encoded.device)
        wide = torch.promote_types(encoded.dtype, torch.float32)
        self.hidden = torch.zeros(rows.real.shape, dtype=wide).masked_fill_(~rows.real, -torch.inf).to(encoded.device)
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.feed([*range(len(self.index))])

    def feed(self, owner: list[int]) -> None:
        whole = owner == [*range(len(self.index))]              # then nothing need be copied
        self.rows = slice(None) if whole else torch.tensor(owner, device=self.encoded.device)

    def read(self, layer: int, q: Tensor, key_value: Linear, scoring: Scoring = PLAIN) -> Tensor:
        if layer not in self.layers:
            made = keys_values(self.encoded, key_value, q.shape[-1])
            self.layers[layer] = tuple(x.to(self.hidden.dtype)[self.index].transpose(1, 2).contiguous() for x in made)
        k, v = (x[self.rows] for x in self.layers[layer])                                # (B, K, T, E)
        hidden = self.hidden[self.rows][:, None, None]                                   # (B, 1, 1, T)
        return weighed(q[:, :, None].to(k.dtype), k, v, hidden, scoring)[:, :, 0].to(q.dtype)
