"""The encoder-decoder on flat tokens: the original Transformer (Vaswani et al. 2017) and T5 (Raffel et al. 2020).

A batch is a forest like any other (`forest.py`): a source is a run without a parent, its targets are the runs that
continue it.  Sources go through the encoder, which sees both ways; targets through the decoder, which sees its own past
and, by cross-attention, its source.  So a source with several targets is encoded once, and objectives, batches,
checkpoints and the loop are those of any model.  Positions count from 0 in every run.

T5 v1.0 multiplies what its head reads by D^-0.5, the head being the embedding; v1.1 has a head of its own.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding

from bloomery.model.attention import Attention, Memory
from bloomery.model.cache import Cache, kept_as
from bloomery.model.config import ModelConfig
from bloomery.model.cross_attention import CrossAttention, Kept, Paired, Target
from bloomery.model.forest import Forest, Segments, roots
from bloomery.model.init import initialise
from bloomery.model.linear import Linear
from bloomery.model.mlp import MLP
from bloomery.model.norms import NORMS, Norm, give_in
from bloomery.model.positions import rope_table, sinusoidal
from bloomery.model.relative_bias import BiasedCache, BiasedForest, RelativeBias
from bloomery.model.rope_scaling import frequencies, temperature

ELSEWHERE = ("causal", "window", "window_rope_base", "embedding_norm", "types", "head_transform")  # of other networks


class Seq2SeqConfig(ModelConfig):
    """An encoder and a decoder of one width. The fields of a decoder are both stacks'; `depth` is the decoder's."""

    encoder_depth: int = Field(6, gt=0, description="blocks of the encoder")
    relative_buckets: int | None = Field(None, gt=3, description="T5's bias by distance, of so many kinds; none: no")
    relative_distance: int = Field(128, gt=1, description="distances beyond this are one kind")
    scaled_head: bool = Field(False, description="what the head reads is multiplied by D^-0.5 (T5 v1.0)")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of what a layer adds that is dropped in training")
    start_id: int = Field(0, ge=0, description="the token every target begins with and never predicts")

    @model_validator(mode="after")
    def _seq2seq(self) -> "Seq2SeqConfig":
        if self.norm_order == "sandwich":
            raise ValueError("an encoder-decoder has its norms before or after a layer, not around it")
        if others := [name for name in ELSEWHERE if getattr(self, name) != ModelConfig.model_fields[name].default]:
            raise ValueError(f"an encoder-decoder has no {', '.join(others)}")
        if self.relative_buckets and (self.positions != "none" or self.softcap):
            raise ValueError('relative_buckets are how a token knows its place: positions must be "none", without a '
                             "softcap")
        if self.relative_buckets and self.relative_distance <= self.relative_buckets // 2:
            raise ValueError(f"relative_distance ({self.relative_distance}) must be above half of relative_buckets "
                             f"({self.relative_buckets}): those are exact")
        return self

    def stack(self, depth: int) -> ModelConfig:
        """A decoder of the same blocks without cross-attention, for counting."""
        shared = {name: getattr(self, name) for name in ModelConfig.model_fields}
        return ModelConfig(**shared | {"depth": depth, "tied": True})

    def cross(self) -> int:
        """Weights of one cross-attention and its norm."""
        d, e = self.width, self.head_width
        weights = 2 * d * self.heads * e + 2 * d * self.kv_heads * e + d * (2 if self.norm == "layer" else 1)
        biases = (self.heads + 2 * self.kv_heads) * e if self.biases != "none" else 0
        return weights + biases + (d if self.biases in ("attention", "all") else 0)

    def parameters(self) -> int:
        shared = self.vocabulary * self.width + (self.context * self.width if self.positions == "learned" else 0)
        both = sum(self.stack(depth).parameters() - shared for depth in (self.encoder_depth, self.depth))
        return (both + self.depth * self.cross() + self.vocabulary * self.width + self.tables()
                + 2 * (self.relative_buckets or 0) * self.heads)

    def flops_per_token(self) -> float:
        """Half of the tokens are assumed to be sources: a token goes through one of the two stacks."""
        stacks = [self.stack(depth).flops_per_token() for depth in (self.encoder_depth, self.depth)]
        return sum(stacks) / 2 + 3 * self.depth * self.cross()


@dataclass(frozen=True)
class Split:
    """A forest of sources and their targets, told apart."""

    segments: Segments

    @cached_property
    def owner(self) -> list[int]:
        """Which source each target belongs to, by their numbers among sources and targets."""
        parents = self.segments.parent.tolist()
        number = {run: place for place, run in enumerate(run for run, parent in enumerate(parents) if parent < 0)}
        if deep := [run for run, parent in enumerate(parents) if parent >= 0 and parent not in number]:
            raise ValueError(f"run {deep[0]} continues a target: a target continues its source, and nothing else does")
        return [number[parent] for parent in parents if parent >= 0]

    @cached_property
    def is_target(self) -> Tensor:
        """(N,) bool."""
        lengths = torch.tensor([end - first for first, end in self.segments.runs])
        return (self.segments.parent.cpu() >= 0).repeat_interleave(lengths)

    def part(self, *, targets: bool) -> Segments:
        """The sources alone, which see both ways, or the targets alone."""
        return roots([end - first for (first, end), parent in zip(
            self.segments.runs, self.segments.parent.tolist(), strict=True) if (parent >= 0) is targets],
            causal=targets)


class Layer(nn.Module):
    """Self-attention, in a decoder cross-attention, and feed-forward, each added to the residual stream."""

    def __init__(self, config: Seq2SeqConfig, layer: int, *, reads: bool):
        super().__init__()
        norm, self.post, self.dropout = NORMS[config.norm], config.norm_order == "post", config.dropout
        self.attention_norm, self.attention = norm(config.width, config.norm_eps), Attention(config, layer)
        if reads:
            self.cross_norm, self.cross = norm(config.width, config.norm_eps), CrossAttention(config, layer)
        self.mlp_norm = norm(config.width, config.norm_eps)
        self.mlp = MLP(config.width, config.hidden, config.activation, bias=config.biases == "all")
        self.reads = reads

    def forward(self, x: Tensor, cos: Tensor | None, sin: Tensor | None, memory: Memory, layer: int) -> Tensor:
        x = self.added(x, self.attention_norm, self.attention, cos, sin, memory, layer)
        if self.reads:
            x = self.added(x, self.cross_norm, self.cross, memory, layer)
        return self.added(x, self.mlp_norm, self.mlp)

    def added(self, x: Tensor, norm: Norm, part: nn.Module, *rest: object) -> Tensor:
        """The stream after one part, whose norm stands before it or behind the sum."""
        if self.post:
            return norm(x + dropped(part(x, *rest), self.dropout, self))
        return x + dropped(part(norm(x), *rest), self.dropout, self)


def dropped(x: Tensor, share: float, module: nn.Module) -> Tensor:
    """Dropout where a module learns. Srivastava et al. 2014."""
    return dropout(x, share) if share and module.training and torch.is_grad_enabled() else x


class Stack(nn.Module):
    """Blocks and a last norm: the encoder, or the decoder, which reads."""

    def __init__(self, config: Seq2SeqConfig, depth: int, *, reads: bool):
        super().__init__()
        self.blocks = nn.ModuleList(Layer(config, layer, reads=reads) for layer in range(depth))
        self.norm = nn.Identity() if config.norm_order == "post" else NORMS[config.norm](config.width, config.norm_eps)
        self.dropout, self.relative = config.dropout, None
        if config.relative_buckets:
            self.relative = RelativeBias(config.heads, buckets=config.relative_buckets,
                                         furthest=config.relative_distance, both=not reads)

    def memory(self, segments: Segments) -> Memory:
        """What tokens see of their own run."""
        return BiasedForest(segments, self.relative) if self.relative else Forest(segments)

    def forward(self, x: Tensor, cos: Tensor | None, sin: Tensor | None, memory: Memory) -> Tensor:
        x = dropped(x, self.dropout, self)
        for layer, block in enumerate(self.blocks):
            x = block(x, cos, sin, memory, layer)
        return dropped(self.norm(x), self.dropout, self)


class EncoderDecoder(nn.Module):
    """ids (N,) of sources and targets -> hidden states (N, D), the encoder's and the decoder's -> logits (N, V)."""

    def __init__(self, config: Seq2SeqConfig, *, seed: int | None = 0, compute: torch.dtype = torch.float32):
        super().__init__()
        self.config = config
        self.head = Linear(config.width, config.vocabulary)
        self.embedding = self.head if config.tied else Linear(config.width, config.vocabulary)
        if config.positions == "learned":
            self.places = Linear(config.width, config.context)
        self.encoder = Stack(config, config.encoder_depth, reads=False)
        self.decoder = Stack(config, config.depth, reads=True)
        self.compute = compute
        if seed is not None:
            initialise(self, depth=config.depth, seed=seed, residual=config.residual_init,
                       norm=NORMS[config.norm].start)
            if config.relative_buckets:
                spread_as_t5(self)

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers of both stacks."""
        return nn.ModuleList([*self.encoder.blocks, *self.decoder.blocks])

    @property
    def compute(self) -> torch.dtype:
        return self._compute

    @compute.setter
    def compute(self, dtype: torch.dtype) -> None:
        self._compute = dtype
        give_in(self, dtype)

    def forward(self, ids: Tensor, positions: Tensor, memory: Memory) -> Tensor:
        """Hidden states after the last norm of either stack, (N, D); `memory.segments` says which run is which."""
        split = Split(memory.segments)
        targets = split.is_target.to(ids.device)
        encoded = self.encode(ids[~targets], split.part(targets=False))
        hidden = encoded.new_empty(len(ids), encoded.shape[1])
        hidden[~targets] = encoded
        if split.owner:
            own = split.part(targets=True)
            source = Paired(own, split.part(targets=False), split.owner, encoded)
            hidden[targets] = self.decode(ids[targets], own.positions.to(ids.device),
                                          Target(self.decoder.memory(own), source))
        return hidden

    def encode(self, ids: Tensor, segments: Segments) -> Tensor:
        """Hidden states (M, D) of sources, each of which sees itself and nothing else."""
        places = segments.positions.to(ids.device)
        return self.encoder(self.embedded(ids, places), *self.turns(places), self.encoder.memory(segments))

    def decode(self, ids: Tensor, places: Tensor, memory: Memory) -> Tensor:
        """What the head reads, (N, D), of target tokens at these places of their targets."""
        hidden = self.decoder(self.embedded(ids, places), *self.turns(places), memory)
        return hidden * self.config.width ** -0.5 if self.config.scaled_head else hidden

    def embedded(self, ids: Tensor, places: Tensor) -> Tensor:
        x = self.embedding.look_up(ids)
        if self.config.scaled_embedding:
            x = x * self.config.width ** 0.5
        if self.config.positions == "learned":
            x = x + embedding(places, self.places.weight)
        elif self.config.positions == "sinusoidal":
            x = x + sinusoidal(places, self.config.width, dtype=x.dtype)
        return x.to(torch.promote_types(self.compute, torch.float32))

    def turns(self, places: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """cos and sin of rotary positions, each (N, 1, pairs)."""
        if not self.config.rotary:
            return None, None
        theta = frequencies(self.config, places, torch.promote_types(self.compute, torch.float32))
        return rope_table(places, theta, self.compute, temperature(self.config.rope))

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, (N, V) in at least fp32."""
        scores = self.head(hidden)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        cap = self.config.head_softcap
        return scores if cap is None else cap * (scores / cap).tanh()

    def decoding(self, sources: list[list[int]], *, rows: int, tokens: int) -> "Decoding":
        """Targets of these sources, to be read step by step: at most `rows` at once, of at most `tokens` tokens."""
        return Decoding(self, sources, rows=rows, tokens=tokens)


class Decoding:
    """Targets under way, all of one length: every step feeds each row a token.

    A row of a step continues a row of the step before, `parents[i]`; those of the first step are the sources.
    """

    @torch.no_grad()
    def __init__(self, model: EncoderDecoder, sources: list[list[int]], *, rows: int, tokens: int):
        segments = roots([len(ids) for ids in sources], causal=False)
        device = model.head.weight.device
        self.model, self.device = model, device
        self.source = Kept(model.encode(torch.tensor([i for ids in sources for i in ids], device=device), segments),
                           segments)
        dtype = kept_as(model.compute, device)
        with self.beside():
            self.past = BiasedCache(model.config, rows, tokens, model.decoder.relative, dtype=dtype) \
                if model.decoder.relative else Cache(model.config, rows, tokens, dtype=dtype)
        self.owner = [*range(len(sources))]                     # the source of each row
        self.slots = [*range(len(sources))]                     # where in the cache it is

    @torch.no_grad()
    def step(self, parents: list[int], ids: list[int]) -> Tensor:
        """Logits (B, V) of what follows `ids`."""
        self.owner = [self.owner[parent] for parent in parents]
        self.slots = self.placed(parents)
        order = sorted(range(len(ids)), key=self.slots.__getitem__)         # neighbours are read without a copy
        self.source.feed([self.owner[i] for i in order])
        with self.beside():
            places = self.past.feed([self.slots[i] for i in order], [1] * len(order))
            hidden = self.model.decode(torch.tensor([ids[i] for i in order]), places, Target(self.past, self.source))
        self.past.advance()
        return self.model.logits(hidden)[sorted(range(len(order)), key=order.__getitem__)]

    def beside(self) -> AbstractContextManager:
        """Tensors made inside are where the weights are."""
        return nullcontext() if self.device.type == "cpu" else self.device

    def placed(self, parents: list[int]) -> list[int]:
        """A slot for every row: the first to continue one stays there, others get a copy in one that died."""
        spare = iter(sorted(set(range(len(self.past.lengths))) - {self.slots[parent] for parent in parents}))
        slots: list[int] = []
        for parent in parents:
            kept = self.slots[parent]
            slots.append(next(spare) if kept in slots else kept)
            if slots[-1] != kept:
                self.past.copy(kept, slots[-1], self.past.lengths[kept])
        return slots


@torch.no_grad()
def spread_as_t5(model: EncoderDecoder) -> None:
    """Weights as T5's code begins them, with the numbers `initialise` drew.

    Scores are not divided by sqrt(E): queries begin that much smaller instead (Raffel et al. 2020, their code).
    """
    c = model.config
    d, inner = c.width, c.heads * c.head_width
    stds = {"query": (d * c.head_width) ** -0.5, "key_value": d ** -0.5, "output": inner ** -0.5,
            "up": d ** -0.5, "gate_up": d ** -0.5, "down": c.hidden ** -0.5, "embedding": 1.0,
            "head": 1.0 if c.tied else d ** -0.5, "relative": d ** -0.5}
    for name, weight in model.named_parameters():
        kind = name.split(".")[-2]
        if weight.dim() == 2 and kind in stds:
            weight.mul_(stds[kind] / weight.std())
        elif kind == "qkv":
            q, kv = weight.split((inner, len(weight) - inner))
            q.mul_(stds["query"] / q.std())
            kv.mul_(stds["key_value"] / kv.std())
