"""The attention layer: project, turn, attend, project back.

What a query may see is the memory's business: `memory.attend(layer, q, k, v)` (see `forest.py` and `cache.py`); how a
query scores a key is `dot_product.py`.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from bloomery.model.config import ModelConfig
from bloomery.model.dot_product import PLAIN, Scoring
from bloomery.model.linear import Linear
from bloomery.model.norms import NORMS
from bloomery.model.positions import TURNS


class Memory(Protocol):
    """What attention may look at: a training batch (`Forest`) or what was decoded before (`Cache`)."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring = PLAIN) -> Tensor:
        """q (N, H, E), k and v (N, K, E), keys already turned -> (N, H, E)."""
        ...


class Attention(nn.Module):
    """x (N, D) -> (N, D). q, k and v are one matrix, rows in that order."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.heads, config.kv_heads, config.head_width
        self.scoring, self.turn = scoring(config, layer), TURNS.get(config.positions)
        self.qkv = Linear(config.width, (config.heads + 2 * config.kv_heads) * config.head_width,
                          bias=config.biases != "none")
        self.output = Linear(config.heads * config.head_width, config.width, bias=config.biases in ("attention", "all"))
        if config.qk_norm:
            self.q_norm, self.k_norm = (NORMS[config.norm](config.head_width, config.norm_eps) for _ in range(2))
        self.qk_norm = config.qk_norm

    def forward(self, x: Tensor, cos: Tensor | None, sin: Tensor | None, memory: Memory, layer: int) -> Tensor:
        """cos and sin turn q and k; without rotary positions there are none."""
        qkv = self.qkv(x).view(len(x), -1, self.head_width)                              # (N, H + 2K, E)
        qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), 1)
        if self.qk_norm:
            q, k = qk.split((self.heads, self.kv_heads), 1)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), 1)
        if self.turn:
            qk = self.turn(qk, cos, sin)
        q, k = qk.split((self.heads, self.kv_heads), 1)
        return self.output(memory.attend(layer, q, k, v, self.scoring).flatten(1))       # from (N, H, E)


def scoring(config: ModelConfig, layer: int) -> Scoring:
    """How the queries of one layer score keys."""
    scale = None if config.score_width is None else config.score_width ** -0.5
    return Scoring(scale=scale, window=config.windowed(layer), softcap=config.softcap)
