"""Decoder or encoder on flat tokens: ids (N,) -> hidden states (N, D) -> logits (N, V).

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
from bloomery.model.mlp import ACTIVATIONS
from bloomery.model.norms import NORMS, give_in
from bloomery.model.positions import rope_table, sinusoidal
from bloomery.model.rope_scaling import frequencies, temperature


class Transformer(nn.Module):
    """A decoder or an encoder. `compute` is the dtype of matrix products and what goes into them; weights stay as they
    are, and so does the residual stream in fp32: rounded at every addition it would be off twice as far as products
    make it."""

    def __init__(self, config: ModelConfig, *, seed: int | None = 0, compute: torch.dtype = torch.float32):
        super().__init__()
        self.config = config
        self.head = Linear(config.width, config.vocabulary, bias=config.head_transform)
        self.embedding = self.head if config.tied else Linear(config.width, config.vocabulary)
        if config.positions == "learned":
            self.places = Linear(config.width, config.context)
        if config.types:
            self.types = Linear(config.width, config.types)
        if config.embedding_norm:
            self.embedding_norm = NORMS[config.norm](config.width, config.norm_eps)
        self.transform = Transform(config) if config.head_transform else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        norm = NORMS[config.norm]
        self.norm = nn.Identity() if config.norm_order == "post" else norm(config.width, config.norm_eps)
        self.compute = compute
        if seed is not None:
            initialise(self, depth=config.depth, seed=seed, residual=config.residual_init, norm=norm.start)

    @property
    def compute(self) -> torch.dtype:
        return self._compute

    @compute.setter
    def compute(self, dtype: torch.dtype) -> None:
        self._compute = dtype
        give_in(self, dtype)

    def forward(self, ids: Tensor, positions: Tensor, memory: Memory, types: Tensor | None = None) -> Tensor:
        """Hidden states after the last norm, (N, D) in the compute dtype; `types` (N,) are all 0 unless given."""
        x = self.embedded(ids, positions, types)                                         # (N, D)
        far, base = self.turns(positions), self.config.window_rope_base
        near = self.turns(positions, base) if base else far
        for layer, block in enumerate(self.blocks):
            x = block(x, *(near if self.config.windowed(layer) else far), memory, layer)
        return self.norm(x)

    def embedded(self, ids: Tensor, positions: Tensor, types: Tensor | None = None) -> Tensor:
        """What the first block reads: the tokens, and where they stand and of which type they are if that is added."""
        x = self.look_up(ids)
        if self.config.scaled_embedding:
            x = x * self.config.width ** 0.5
        if self.config.positions == "learned":
            if positions.is_cpu and int(positions.max()) >= self.places.out_features:
                raise ValueError(f"position {int(positions.max())} is beyond the context, "
                                 f"{self.places.out_features} tokens")
            x = x + embedding(positions, self.places.weight)
        elif self.config.positions == "sinusoidal":
            x = x + sinusoidal(positions, self.config.width, dtype=x.dtype)
        if self.config.types:
            x = x + embedding(torch.zeros_like(ids) if types is None else types, self.types.weight)
        if self.config.embedding_norm:
            x = self.embedding_norm(x)
        return x.to(torch.promote_types(self.compute, torch.float32))

    def look_up(self, ids: Tensor) -> Tensor:
        """The tokens' vectors, (N, D); what replaces this knows where the rows of a split embedding are."""
        return self.embedding.look_up(ids)

    def turns(self, positions: Tensor, base: float | None = None) -> tuple[Tensor | None, Tensor | None]:
        """cos and sin of rotary positions, each (N, 1, pairs); another `base` than the model's where one is given."""
        if not self.config.rotary:
            return None, None
        config = self.config if base is None else self.config.model_copy(update={"rope_base": base})
        theta = frequencies(config, positions, torch.promote_types(self.compute, torch.float32))
        return rope_table(positions, theta, self.compute, temperature(self.config.rope))

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, (N, V) in at least fp32."""
        scores = self.head(self.transform(hidden))
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        cap = self.config.head_softcap
        return scores if cap is None else cap * (scores / cap).tanh()


class Transform(nn.Module):
    """What a masked language model does to a hidden state before the head: norm(f(W h + b)) (Devlin et al. 2019)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.dense = Linear(config.width, config.width, bias=config.biases == "all")
        self.activation = ACTIVATIONS[config.activation]
        self.norm = NORMS[config.norm](config.width, config.norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(hidden)))


def model_weights(model: Transformer) -> dict[str, Tensor]:
    """The parameters by name, a tied head once."""
    return {("embedding.weight" if model.config.tied and name == "head.weight" else name): weight
            for name, weight in model.named_parameters()}
