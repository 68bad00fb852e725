"""Attention inside a training batch: a forest of token runs, nothing padded outside this file.

Run i is tokens[start[i]:start[i+1]]; a token sees the earlier tokens of its own run and every token of its ancestors.
A packed pretraining row is a list of roots, a prompt with two answers one root with two children.  `DenseForest` builds
the (N, N) mask and is the oracle in tests.  `Forest` gathers runs of similar length into padded rows just for the
attention call, and the queries of all that continues a run into rows over that run (`tree.py`); with CUDA it is
FlexAttention (`flex.py`), where there is neither a CPU nor CUDA the mask.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from bloomery.model.blocked import Sees
from bloomery.model.dot_product import PLAIN, Scoring, attention
from bloomery.model.flex import BlockMask, Paths, block_mask, flex
from bloomery.model.padded import padded_attention
from bloomery.model.tree import Piece, Rows, tree_attention

WIDTH_STEP = 16         # rows are at least this much apart in length, so that few shapes occur (see `linear.py`)


@dataclass(frozen=True)
class Segments:
    """A forest of token runs laid end to end. Run i is tokens[start[i]:start[i+1]]; it sees its own past and all of
    parent[i] (and what that sees)."""

    start: Tensor           # (R+1,) int32, start[0] = 0, start[R] = N
    parent: Tensor          # (R,)  int32, -1 for a root; parent[i] < i
    causal: bool = True     # False: a bidirectional encoder
    prefix: bool = False    # True: a root sees all of itself, what continues it does not (prefix LM)

    @cached_property
    def whole(self) -> list[bool]:
        """Whether a token of a run sees those of its own run that come after it, for every run."""
        return [not self.causal or (self.prefix and parent < 0) for parent in self.parent.tolist()]

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """First and end token of every run."""
        bounds = self.start.tolist()
        return list(zip(bounds[:-1], bounds[1:], strict=True))

    @cached_property
    def chains(self) -> list[list[int]]:
        """For every run its ancestors from the root down, without itself."""
        chains: list[list[int]] = []
        for run, parent in enumerate(self.parent.tolist()):
            if not -1 <= parent < run:
                raise ValueError(f"parent[{run}] must be -1 or an earlier run, got {parent}")
            chains.append([] if parent < 0 else [*chains[parent], parent])
        return chains

    @cached_property
    def offsets(self) -> list[int]:
        """Where every run begins on its own path: the tokens of its ancestors."""
        offsets: list[int] = []
        for run, parent in enumerate(self.parent.tolist()):
            first, end = self.runs[parent] if parent >= 0 else (0, 0)
            offsets.append(offsets[parent] + end - first if self.chains[run] else 0)
        return offsets

    @cached_property
    def positions(self) -> Tensor:
        """Where every token stands on its own path, (N,) int64."""
        return torch.cat([torch.arange(offset, offset + end - first)
                          for (first, end), offset in zip(self.runs, self.offsets, strict=True)])

    @cached_property
    def ahead(self) -> Tensor | None:
        """The last place that every token sees of its path, (N,) int64; None where that is its own."""
        if not any(self.whole):
            return None
        last = [offset + end - first - 1 for (first, end), offset in zip(self.runs, self.offsets, strict=True)]
        lengths = [end - first for first, end in self.runs]
        whole = torch.tensor(self.whole).repeat_interleave(torch.tensor(lengths))
        return torch.where(whole, torch.tensor(last).repeat_interleave(torch.tensor(lengths)), self.positions)

    @cached_property
    def paths(self) -> Paths:
        """The forest as FlexAttention's mask reads it."""
        sizes = [1] * len(self.runs)                            # runs that continue a run, itself included
        for run in reversed(range(len(sizes))):
            for ancestor in self.chains[run][-1:]:
                sizes[ancestor] += sizes[run]
        enter, free = [0] * len(sizes), 0
        following = [0] * len(sizes)                            # the number of a run's next child
        for run, chain in enumerate(self.chains):
            enter[run] = following[chain[-1]] if chain else free
            if chain:
                following[chain[-1]] += sizes[run]
            else:
                free += sizes[run]
            following[run] = enter[run] + 1
        first, count = torch.tensor(enter), torch.tensor([end - start for start, end in self.runs])
        return Paths(first.repeat_interleave(count), (first + torch.tensor(sizes)).repeat_interleave(count),
                     self.positions, self.ahead)

    @cached_property
    def length(self) -> int:
        """Tokens of all runs, N."""
        return int(self.start[-1])

    def to(self, device: torch.device | str) -> "Segments":
        return replace(self, start=self.start.to(device), parent=self.parent.to(device))


def roots(lengths: list[int], *, causal: bool = True) -> Segments:
    """Separate sequences of these lengths, end to end."""
    start = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return Segments(start, torch.full((len(lengths),), -1, dtype=torch.int32), causal)


def dense_mask(segments: Segments, window: int | None = None) -> Tensor:
    """Who sees whom, (N, N) bool: row sees column."""
    mask = torch.zeros(segments.length, segments.length, dtype=torch.bool)
    for (first, end), chain, whole in zip(segments.runs, segments.chains, segments.whole, strict=True):
        own = torch.ones(end - first, end - first, dtype=torch.bool)
        mask[first:end, first:end] = own if whole else own.tril()
        for ancestor in chain:
            mask[first:end, slice(*segments.runs[ancestor])] = True
    return mask if window is None else mask & ~beyond(segments, *[torch.arange(segments.length)[None]] * 2, window)[0]


def beyond(segments: Segments, queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """Which of the tokens `keys` (B, S) are too far from `queries` (B, T): (B, T, S). An encoder looks both ways."""
    away = segments.positions[queries][..., None] - segments.positions[keys][:, None]
    return (away if not any(segments.whole) else away.abs()) >= window


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scoring: Scoring) -> Tensor:
    """Attention of flat q (N, H, E) over k and v (N, K, E) under one mask (N, N)."""
    return attention(*(x.transpose(0, 1) for x in (q, k, v)), mask, scoring).transpose(0, 1)


class DenseForest:
    """The oracle: one (N, N) mask."""

    def __init__(self, segments: Segments):
        self.segments = segments

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring = PLAIN) -> Tensor:
        return masked(q, k, v, dense_mask(self.segments, scoring.window).to(q.device), scoring)


class Forest:
    """The fast form. Equal roots are a view; everything else is pieces, made once for all layers with one window."""

    def __init__(self, segments: Segments):
        self.segments, self.count = segments, len(segments.runs)
        lengths = {end - first for first, end in segments.runs}
        self.uniform = len(lengths) == 1 and not any(segments.whole) and not any(segments.chains)
        self._pieces: dict[tuple, list[Piece]] = {}             # by window and heads
        self._masks: dict[int | None, BlockMask | Tensor] = {}  # by window

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring = PLAIN) -> Tensor:
        if not q.is_cpu:
            if scoring.window not in self._masks:
                self._masks[scoring.window] = block_mask(self.segments.paths, scoring.window, q.device) if q.is_cuda \
                    else dense_mask(self.segments, scoring.window).to(q.device)
            mask = self._masks[scoring.window]
            return flex(q, k, v, mask, scoring) if q.is_cuda else masked(q, k, v, mask, scoring)
        if self.uniform:
            q, k, v = (x.unflatten(0, (self.count, -1)).transpose(1, 2) for x in (q, k, v))      # (R, heads, T, E)
            return padded_attention(q, k, v, Sees(window=scoring.window), scoring).transpose(1, 2).flatten(0, 1)
        kind = scoring.window, q.shape[1], k.shape[1]
        if kind not in self._pieces:
            self._pieces[kind] = pieces(self.segments, *kind)
        return tree_attention(q, k, v, self._pieces[kind], scoring)


def width(tokens: int) -> int:
    """A length rounded up to one of eight an octave: few shapes, and 6 % of padding on average."""
    step = max(WIDTH_STEP, 1 << tokens.bit_length() >> 4)
    return -(-tokens // step) * step


def padded(tokens: Sequence[Tensor], heads: int) -> Rows:
    """Lists of flat indices as rows as wide as the longest needs."""
    wide = width(max(map(len, tokens)))
    index = torch.stack([torch.cat([t, t[:1].expand(wide - len(t))]) for t in tokens])
    return Rows(index, torch.arange(wide) < torch.tensor([len(t) for t in tokens])[:, None], heads)


def pieces(segments: Segments, window: int | None, heads: int, key_heads: int) -> list[Piece]:
    """Every run over itself, runs of similar length together; then over every run the queries of all that continues it.

    A window drops the queries that have left a run behind, and the keys no query reaches.
    """
    tokens = [torch.arange(first, end) for first, end in segments.runs]
    below: dict[int, list[int]] = defaultdict(list)             # runs that continue a run, not only its children
    own: dict[tuple, list[Tensor]] = defaultdict(list)
    over: dict[tuple, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for run, chain in enumerate(segments.chains):
        if len(tokens[run]):
            own[any(len(tokens[a]) for a in chain), segments.whole[run], width(len(tokens[run]))].append(tokens[run])
            for ancestor in chain:
                below[ancestor].append(run)
    for run, continued in below.items():
        queries, keys = torch.cat([tokens[r] for r in continued]), tokens[run]
        if window is not None and len(keys):
            at = segments.positions
            queries = queries[at[queries] - at[keys[-1]] < window]
            keys = keys[at[queries].min() - at[keys] < window] if len(queries) else keys
        if len(queries) and len(keys):
            depth = len(segments.chains[run])
            over[depth, width(len(keys)), width(len(queries))].append((queries, keys))
    return [own_piece(segments, padded(group, heads), padded(group, key_heads), window, causal=not ahead,
                      whole=not continues) for (continues, ahead, _), group in own.items()] \
        + [piece_over(segments, padded(queries, heads), padded(keys, key_heads), window)
           for queries, keys in (zip(*group, strict=True) for _, group in sorted(over.items()))]


def own_piece(segments: Segments, queries: Rows, keys: Rows, window: int | None, *, causal: bool,
              whole: bool) -> Piece:
    """Runs over themselves. Padding stands behind the keys, so causal queries need no mask."""
    if causal:
        sees = Sees(window=window if window and window < keys.index.shape[1] else None)
    else:
        hidden = ~keys.real[:, None, None]                                               # (B, 1, 1, S)
        if window and window < keys.index.shape[1]:
            hidden = hidden | beyond(segments, queries.index, keys.index, window)[:, None]
        sees = Sees(causal=False, hidden=hidden)
    return Piece(queries, keys, sees, own=True, whole=whole)


def piece_over(segments: Segments, queries: Rows, keys: Rows, window: int | None) -> Piece:
    """What continues a run, over that run."""
    hidden = ~keys.real[:, None, None]                                                   # (B, 1, 1, S)
    if window is not None:
        far = beyond(segments, queries.index, keys.index, window)                        # (B, T, S)
        hidden = hidden | far[:, None] if far.any() else hidden
    return Piece(queries, keys, Sees(causal=False, hidden=hidden if hidden.any() else None), own=False, whole=False)
