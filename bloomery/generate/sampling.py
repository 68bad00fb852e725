"""From logits to the next token.

What is asked for is done in this order, that of transformers' `generate`, each operation on what the one before left:
    logit bias; repetition, presence and frequency penalty; repeated n-grams, bad words, ends that come too early;
and, unless the temperature is 0 (greedy: the likeliest, the lowest id on ties),
    temperature, top-k, top-p, min-p, typical; then a draw.
At least one token always survives.

A token is a pure function of its logits, its history and (seed, sample, step): `choose` uses only operations that give
a row the same bits whatever the other rows are, and a draw needs one number, which is hashed and not taken from the
state of a generator.  Left out: biases of whole sequences, epsilon, eta and top-h cuts, watermarks.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from math import inf, isfinite

import numpy as np
import torch
from torch import Tensor

from bloomery.core.errors import InputError
from bloomery.core.kernels import kernel


@dataclass(frozen=True)
class Sampling:
    """How to choose; temperature 0 is greedy. The defaults sample from the model as it is.

    Repetition penalty, n-grams and bad words look at prompt and answer, as in transformers; presence and frequency
    penalty at the answer alone, as in vLLM.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()          # (id, what is added to its logit)
    bad_words: tuple[tuple[int, ...], ...] = ()             # ids that must not follow one another

    def __post_init__(self) -> None:
        for name, ok, wanted in (("temperature", 0 <= self.temperature < inf, ">= 0"),
                                 ("top_k", self.top_k >= 0, ">= 0"),
                                 ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
                                 ("min_p", 0 <= self.min_p <= 1, "in [0, 1]"),
                                 ("typical_p", 0 < self.typical_p <= 1, "in (0, 1]"),
                                 ("repetition_penalty", 0 < self.repetition_penalty < inf, "> 0"),
                                 ("presence_penalty", isfinite(self.presence_penalty), "finite"),
                                 ("frequency_penalty", isfinite(self.frequency_penalty), "finite"),
                                 ("no_repeat_ngram", self.no_repeat_ngram >= 0, ">= 0"),
                                 ("logit_bias", all(i >= 0 and isfinite(by) for i, by in self.logit_bias),
                                  "ids >= 0 with finite biases"),
                                 ("bad_words", all(word and min(word) >= 0 for word in self.bad_words),
                                  "sequences of ids >= 0, none empty")):
            if not ok:
                raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)}")

    @cached_property
    def filters(self) -> tuple[float, ...]:
        """What makes a distribution of logits; rows that agree in it are worked on together. () is greedy."""
        return (self.temperature, self.top_k, self.top_p, self.min_p, self.typical_p) if self.temperature else ()

    @cached_property
    def steers(self) -> bool:
        """Whether the logits are changed by what was said before, or by a bias."""
        return bool(self.logit_bias or self.bad_words or self.no_repeat_ngram or self.repetition_penalty != 1
                    or self.presence_penalty or self.frequency_penalty)

    @property
    def plain(self) -> bool:
        """Nothing but the likeliest token of the model."""
        return not (self.filters or self.steers)

    def check(self, vocabulary: int) -> None:
        """Raise `InputError` for an id that a model of this vocabulary does not have."""
        for name, words in (("logit_bias", self.logit_bias and [[i for i, _ in self.logit_bias]]),
                            ("bad_words", self.bad_words)):
            largest = max(map(max, words), default=0)
            if largest >= vocabulary:
                raise InputError(f"{name} names an unknown token", where=name,
                                 why=f"the id {largest} is not below the vocabulary's {vocabulary}")


BLOCK = 8           # rows worked on at a time: they stay in the cache; 32 of 50k at once take half as long again
GREEDY, AS_IS = Sampling(temperature=0), Sampling()


@dataclass(frozen=True)
class Row:
    """What the choice of one sample's next token depends on besides its logits."""

    how: Sampling
    prompt: Sequence[int]
    generated: Sequence[int]
    seed: int = 0
    sample: int = 0                                         # which of the request's n
    forbidden: frozenset[int] = frozenset()                 # the end ids, while there are fewer tokens than asked for
    alternatives: int = 0

    @property
    def steered(self) -> bool:
        return self.how.steers or bool(self.forbidden)

    @property
    def direct(self) -> bool:
        """Drawn from the logits as they are but for a temperature, or the likeliest of them."""
        return not self.steered and self.how.filters[1:] in ((), AS_IS.filters[1:])

    @property
    def chance(self) -> float:
        """The number in [0, 1) that decides."""
        return uniform(self.seed, self.sample, len(self.generated))


@dataclass(frozen=True)
class Token:
    """A choice and how likely it was, in nats; nan where a row's logits are no distribution: its caller must end it."""

    id: int
    logp: float                                             # where it was drawn from: penalised, filtered, renormalised
    raw: float                                              # what the model says: temperature 1, no penalty, no filter
    top: tuple[tuple[int, float], ...] = ()                 # the model's likeliest (id, log-probability), ties by id


def choose(logits: Tensor, rows: Sequence[Row]) -> list[Token]:
    """The next token of every row, from logits (B, V) in fp32; a row's result has the same bits beside any others.

    32 rows of 16k on one core: 0.2 ms greedy or at a temperature (1.4 ms without numba), 5 ms with top-p.
    """
    if logits.dim() != 2 or len(logits) != len(rows):
        raise ValueError(f"logits {tuple(logits.shape)} for {len(rows)} rows: there must be one line a row")
    quick = kernel("generate/draw") if logits.device.type == "cpu" and logits.dtype == torch.float32 else None
    direct = [i for i, row in enumerate(rows) if quick and row.direct]
    others = sorted({*range(len(rows))} - {*direct})
    found = {}
    if direct:
        numbers = quick.drawn(taken(logits, direct), [rows[i].how.temperature for i in direct],
                              [rows[i].chance for i in direct])
        found |= {i: told(logits[i], rows[i], *three) for i, *three in zip(direct, *numbers, strict=True)}
    for start in range(0, len(others), BLOCK):
        block = others[start:start + BLOCK]
        found |= zip(block, choose_block(taken(logits, block), [rows[i] for i in block]), strict=True)
    return [found[i] for i in range(len(rows))]


def taken(logits: Tensor, rows: list[int]) -> Tensor:
    """These rows; all of them are not copied."""
    return logits if len(rows) == len(logits) else logits[rows]


def told(logits: Tensor, row: Row, id: int, logp: float, raw: float) -> Token:
    """A choice with the alternatives its row asks for, (V,) logits; among them it has the same number as they."""
    if not row.alternatives:
        return Token(id, logp, raw)
    all_logp = logits.log_softmax(-1)
    own = float(all_logp[id])
    return Token(id, own if row.how.temperature in (0, 1) else logp, own, likeliest(all_logp, row.alternatives))


def choose_block(logits: Tensor, rows: Sequence[Row]) -> list[Token]:
    """Rows that ask for the same are chosen together; a greedy row costs an argmax whatever its neighbours ask for."""
    raw = logits.log_softmax(-1)                                                            # (B, V)
    ids, logp = raw.new_empty(len(rows), dtype=torch.int64), raw.new_empty(len(rows))       # (B,)
    groups: dict[tuple, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups[row.steered, row.how.filters].append(i)
    for (steered, filters), members in groups.items():
        at = slice(None) if len(members) == len(rows) else members                          # all of them: no copy
        values = torch.stack([steer(logits[i], rows[i]) for i in members]) if steered else logits[at]
        untouched = not steered and filters in (GREEDY.filters, AS_IS.filters)
        if filters:
            spread = raw[at] if untouched else filtered(values, rows[members[0]].how)
            found = draw(spread, [rows[i].chance for i in members])
        else:
            spread, found = raw[at] if untouched else values.log_softmax(-1), greedy(values)
        ids[at], logp[at] = found, spread.gather(-1, found[:, None])[:, 0]
    numbers = zip(ids.tolist(), logp.tolist(), raw.gather(-1, ids[:, None])[:, 0].tolist(), strict=True)
    return [Token(*three, top=likeliest(raw[i], rows[i].alternatives)) for i, three in enumerate(numbers)]


# --- what was said before -----------------------------------------------------------------------------------------

def steer(logits: Tensor, row: Row) -> Tensor:
    """Logits (V,) after bias, penalties and bans. Bans that would leave nothing to say are lifted."""
    how, out = row.how, logits.clone()
    for i, by in how.logit_bias:
        out[i] += by
    if how.repetition_penalty != 1:
        out = repetition_penalty(out, {*row.prompt, *row.generated}, how.repetition_penalty)
    if row.generated and (how.presence_penalty or how.frequency_penalty):
        out = count_penalties(out, Counter(row.generated), how.presence_penalty, how.frequency_penalty)
    for banned in bans(row):
        if banned:
            left = out.index_fill(0, torch.tensor(sorted(banned), device=out.device), -inf)
            out = left if left.amax() > -inf else out
    return out


def repetition_penalty(logits: Tensor, seen: Collection[int], penalty: float) -> Tensor:
    """Logits (V,), those of seen ids divided if positive, else multiplied, once each. Keskar et al. 2019, 4.1."""
    at = torch.tensor(sorted(seen), dtype=torch.int64, device=logits.device)
    found = logits[at]
    return logits.index_copy(0, at, torch.where(found > 0, found / penalty, found * penalty))


def count_penalties(logits: Tensor, counts: dict[int, int], presence: float, frequency: float) -> Tensor:
    """Logits (V,) minus presence + count * frequency for every id that was generated. OpenAI's API reference."""
    by = [presence + count * frequency for count in counts.values()]
    at = torch.tensor(list(counts), device=logits.device)
    return logits.index_add(0, at, torch.tensor(by, dtype=logits.dtype, device=logits.device), alpha=-1)


def bans(row: Row) -> Iterator[Collection[int]]:
    """Sets of ids that may not come next: too early an end, the last id of a bad word, that of a repeated n-gram.

    In this order, since it is the later one that is lifted when all of them together leave nothing.
    """
    yield row.forbidden
    if row.how.bad_words or row.how.no_repeat_ngram:
        history = [*row.prompt, *row.generated]
        yield {word[-1] for word in row.how.bad_words if ends_with(history, word[:-1])}
        yield repeated(history, row.how.no_repeat_ngram)


def ends_with(history: list[int], ids: Sequence[int]) -> bool:
    return not ids or history[-len(ids):] == list(ids)


def repeated(history: list[int], n: int) -> set[int]:
    """What would make the last n ids a second occurrence of themselves. Paulus et al. 2018, section 2.5.

    Only where the last id occurred before is there anything to compare: 0.1 ms for 8k ids.
    """
    if n <= 1 or len(history) < n:
        return set(history) if n == 1 else set()
    suffix, found, at = history[1 - n:], set(), n - 2
    while True:
        try:
            at = history.index(suffix[-1], at, len(history) - 1)
        except ValueError:
            return found
        if history[at + 2 - n:at + 1] == suffix:
            found.add(history[at + 1])
        at += 1


# --- which distribution -------------------------------------------------------------------------------------------

def filtered(logits: Tensor, how: Sampling) -> Tensor:
    """The log-probabilities that are sampled from, (..., V); -inf where a filter removed a token.

    The largest logit is taken off first, and the temperature is never below the smallest normal number, so that a tiny
    one becomes greedy instead of infinite.
    """
    if how.temperature == 0:
        raise ValueError("temperature 0 is greedy: it has no distribution to filter")
    scaled = logits if how.temperature == 1 else (
        (logits - logits.amax(-1, keepdim=True)) / max(how.temperature, torch.finfo(logits.dtype).tiny))
    return typical(min_p(top_p(top_k(scaled, how.top_k), how.top_p), how.min_p), how.typical_p).log_softmax(-1)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Remove logits (..., V) below the k-th largest; all ties at the cut are kept. Fan et al. 2018."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < descending(logits)[..., k - 1:k], -inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set with mass >= p: tokens with less than p strictly before them. Holtzman et al. 2020.

    Found from sorted values alone: all above the last one kept stay, and of those equal to it the lowest ids.
    """
    if p >= 1:
        return logits
    ordered = descending(logits)
    count = enough(ordered.softmax(-1), p)                                                  # (..., 1)
    cut, after = (ordered.gather(-1, at.clamp(max=logits.shape[-1] - 1)) for at in (count - 1, count))
    removed = logits < cut
    if (cut == after).any():                                                                # equals across the cut
        equal = logits == cut
        removed |= equal & (equal.cumsum(-1) > count - (logits > cut).sum(-1, keepdim=True))
    return logits.masked_fill(removed, -inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens at least p times as likely as the likeliest. Nguyen et al. 2024."""
    if p == 0:
        return logits
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -inf)


def typical(logits: Tensor, p: float) -> Tensor:
    """Keep those whose surprise is nearest to the entropy, until they have mass >= p. Meister et al. 2022."""
    if p >= 1:
        return logits
    logp, probabilities = logits.log_softmax(-1), logits.softmax(-1)
    parts = (probabilities * logp).masked_fill(probabilities == 0, 0)
    entropy = -parts.cumsum(-1, dtype=torch.float64)[..., -1:]     # a sum shares a lone row between threads: other bits
    ids = (logp + entropy.to(logp.dtype)).abs().sort(dim=-1, stable=True).indices
    places = torch.arange(logits.shape[-1], device=logits.device).expand_as(ids)
    removed = places >= enough(probabilities.gather(-1, ids), p)
    return logits.masked_fill(torch.empty_like(removed).scatter(-1, ids, removed), -inf)


def enough(probabilities: Tensor, p: float) -> Tensor:
    """How many of the first probabilities (..., V) have mass >= p, (..., 1); one hit exactly is hit, up to rounding."""
    mass = probabilities.cumsum(-1)
    edge = torch.full_like(mass[..., :1], p - 8 * torch.finfo(mass.dtype).eps)
    return (torch.searchsorted(mass, edge) + 1).clamp(max=mass.shape[-1])


def descending(values: Tensor) -> Tensor:
    """(..., V) sorted; on a CPU by numpy, which takes 1 ms for 32 rows of 16k where torch takes 35."""
    if values.device.type != "cpu":
        return values.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(values.detach().numpy(), axis=-1)).flip(-1)


# --- which token --------------------------------------------------------------------------------------------------

def greedy(logits: Tensor) -> Tensor:
    """The likeliest id of every row, the lowest on ties, (...,) int64. numpy: 0.03 ms for 32 rows of 16k, torch 0.3."""
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    return torch.as_tensor(logits.detach().numpy().argmax(-1))


def uniform(seed: int, sample: int, step: int) -> float:
    """A number in [0, 1) that belongs to one token: 52 bits of a hash, so that u * total stays below any total."""
    digest = blake2b(f"{seed} {sample} {step}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 12) * 2.0**-52


def draw(logp: Tensor, u: Sequence[float]) -> Tensor:
    """One id a row, (B,) int64: the first whose cumulated probability is above u (inverse distribution function)."""
    mass = logp.softmax(-1).cumsum(-1, dtype=torch.float64)                                 # (B, V)
    at = torch.tensor(u, dtype=torch.float64, device=logp.device)[:, None] * mass[:, -1:]
    return torch.searchsorted(mass, at, right=True)[:, 0].clamp(max=logp.shape[-1] - 1)     # nan is above everything


def sample(logits: Tensor, how: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """One id for every row of logits (B, V), (B,) int64, from a generator that all rows share."""
    if how.steers:
        raise ValueError("penalties, biases and bans need each row's history: use choose")
    if how.temperature == 0:
        return greedy(logits)
    return torch.multinomial(filtered(logits, how).exp(), 1, generator=generator)[:, 0]


def likeliest(logp: Tensor, n: int) -> tuple[tuple[int, float], ...]:
    """The n largest of (V,) as (id, value), the lowest ids first among equals."""
    if n == 0:
        return ()
    cut = logp.topk(min(n, len(logp))).values[-1]
    at = (logp >= cut).nonzero()[:, 0]
    order = logp[at].sort(descending=True, stable=True)
    return tuple(zip(at[order.indices[:n]].tolist(), order.values[:n].tolist(), strict=True))
