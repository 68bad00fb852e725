"""The attention layer: project, turn, attend, project back.

What a query may see is the memory's business: `memory.attend(layer, q, k, v)` (see `forest.py` and `cache.py`); how a
query scores a key is `dot_product.py`.
"""

from typing import Protocol

from torch import Tensor, nn

from bloomery.model.dot_product import PLAIN, Scoring
from bloomery.model.linear import Linear
from bloomery.model.positions import rope


class Memory(Protocol):
    """What attention may look at: a training batch (`Forest`) or what was decoded before (`Cache`)."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring = PLAIN) -> Tensor:
        """q (N, H, E), k and v (N, K, E), keys already turned -> (N, H, E)."""
        ...


class Attention(nn.Module):
    """x (N, D) -> (N, D). q, k and v are one matrix, rows in that order."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_width: int):
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, head_width
        self.qkv = Linear(width, (heads + 2 * kv_heads) * head_width)
        self.output = Linear(heads * head_width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, memory: Memory, layer: int) -> Tensor:
        qkv = self.qkv(x).view(len(x), -1, self.head_width)                              # (N, H + 2K, E)
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), 1)
        seen = memory.attend(layer, rope(q, cos, sin), rope(k, cos, sin), v)             # (N, H, E)
        return self.output(seen.flatten(1))
