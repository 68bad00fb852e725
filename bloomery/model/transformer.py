"""The decoder on flat tokens: ids (N,) -> hidden states (N, D) -> logits (N, V).

The trunk never sees a batch dimension: tokens of many sequences lie end to end, `positions` says where each stands on
its own path, and only attention, through `memory`, knows which of them belong together.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from bloomery.model.attention import Memory
from bloomery.model.block import Block
from bloomery.model.config import ModelConfig
from bloomery.model.init import initialise
from bloomery.model.linear import Linear
from bloomery.model.norms import RMSNorm
from bloomery.model.positions import rope_frequencies, rope_table


class Transformer(nn.Module):
    """A Llama-style decoder. `compute` is the dtype of activations and matrix products; weights stay as they are."""

    def __init__(self, config: ModelConfig, *, seed: int | None = 0, compute: torch.dtype = torch.float32):
        super().__init__()
        self.config, self.compute = config, compute
        self.head = Linear(config.width, config.vocabulary)
        self.embedding = self.head if config.tied else Linear(config.width, config.vocabulary)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config.norm_eps)
        if seed is not None:
            initialise(self, depth=config.depth, seed=seed)

    def forward(self, ids: Tensor, positions: Tensor, memory: Memory) -> Tensor:
        """Hidden states after the last norm, (N, D) in the compute dtype."""
        x = embedding(ids, self.embedding.weight).to(self.compute)                       # (N, D)
        wide = torch.promote_types(self.compute, torch.float32)
        frequencies = rope_frequencies(self.config.head_width, self.config.rope_base, wide).to(positions.device)
        cos, sin = rope_table(positions, frequencies, self.compute)
        for layer, block in enumerate(self.blocks):
            x = block(x, cos, sin, memory, layer)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, (N, V) in at least fp32."""
        scores = self.head(hidden)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))
