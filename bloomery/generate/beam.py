"""Beam search: at every step keep the k likeliest continuations, and at the end the n best by score.

    score(y) = log p(y|x) / |y|^a                   "power", as transformers has it
    score(y) = log p(y|x) / ((5 + |y|) / 6)^a       "gnmt", Wu et al. 2016, eq. 14

|y| counts the end token, and a > 0 favours longer answers, since log-probabilities are negative.  Who ends, who goes on
and when to stop is as in transformers' `generate(num_beams=k)`.  `search` knows no model, only a function that gives
the next token's log-probabilities; `beam_steps` gives it one over a cache of k slots, in shapes that only this search
decides, so that its result does not depend on what else is being served; `rounds` is the same search from the other
side, so that many can go on side by side.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bloomery.core.errors import InputError
from bloomery.model.cache import kept_as
from bloomery.model.prefix import cache_for
from bloomery.model.transformer import Transformer

Stopping = bool | Literal["never"]
Round = tuple[list[list[int]], list["Beam"]]
CHUNK = 256             # tokens of the prompt that are read in one step


@dataclass(frozen=True)
class Beam:
    """One of the answers: its tokens without the end token, which is `end` where there is one."""

    ids: list[int]
    score: float
    logp: float             # log p(y|x), the end token included
    end: int | None = None

    @property
    def finish(self) -> str:
        return "length" if self.end is None else "stop"


def power(length: int, alpha: float) -> float:
    return length ** alpha


def gnmt(length: int, alpha: float) -> float:
    """Wu et al. 2016, eq. 14: at length 1 no penalty, whatever alpha."""
    return ((5 + length) / 6) ** alpha


def likeliest(scores: Tensor, count: int) -> list[int]:
    """Indices of the `count` largest of scores (n,), best first, the lowest on ties, which torch's topk leaves open.

    What is impossible (-inf) is left out. Raises `FloatingPointError` for NaN.
    """
    if scores.isnan().any():
        raise FloatingPointError("a log-probability is not a number")
    edge = scores.topk(min(count, len(scores))).values[-1]
    near = ((scores >= edge) & (scores > -torch.inf)).nonzero()[:, 0]                    # by index
    return near[scores[near].sort(descending=True, stable=True).indices[:count]].tolist()


def search(next_logps: Callable[[list[list[int]]], Tensor], *, beams: int, max_tokens: int,
           ends: frozenset[int] = frozenset(), length_penalty: float = 1.0, early_stopping: Stopping = False,
           penalty: str = "power") -> Iterator[list[Beam]]:
    """Yield, after every step, the answers that have ended so far, best first; the last item is the result.

    `next_logps` maps the living continuations, at most `beams` different ones, each but the first one token longer than
    one it was given a step before, to log-probabilities (B, V).  The rest is as in `rounds`.
    """
    steps = rounds(beams=beams, max_tokens=max_tokens, ends=ends, length_penalty=length_penalty,
                   early_stopping=early_stopping, penalty=penalty)
    living, ended = next(steps)
    while living:
        living, ended = steps.send(next_logps(living))
        yield ended


def rounds(*, beams: int, max_tokens: int, ends: frozenset[int] = frozenset(), length_penalty: float = 1.0,
           early_stopping: Stopping = False, penalty: str = "power") -> Generator[Round, Tensor, None]:
    """The search from the other side, so that many can go on side by side: yields the living continuations with what
    has ended, is sent the log-probabilities (B, V) of what may follow, and has ended when nothing lives.

    `early_stopping`: True stops at `beams` answers; False when the likeliest continuation, scored at its present
    length, is no better than the worst of them; "never" scores it at the length that would suit it best.
    """
    if min(beams, max_tokens) < 1:
        raise ValueError(f"beams and max_tokens must be at least 1, got {beams} and {max_tokens}")
    norm, wanted = PENALTIES[penalty], max(2, 1 + len(ends)) * beams       # enough that `beams` of them do not end
    living: list[tuple[list[int], float]] = [([], 0.0)]
    ended: list[Beam] = []
    for length in range(1, max_tokens + 1):
        logps = yield [ids for ids, _ in living], ended                                  # (B, V)
        totals = logps + torch.tensor([[logp] for _, logp in living], dtype=logps.dtype, device=logps.device)
        before, living, fresh = living, [], []
        for rank, index in enumerate(likeliest(totals.flatten(), wanted)):
            row, token = divmod(index, logps.shape[1])
            ids, logp = before[row][0], float(totals[row, token])
            if token not in ends and length < max_tokens:
                living.append(([*ids, token], logp))
            elif rank < beams:
                score = logp / norm(length, length_penalty)
                fresh.append(Beam(ids, score, logp, token) if token in ends else Beam([*ids, token], score, logp))
        living = living[:beams]
        ended = sorted(ended + fresh, key=lambda beam: -beam.score)[:beams]
        reach = max_tokens if early_stopping == "never" and length_penalty > 0 else length
        if not living or (len(ended) == beams and (
                early_stopping is True or living[0][1] / norm(reach, length_penalty) <= ended[-1].score)):
            break
    yield [], ended


class Slots:
    """`next_logps` of a model: every living continuation has a slot of a cache."""

    def __init__(self, model: Transformer, prompt: list[int], beams: int, capacity: int):
        self.model, self.last, device = model, prompt[-1], next(model.parameters()).device
        self.beside = nullcontext() if device.type == "cpu" else device        # where tensors are made
        with self.beside:
            self.cache = cache_for(model, beams, capacity, dtype=kept_as(model.compute, device))
        self.holds: dict[tuple[int, ...], int] = {(): 0}        # what was read after prompt[:-1] -> its slot

    def __call__(self, continuations: list[list[int]]) -> Tensor:
        paths = [(self.last, *ids) for ids in continuations]
        slots = self.placed(paths)
        order = sorted(range(len(slots)), key=slots.__getitem__)               # neighbours are read without a copy
        hidden = self.read([paths[i][-1] for i in order], [slots[i] for i in order])
        logps = self.model.logits(hidden).log_softmax(-1)
        return logps[sorted(range(len(order)), key=order.__getitem__)]

    def read(self, ids: list[int], slots: list[int]) -> Tensor:
        """Feed every slot as many of the tokens as the others; hidden states (N, D)."""
        with self.beside:
            positions = self.cache.feed(slots, [len(ids) // len(slots)] * len(slots))
            hidden = self.model(torch.tensor(ids), positions, self.cache)
        self.cache.advance()
        return hidden

    def placed(self, paths: list[tuple[int, ...]]) -> list[int]:
        """Slots that hold all but the last token of every path.

        The first to continue a slot stays in it; others get a copy in the slot of a continuation that died. So nothing
        that is read is overwritten, and what does not branch is not copied.
        """
        parents = [self.holds[path[:-1]] for path in paths]
        spare = iter(sorted(set(range(len(self.cache.lengths))) - set(parents)))
        slots: list[int] = []
        for parent in parents:
            slots.append(next(spare) if parent in slots else parent)
            if slots[-1] != parent:
                self.cache.copy(parent, slots[-1], self.cache.lengths[parent])
        self.holds = dict(zip(paths, slots, strict=True))
        return slots


@torch.no_grad()
def beam_steps(model: Transformer, prompt: list[int], *, beams: int, max_tokens: int,
               ends: frozenset[int] = frozenset(), length_penalty: float = 1.0, early_stopping: Stopping = False,
               penalty: str = "power") -> Iterator[list[Beam]]:
    """`search` with a model, one pass of it an item: a server can do other work in between.

    Items are empty while the prompt is read. Raises `InputError` for an empty prompt or one that fills the context.
    """
    context = model.config.context
    if not 0 < len(prompt) < context:
        raise InputError("a prompt cannot be continued",
                         why=f"it has {len(prompt)} tokens, the model reads 1 to {context - 1} and then answers")
    max_tokens = min(max_tokens, context - len(prompt) + 1)     # the last token is predicted from a full context
    slots = Slots(model, prompt, beams, len(prompt) + max_tokens)
    for first in range(0, len(prompt) - 1, CHUNK):
        slots.read(prompt[first:min(first + CHUNK, len(prompt) - 1)], [0])
        yield []
    yield from search(slots, beams=beams, max_tokens=max_tokens, ends=ends, length_penalty=length_penalty,
                      early_stopping=early_stopping, penalty=penalty)


def beam_search(model: Transformer, prompt: list[int], *, beams: int, max_tokens: int,
                ends: frozenset[int] = frozenset(), length_penalty: float = 1.0, early_stopping: Stopping = False,
                penalty: str = "power", n_best: int = 1) -> list[Beam]:
    """The `n_best` answers to a prompt, best first. See `search` and `beam_steps` for the rest."""
    if not 1 <= n_best <= beams:
        raise ValueError(f"n_best must be between 1 and beams ({beams}), got {n_best}")
    *_, best = beam_steps(model, prompt, beams=beams, max_tokens=max_tokens, ends=ends, length_penalty=length_penalty,
                          early_stopping=early_stopping, penalty=penalty)
    return best[:n_best]


PENALTIES = {"power": power, "gnmt": gnmt}
