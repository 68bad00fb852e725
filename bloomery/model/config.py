"""What a network is made of: a value that says every size and every switch, and what a model of it costs.

The defaults are a Llama-style decoder.  Families people know (GPT-2, Llama, Mistral, Qwen, Gemma-2, and the encoders
BERT and ModernBERT) are values too: see `presets.py`.
"""

from typing import Literal

from pydantic import Field, model_validator

from bloomery.core.config import Settings

GATED = ("swiglu", "geglu", "geglu_tanh")               # activations with two input matrices


class Rope(Settings):
    """Rotary positions beyond their base: which part of a head is turned, and how a longer context is reached.

    See `rope_scaling.py` for the formulas; the names are those of Hugging Face's `rope_parameters`.
    """

    type: Literal["default", "linear", "ntk", "dynamic", "llama3", "yarn", "yarn_paper"] = Field(
        "default", description="how frequencies are scaled; linear is position interpolation")
    fraction: float = Field(1.0, gt=0, le=1, description="share of a head's dimensions that is turned")
    factor: float = Field(1.0, ge=1, description="how many times longer the context becomes")
    original_context: int | None = Field(None, gt=0, description="context before scaling; llama3 and yarn need it")
    low_freq_factor: float = Field(1.0, gt=0, description="llama3: waves longer than original / this are divided")
    high_freq_factor: float = Field(4.0, gt=0, description="llama3: waves shorter than original / this are kept")
    beta_fast: float = Field(32.0, gt=0, description="yarn: dimensions that turn more often than this are kept")
    beta_slow: float = Field(1.0, gt=0, description="yarn: dimensions that turn less often than this are divided")
    attention_factor: float | None = Field(None, gt=0, description="yarn: multiplies cos and sin; default by factor")
    mscale: float | None = Field(None, description="yarn: numerator of the default attention factor")
    mscale_all_dim: float | None = Field(None, description="yarn: its denominator")
    truncate: bool = Field(True, description="yarn: round the ends of the ramp to whole dimensions")

    @model_validator(mode="after")
    def _consistent(self) -> "Rope":
        if self.type in ("llama3", "yarn", "yarn_paper") and self.original_context is None:
            raise ValueError(f"rope type {self.type} needs original_context, the context the model was trained with")
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(f"high_freq_factor ({self.high_freq_factor}) must be above low_freq_factor "
                             f"({self.low_freq_factor})")
        return self


class ModelConfig(Settings):
    """A decoder, or with `causal = false` an encoder. As it stands: pre-RMSNorm, RoPE, grouped-query attention, SwiGLU,
    no biases (Llama)."""

    causal: bool = Field(True, description="a token sees those before it; false: all of its text, an encoder")
    vocabulary: int = Field(gt=0, description="rows of the embedding (V)")
    context: int = Field(512, gt=0, description="longest path of tokens the model is made for")
    depth: int = Field(6, gt=0, description="number of blocks (L)")
    width: int = Field(256, gt=0, description="size of the residual stream (D)")
    heads: int = Field(4, gt=0, description="query heads (H)")
    kv_heads: int = Field(2, gt=0, description="key and value heads (K); heads must be a multiple of it")
    head_width: int = Field(64, gt=0, description="size of one head (E)")
    hidden: int = Field(704, gt=0, description="size of the feed-forward layer")
    norm: Literal["rms", "rms_plus_one", "layer", "layer_plain"] = Field(
        "rms", description="rms_plus_one multiplies by 1 + w (Gemma); layer_plain has no bias (ModernBERT)")
    norm_order: Literal["pre", "post", "sandwich"] = Field("pre", description="norms before, after, or around a layer")
    norm_eps: float = Field(1e-5, gt=0, description="added to the mean square before the root")
    activation: Literal["swiglu", "geglu", "geglu_tanh", "gelu", "gelu_tanh", "relu", "relu2"] = Field(
        "swiglu", description="of the feed-forward layer; the GLU kinds have a gate")
    positions: Literal["rope", "rope_interleaved", "learned", "sinusoidal", "none"] = Field(
        "rope", description="how a token knows its place; rope turns the halves of a head, as Hugging Face does")
    rope_base: float = Field(10_000.0, gt=0, description="base of the rotary frequencies")
    rope: Rope = Rope()
    qk_norm: bool = Field(False, description="normalise every query and key head before it is turned (Qwen3)")
    window: int | None = Field(None, gt=0, description="a token sees this many tokens, itself included (an encoder's "
                                                       "on either side); none: all")
    window_layers: tuple[int, ...] | None = Field(None, description="layers that have the window; none: every layer")
    softcap: float | None = Field(None, gt=0, description="attention scores become c tanh(score / c)")
    window_rope_base: float | None = Field(None, gt=0, description="rope_base of the layers that have the window")
    head_softcap: float | None = Field(None, gt=0, description="the same for the logits")
    score_width: float | None = Field(None, gt=0, description="scores are q.k / sqrt(this); default the head width")
    scaled_embedding: bool = Field(False, description="embeddings are multiplied by sqrt(D)")
    embedding_norm: bool = Field(False, description="embeddings are normalised; with norms before a layer this one "
                                                    "is in the place of the first layer's (ModernBERT)")
    types: int = Field(0, ge=0, description="kinds of tokens with an embedding of their own: BERT's two segments")
    head_transform: bool = Field(False, description="a dense layer, activation and norm before the head, which has a "
                                                    "bias (BERT)")
    biases: Literal["none", "qkv", "attention", "all"] = Field("none", description="which matrices have one")
    tied: bool = Field(True, description="the head is the embedding")
    residual_init: Literal["scaled", "zero"] = Field("scaled", description="first weights that write to the residual")

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.rotary and (self.rotary_width < 2 or self.rotary_width % 2):
            raise ValueError(f"the turned part of a head ({self.rotary_width} of head_width {self.head_width}) must be "
                             "even: rotary positions turn pairs")
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"width ({self.width}) must be even: sinusoidal positions are pairs")
        if self.window_layers is not None and self.window is None:
            raise ValueError("window_layers are given without a window")
        if any(not 0 <= layer < self.depth for layer in self.window_layers or ()):
            raise ValueError(f"window_layers {self.window_layers} must lie between 0 and depth - 1 ({self.depth - 1})")
        return self

    @property
    def rotary(self) -> bool:
        return self.positions in ("rope", "rope_interleaved")

    @property
    def rotary_width(self) -> int:
        """How many dimensions of a head are turned."""
        return int(self.head_width * self.rope.fraction)

    def windowed(self, layer: int) -> int | None:
        """How many tokens a token sees in this layer, or None for all before it."""
        return self.window if self.window_layers is None or layer in self.window_layers else None

    def parameters(self) -> int:
        """Weights in all, tied embedding counted once."""
        d, e, mean_and_bias = self.width, self.head_width, 2 if self.norm == "layer" else 1
        dense = d * d + d * (self.biases == "all")
        edges = d * mean_and_bias * (self.embedding_norm - (self.embedding_norm and self.norm_order == "pre"))
        edges += (dense + d * mean_and_bias + self.vocabulary) * self.head_transform
        qkv, gates = (self.heads + 2 * self.kv_heads) * e, 2 if self.activation in GATED else 1
        matrices = d * (qkv + self.heads * e) + (gates + 1) * d * self.hidden
        biases = {"none": 0, "qkv": qkv, "attention": qkv + d, "all": qkv + d + gates * self.hidden + d}[self.biases]
        norms = (4 if self.norm_order == "sandwich" else 2) * d + (2 * e if self.qk_norm else 0)
        last = 0 if self.norm_order == "post" else d
        return (self.vocabulary * d + self.tables() + self.depth * (matrices + biases + norms * mean_and_bias)
                + last * mean_and_bias + edges)

    def tables(self) -> int:
        """Weights that are only looked up, never multiplied with: an untied embedding, learned positions, types."""
        untied = 0 if self.tied else self.vocabulary * self.width
        return untied + self.width * (self.types + (self.context if self.positions == "learned" else 0))

    def flops_per_token(self) -> float:
        """Training FLOPs for one token at full context, 6 N + 12 L H E t (Chowdhery et al. 2022, appendix B).

        N leaves out `tables`; t is how many keys a token sees on average: T / 2, or less where there is a window.
        """
        seen = [min(self.windowed(layer) or self.context, self.context) for layer in range(self.depth)]
        keys = sum(w - w * w / (2 * self.context) for w in seen)
        return 6 * (self.parameters() - self.tables()) + 12 * self.heads * self.head_width * keys

    def cache_bytes(self, slots: int, *, bytes_per_element: int = 2) -> int:
        """Bytes of keys and values for `slots` sequences of full context: 2 L S K T E bytes."""
        return kv_cache_bytes(self.depth, slots, self.kv_heads, self.context, self.head_width, bytes_per_element)


def kv_cache_bytes(layers: int, batch: int, kv_heads: int, tokens: int, head_width: int, bytes_per_element: int) -> int:
    """Keys and values of `batch` sequences of `tokens` tokens, all layers: two tensors (L, B, K, T, E)."""
    return 2 * layers * batch * kv_heads * tokens * head_width * bytes_per_element


def tokens_for(flops: float, *, parameters: float) -> float:
    """Training tokens that a budget buys: D = C / (6 N), attention's own products left out (Kaplan et al. 2020)."""
    return flops / (6 * parameters)
