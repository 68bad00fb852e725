"""What a network that reads a source writes: targets of many sources, step by step, greedy, sampled or by beam search.

All rows of a step have the same length, and a row whose target has ended leaves.  Which token follows is the business
of `sampling.py`, which continuations live that of `beam.py`; a network says what follows each row (`Decoding`).
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from bloomery.core.errors import InputError
from bloomery.core.metrics import progress
from bloomery.generate.beam import Beam, Stopping, rounds
from bloomery.generate.sampling import GREEDY, Row, Sampling, choose
from bloomery.model.seq2seq_presets import Network

ROWS = 128              # targets written side by side, beams included


class Decoding(Protocol):
    """Targets under way."""

    def step(self, parents: list[int], ids: list[int]) -> Tensor:
        """Logits (B, V) of what follows; row i continues row parents[i] of the step before, at first a source."""
        ...


def groups(model: Network, sources: list[list[int]], rows: int) -> Iterator[list[int]]:
    """Sources of similar length together, `rows` at a time. `InputError` for one that cannot be read."""
    for number, ids in enumerate(sources):
        if not 0 < len(ids) <= model.config.context:
            raise InputError("a source cannot be read", where=f"source {number}",
                             why=f"it has {len(ids)} tokens, the model reads 1 to {model.config.context}")
    order = sorted(range(len(sources)), key=lambda number: len(sources[number]))
    for first in progress(range(0, len(order), rows), name="writing, batches", total=-(-len(order) // rows)):
        yield order[first:first + rows]


@torch.no_grad()
def written(model: Network, sources: list[list[int]], *, ends: Collection[int], max_tokens: int,
            how: Sampling = GREEDY, seed: int = 0) -> list[list[int]]:
    """One target of each source, without its end. A draw depends on (seed, source's number, step) alone."""
    seeds = [(seed << 32) + number for number in range(len(sources))]
    return [one.ids for one, in drawn(model, sources, ends=ends, max_tokens=max_tokens, how=how, seeds=seeds)]


@torch.no_grad()
def drawn(model: Network, sources: list[list[int]], *, ends: Collection[int], max_tokens: int, how: Sampling,
          seeds: Sequence[int], samples: int = 1) -> list[list[Beam]]:
    """Targets of every source, so many of each; scores are their log-probabilities, as the model says without `how`.

    A draw depends on (its source's seed, sample, step) alone.
    """
    ids: list[list[list[int]]] = [[[] for _ in range(samples)] for _ in sources]
    logps = [[0.0] * samples for _ in sources]
    last_ids: list[list[int | None]] = [[None] * samples for _ in sources]
    limit = min(max_tokens, model.config.context)
    for group in groups(model, sources, max(1, ROWS // samples)):
        rows = [(i, sample) for i in group for sample in range(samples)]
        under_way = model.decoding([sources[i] for i in group], rows=len(rows), tokens=limit)
        parents, last = [row // samples for row in range(len(rows))], [model.config.start_id] * len(rows)
        for _ in range(limit):
            logits = under_way.step(parents, last)
            chosen = choose(logits, [Row(how, sources[i], ids[i][sample], seed=seeds[i], sample=sample)
                                     for i, sample in rows])
            for (i, sample), token in zip(rows, chosen, strict=True):
                logps[i][sample] += token.raw
                if token.id in ends:
                    last_ids[i][sample] = token.id
                else:
                    ids[i][sample].append(token.id)
            parents = [row for row, token in enumerate(chosen) if token.id not in ends]
            rows, last = [rows[row] for row in parents], [chosen[row].id for row in parents]
            if not rows:
                break
    return [[Beam(*one) for one in zip(own, logp, logp, end, strict=True)]
            for own, logp, end in zip(ids, logps, last_ids, strict=True)]


@torch.no_grad()
def beamed(model: Network, sources: list[list[int]], *, ends: Collection[int], max_tokens: int, beams: int,
           length_penalty: float = 1.0, early_stopping: Stopping = False, penalty: str = "power") -> list[list[Beam]]:
    """The beams of every source, best first, as transformers' `generate(num_beams=beams)` finds them."""
    out: list[list[Beam]] = [[] for _ in sources]
    limit = min(max_tokens, model.config.context)
    for group in groups(model, sources, max(1, ROWS // beams)):
        under_way = model.decoding([sources[i] for i in group], rows=len(group) * beams, tokens=limit)
        searches = {i: rounds(beams=beams, max_tokens=limit, ends=frozenset(ends), length_penalty=length_penalty,
                              early_stopping=early_stopping, penalty=penalty) for i in group}
        living = {i: next(search)[0] for i, search in searches.items()}
        rows = {(i, ()): row for row, i in enumerate(group)}    # what each row of the last step has read
        while living:
            paths = [(i, tuple(ids)) for i, own in living.items() for ids in own]
            logps = under_way.step([rows[i, ids[:-1]] for i, ids in paths],
                                   [ids[-1] if ids else model.config.start_id for _, ids in paths]).log_softmax(-1)
            rows = {path: row for row, path in enumerate(paths)}
            told = logps.split([len(own) for own in living.values()])
            for i, own in zip([*living], told, strict=True):
                living[i], out[i] = searches[i].send(own)
            living = {i: own for i, own in living.items() if own}
    return out
