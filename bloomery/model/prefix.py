"""Prefix tuning: keys and values that are learned, in front of everything the frozen model reads (Li & Liang 2021,
"Prefix-Tuning: Optimizing Continuous Prompts for Generation").

Every layer has P of them for each key head, seen by every token.  They are not turned by rotary positions, and the
text's own positions begin at P, as in PEFT, where a prefix enters as `past_key_values`; so P tokens of the context are
spent, and a window leaves the prefix behind as it would leave text.  In a forest the prefix is one more run, the parent
of every root: computed once, whatever the batch holds.

While training they are said by a small network, without which they learn badly (the paper, section 4.3),
    prefix = tanh(e W_1 + b_1) W_2 + b_2,    e (P, K E) learned
and the file holds what it says, in PEFT's layout.  Fifty steps on the quickstart's base reach 2.61 nats a token with
the network, 3.44 without at the better of two rates.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from bloomery.core.config import Fixed, Settings
from bloomery.core.errors import InputError
from bloomery.model.adapters import fill
from bloomery.model.attention import Memory
from bloomery.model.cache import Cache
from bloomery.model.config import ModelConfig
from bloomery.model.dot_product import PLAIN, Scoring
from bloomery.model.forest import DenseForest, Forest, Segments
from bloomery.model.linear import Linear
from bloomery.model.positions import interleaved_to_half
from bloomery.model.transformer import Transformer

KIND = "PREFIX_TUNING"
TENSOR = "prompt_embeddings"


class PrefixConfig(Settings):
    """Options of prefix tuning."""

    prefix_tokens: Annotated[int, Fixed()] = Field(16, gt=0, description="prefix: learned keys and values a layer")
    prefix_hidden: Annotated[int | None, Fixed()] = Field(
        None, gt=0, description="prefix: width of the network that says them in training; default the model's")


class Prefix(nn.Module):
    """The learned keys and values, (L, 2, P, K, E); `said` themselves, or by a network `hidden` wide."""

    def __init__(self, config: ModelConfig, tokens: int, hidden: int | None, seed: int):
        super().__init__()
        self.shape = (config.depth, 2, tokens, config.kv_heads, config.head_width)
        self.context, kv = config.context, config.kv_heads * config.head_width
        generator = torch.Generator().manual_seed(seed)
        if hidden is None:
            self.said = nn.Parameter(torch.randn(self.shape, generator=generator))
            return
        self.start = nn.Parameter(torch.randn(tokens, kv, generator=generator))
        self.first, self.second = Linear(kv, hidden, bias=True), Linear(hidden, config.depth * 2 * kv, bias=True)
        with torch.no_grad():
            for layer in (self.first, self.second):
                bound = layer.in_features ** -0.5
                layer.weight.copy_(torch.rand(layer.weight.shape, generator=generator) * 2 * bound - bound)
                layer.bias.zero_()

    def forward(self) -> Tensor:
        """(L, 2, P, K, E) in fp32."""
        if hasattr(self, "said"):
            return self.said
        layers, two, tokens, heads, width = self.shape
        flat = self.second(self.first(self.start).tanh())                                # (P, L 2 K E)
        return flat.view(tokens, layers, two, heads, width).permute(1, 2, 0, 3, 4)

    def enter(self, model: nn.Module, asked: tuple) -> tuple:
        """Torch calls this before the model: ids, positions and memory, as they are behind a prefix."""
        ids, positions, memory = asked
        tokens = self.shape[2]
        if positions.is_cpu and int(positions.max()) + tokens >= self.context:
            raise ValueError(f"position {int(positions.max())} behind a prefix of {tokens} is beyond the context, "
                             f"{self.context} tokens")
        if isinstance(memory, Cache):
            if not isinstance(memory, PrefixCache):
                raise ValueError("a model with a prefix decodes with a PrefixCache: its slots begin with the prefix")
            return ids, positions + tokens, memory
        return ids, positions + tokens, Prefixed(memory, self())


class Prefixed:
    """A forest behind a prefix (L, 2, P, K, E): one run more, from which all roots descend."""

    def __init__(self, memory: Forest | DenseForest, prefix: Tensor):
        self.forest: Memory = type(memory)(behind(memory.segments, prefix.shape[2]))
        self.prefix = prefix

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring = PLAIN) -> Tensor:
        keys, values = self.prefix[layer].to(k.dtype)                                    # (P, K, E) each
        idle = q.new_zeros(len(keys), *q.shape[1:])
        seen = self.forest.attend(layer, torch.cat((idle, q)), torch.cat((keys, k)), torch.cat((values, v)), scoring)
        return seen[len(keys):]


def behind(segments: Segments, tokens: int) -> Segments:
    """The same runs after one of so many tokens, which is every root's parent."""
    start, parent = segments.start, segments.parent
    return Segments(torch.cat((start.new_zeros(1), start + tokens)), torch.cat((parent.new_full((1,), -1), parent + 1)),
                    segments.causal)


class PrefixCache(Cache):
    """A cache whose every slot begins with the prefix; lengths, and what is fed, copied and cut, are of the text."""

    def __init__(self, model: Transformer, slots: int, capacity: int, *, dtype: torch.dtype = torch.float32):
        prefix = model.prefix().detach().transpose(2, 3).to(dtype)                       # (L, 2, K, P, E)
        super().__init__(model.config, slots, capacity, dtype=dtype, before=prefix.shape[3])
        for kept, own in zip((self.keys, self.values), prefix.unbind(1), strict=True):
            kept[:, :, :, :self.before] = own[:, None]


def cache_for(model: Transformer, slots: int, capacity: int, *, dtype: torch.dtype = torch.float32) -> Cache:
    """The cache that a model decodes with; `capacity` is of the text, with a prefix or without."""
    return (PrefixCache(model, slots, capacity, dtype=dtype) if hasattr(model, "prefix") else
            Cache(model.config, slots, capacity, dtype=dtype))


def parts(model: Transformer) -> dict[str, nn.Parameter]:
    """What learns in front of a frozen model, by name; nothing where there is no prefix."""
    return {name: p for name, p in model.named_parameters() if name.startswith("prefix.")}


def attach(model: Transformer, config: PrefixConfig, seed: int) -> Transformer:
    """Freeze a model and put a prefix in front of it, in place; the model."""
    return put(model, Prefix(model.config, config.prefix_tokens, config.prefix_hidden or model.config.width, seed))


def put(model: Transformer, prefix: Prefix) -> Transformer:
    if prefix.shape[2] >= model.config.context:
        raise InputError("a prefix leaves no room for text", why=f"{prefix.shape[2]} tokens, and the context is "
                         f"{model.config.context}", hint="fewer prefix_tokens")
    if model.config.rope.type == "dynamic":
        raise InputError("a prefix needs angles that stay", why="dynamic rope scaling asks how much of the context is "
                         "read", hint="extend the model with another method, or learn another adapter")
    model.requires_grad_(False)
    model.config = model.config.model_copy(update={"context": model.config.context - prefix.shape[2]})
    model.prefix = prefix.to(model.head.weight.device)
    model.register_forward_pre_hook(model.prefix.enter)
    return model


def to_file(model: Transformer) -> tuple[dict, dict[str, Tensor]]:
    """What PEFT's `adapter_config.json` says, and `prompt_embeddings` (P, L 2 K E): the network is folded away."""
    said, (layers, _, tokens, heads, width) = model.prefix().detach(), model.prefix.shape
    flat = half_turned(said, model.config, back=False).permute(2, 0, 1, 3, 4).reshape(tokens, -1)
    return {"peft_type": KIND, "task_type": "CAUSAL_LM", "num_virtual_tokens": tokens, "num_layers": layers,
            "token_dim": heads * width, "num_attention_heads": heads, "num_transformer_submodules": 1,
            "encoder_hidden_size": heads * width, "prefix_projection": False}, {TENSOR: flat.contiguous()}


def from_file(model: Transformer, said: dict, tensors: dict[str, Tensor]) -> Transformer:
    """Give a model the prefix of a folder, in place; the model."""
    tokens, config = said["num_virtual_tokens"], model.config
    prefix = Prefix(config, tokens, None, 0)
    flat = torch.empty(tokens, config.depth * 2 * config.kv_heads * config.head_width)
    fill({TENSOR: flat}, tensors)
    layers = flat.view(tokens, *prefix.shape[:2], *prefix.shape[3:]).permute(1, 2, 0, 3, 4)
    with torch.no_grad():
        prefix.said.copy_(half_turned(layers, config, back=True))
    return put(model, prefix)


def half_turned(prefix: Tensor, config: ModelConfig, *, back: bool) -> Tensor:
    """Keys in the order of a folder, whose rotary pairs are halves of a head (see `hf_names.half_rotated`)."""
    if config.positions != "rope_interleaved":
        return prefix
    order = torch.tensor([*interleaved_to_half(config.rotary_width), *range(config.rotary_width, config.head_width)])
    order = order.argsort() if back else order
    return torch.stack((prefix[:, 0, ..., order], prefix[:, 1]), 1)
