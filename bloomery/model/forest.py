"""Attention inside a training batch: a forest of token runs, nothing padded outside this file.

Run i is tokens[start[i]:start[i+1]]; a token sees the earlier tokens of its own run and every token of its ancestors.
A packed pretraining row is a list of roots, a prompt with two answers one root with two children.  Two backends say the
same: `dense` builds the (N, N) mask and is the oracle in tests; `cpu` gathers runs of similar length into padded rows
just for the attention call and scatters the result back.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bloomery.model.dot_product import PLAIN, Scoring, attention, padded_attention

WASTE = 1.25            # padded rows of a group may hold this much more than its tokens before a new group is begun
ROWS_STEP, WIDTH_STEP = 8, 16   # rows and widths are rounded up to these, so that few shapes occur (see `linear.py`)


@dataclass(frozen=True)
class Segments:
    """A forest of token runs laid end to end. Run i is tokens[start[i]:start[i+1]]; it sees its own past and all of
    parent[i] (and what that sees)."""

    start: Tensor           # (R+1,) int32, start[0] = 0, start[R] = N
    parent: Tensor          # (R,)  int32, -1 for a root; parent[i] < i
    causal: bool = True     # False: a bidirectional encoder

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
    def length(self) -> int:
        """Tokens of all runs, N."""
        return int(self.start[-1])


def roots(lengths: list[int], *, causal: bool = True) -> Segments:
    """Separate sequences of these lengths, end to end."""
    start = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return Segments(start, torch.full((len(lengths),), -1, dtype=torch.int32), causal)


def dense_mask(segments: Segments) -> Tensor:
    """Who sees whom, (N, N) bool: row sees column."""
    mask = torch.zeros(segments.length, segments.length, dtype=torch.bool)
    for (first, end), chain in zip(segments.runs, segments.chains, strict=True):
        own = torch.ones(end - first, end - first, dtype=torch.bool)
        mask[first:end, first:end] = own.tril() if segments.causal else own
        for ancestor in chain:
            mask[first:end, slice(*segments.runs[ancestor])] = True
    return mask


class DenseForest:
    """The oracle: one (N, N) mask."""

    def __init__(self, segments: Segments):
        self.mask = dense_mask(segments)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring = PLAIN) -> Tensor:
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))                                 # (H, N, E), (K, N, E) twice
        return attention(q, k, v, self.mask.to(q.device)).transpose(0, 1)


@dataclass(frozen=True)
class Rows:
    """Runs of similar length as padded rows: where their queries and keys lie in the flat tokens."""

    queries: Tensor         # (B, T) int64 flat index; padding repeats the run's first token
    keys: Tensor            # (B, S) int64 flat index
    mask: Tensor | None     # (B, 1, T, S) bool, or None for causal rows without ancestors
    real: Tensor            # (B*T,) int64 where the real queries stand in the flattened rows
    flat: Tensor            # the same queries' flat indices


class Forest:
    """The CPU backend: equal roots are a view, everything else is gathered into padded rows group by group."""

    def __init__(self, segments: Segments):
        lengths = {end - first for first, end in segments.runs}
        self.count = len(segments.runs)
        self.uniform = len(lengths) == 1 and segments.causal and not any(segments.chains)
        self.groups = [] if self.uniform else [rows(segments, group) for group in groups(segments)]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring = PLAIN) -> Tensor:
        if self.uniform:
            q, k, v = (x.unflatten(0, (self.count, -1)).transpose(1, 2) for x in (q, k, v))      # (R, heads, T, E)
            return padded_attention(q, k, v, None).transpose(1, 2).flatten(0, 1)
        pieces = []
        for group in self.groups:
            padded_q = gathered(q, group.queries)                                        # (B, H, T, E)
            padded_k, padded_v = gathered(k, group.keys), gathered(v, group.keys)        # (B, K, S, E)
            seen = padded_attention(padded_q, padded_k, padded_v, group.mask)
            pieces.append(seen.transpose(1, 2).flatten(0, 1).index_select(0, group.real))
        order = torch.cat([group.flat for group in self.groups])
        return torch.empty_like(q).index_copy(0, order, torch.cat(pieces))


def gathered(x: Tensor, index: Tensor) -> Tensor:
    """Tokens of x (N, heads, E) as rows: (B, heads, T, E) by index (B, T). Its gradient is one indexed sum."""
    return x.index_select(0, index.flatten()).unflatten(0, index.shape).transpose(1, 2)


def groups(segments: Segments) -> list[list[int]]:
    """Runs sorted by length and cut where padding to the longest would waste more than `WASTE` allows.

    Runs with and without ancestors never share a group: the latter need no mask.
    """
    def size(run: int) -> tuple[bool, int, int]:
        first, end = segments.runs[run]
        context = sum(segments.runs[a][1] - segments.runs[a][0] for a in segments.chains[run])
        return bool(context) or not segments.causal, end - first + context, end - first

    cut: list[list[int]] = []
    total = 0
    for run in sorted((r for r, (first, end) in enumerate(segments.runs) if end > first), key=size):
        masked, keys, _ = size(run)
        fits = cut and size(cut[-1][0])[0] == masked and (len(cut[-1]) + 1) * keys <= WASTE * (total + keys)
        if not fits:
            cut.append([])
            total = 0
        cut[-1].append(run)
        total += keys
    return cut


def rows(segments: Segments, group: list[int]) -> Rows:
    """The padded rows of one group of runs."""
    count = len(group)
    group = [*group, *group[:1] * (-count % ROWS_STEP)]         # filled up with the first run, whose result is not read
    own = [torch.arange(*segments.runs[run]) for run in group]
    seen = [torch.cat([*(torch.arange(*segments.runs[a]) for a in segments.chains[run]), tokens])
            for run, tokens in zip(group, own, strict=True)]
    width, depth = (-(-max(map(len, which)) // WIDTH_STEP) * WIDTH_STEP for which in (own, seen))
    queries = torch.stack([torch.cat([t, t[:1].expand(width - len(t))]) for t in own])
    keys = torch.stack([torch.cat([t, t[:1].expand(depth - len(t))]) for t in seen])
    real = torch.cat([torch.arange(len(t)) + row * width for row, t in enumerate(own[:count])])
    mask = None
    if not segments.causal or any(segments.chains[run] for run in group):
        place, column = torch.arange(width)[:, None], torch.arange(depth)
        real_key = torch.stack([(column < len(t)).expand(width, -1) for t in seen])      # (B, T, S)
        past = torch.stack([column <= len(t) - len(mine) + place for mine, t in zip(own, seen, strict=True)])
        mask = (real_key & past if segments.causal else real_key)[:, None]
    return Rows(queries, keys, mask, real, queries.flatten()[real])
