"""From logits to the next token: greedy, temperature, top-k, top-p, min-p, in that order.

Each filter sees the distribution the one before left, renormalised; at least one token always survives.  Ties go to the
lowest id.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How to choose; temperature 0 is greedy, top_k 0 and top_p 1 keep everything."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for name, ok, wanted in (("temperature", self.temperature >= 0, ">= 0"),
                                 ("top_k", self.top_k >= 0, ">= 0"),
                                 ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
                                 ("min_p", 0 <= self.min_p <= 1, "in [0, 1]")):
            if not ok:
                raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)}")


def top_k(logits: Tensor, k: int) -> Tensor:
    """Remove logits (..., V) below the k-th largest; all ties at the cut are kept. Fan et al. 2018."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(k).values[..., -1:], -torch.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set with mass >= p: tokens with less than p strictly before them. Holtzman et al. 2020."""
    if p >= 1:
        return logits
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    edge = p - 8 * torch.finfo(probabilities.dtype).eps         # a boundary hit exactly stays one, up to rounding
    reached = (before > 0) & (before >= edge)
    return logits.masked_fill(torch.zeros_like(logits, dtype=torch.bool).scatter(-1, ids, reached), -torch.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens at least p times as likely as the likeliest. Nguyen et al. 2024."""
    if p == 0:
        return logits
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -torch.inf)


def filtered(logits: Tensor, how: Sampling) -> Tensor:
    """The log-probabilities that are sampled from, (..., V); -inf where a filter removed a token."""
    if how.temperature == 0:
        raise ValueError("temperature 0 is greedy: it has no distribution to filter")
    return min_p(top_p(top_k(logits / how.temperature, how.top_k), how.top_p), how.min_p).log_softmax(-1)


def greedy(logits: Tensor) -> Tensor:
    """The likeliest id of every row, the lowest on ties, (...,) int64."""
    best = logits == logits.amax(-1, keepdim=True)
    return best.to(torch.int8).argmax(-1)                      # argmax over {0, 1} returns the first


def sample(logits: Tensor, how: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """One id for every row of logits (B, V), (B,) int64."""
    if how.temperature == 0:
        return greedy(logits)
    return torch.multinomial(filtered(logits, how).exp(), 1, generator=generator)[:, 0]
