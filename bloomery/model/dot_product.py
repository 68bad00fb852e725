"""Scaled dot-product attention, softmax(cap(q k^T scale) + mask) v, with fewer key heads than query heads if wanted.

Query head h reads key head h // (H / K) (Ainslie et al. 2023).  `attention` is the definition; `blocked.py`, `tree.py`
and `flex.py` say the same faster, and `padded.py` chooses among them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scoring:
    """How a query scores a key it may see: cap(q . k * scale), and which keys are too far back to be seen."""

    scale: float | None = None      # None: 1 / sqrt(E)
    window: int | None = None       # a query at position i sees keys with i - j < window; None: all
    softcap: float | None = None    # scores become softcap * tanh(score / softcap); None: as they are

    def scale_of(self, head_width: int) -> float:
        """What q . k is multiplied by."""
        return head_width ** -0.5 if self.scale is None else self.scale


PLAIN = Scoring()


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scoring: Scoring = PLAIN) -> Tensor:
    """The definition, for tests and small inputs: q (..., H, T, E), k and v (..., K, S, E), mask (..., T, S).

    True in the mask means seen, and the window is the mask's business; a query that sees no key returns zeros.
    Vaswani et al. 2017, eq. 1; the soft cap is Gemma 2's (2024, section 2).
    """
    heads, key_heads = q.shape[-3], k.shape[-3]
    if heads % key_heads:
        raise ValueError(f"query heads ({heads}) must be a multiple of key heads ({key_heads})")
    k, v = (x.repeat_interleave(heads // key_heads, -3) for x in (k, v))
    scores = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) * scoring.scale_of(q.shape[-1])
    if scoring.softcap is not None:
        scores = scoring.softcap * (scores / scoring.softcap).tanh()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1).nan_to_num(0.0) if mask is not None else scores.softmax(-1)
    return weights.to(v.dtype) @ v
