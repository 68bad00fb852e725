"""What a decoder is made of: the numbers that fix its shape. Sizes of our own follow from one dial, `depth`."""

from pydantic import Field, model_validator

from bloomery.core.config import Settings


class ModelConfig(Settings):
    """A Llama-style decoder: pre-RMSNorm, RoPE, grouped-query attention, SwiGLU, no biases."""

    vocabulary: int = Field(gt=0, description="rows of the embedding (V)")
    context: int = Field(512, gt=0, description="longest path of tokens the model is made for")
    depth: int = Field(6, gt=0, description="number of blocks (L)")
    width: int = Field(256, gt=0, description="size of the residual stream (D)")
    heads: int = Field(4, gt=0, description="query heads (H)")
    kv_heads: int = Field(2, gt=0, description="key and value heads (K); heads must be a multiple of it")
    head_width: int = Field(64, gt=0, description="size of one head (E), even")
    hidden: int = Field(704, gt=0, description="size of the feed-forward layer")
    rope_base: float = Field(10_000.0, gt=0, description="base of the rotary frequencies")
    norm_eps: float = Field(1e-5, gt=0, description="added to the mean square in RMSNorm")
    tied: bool = Field(True, description="the head is the embedding")

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_width % 2:
            raise ValueError(f"head_width ({self.head_width}) must be even: rotary positions turn pairs")
        return self

    def parameters(self) -> int:
        """Weights in all, tied embedding counted once."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.kv_heads)
        block = attention + 3 * self.width * self.hidden + 2 * self.width
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        return embeddings + self.depth * block + self.width

    def flops_per_token(self) -> float:
        """Training FLOPs for one token at full context: 6 N + 12 L H E T / 2 (Chowdhery et al. 2022, appendix B)."""
        return 6 * self.parameters() + 6 * self.depth * self.heads * self.head_width * self.context

    def cache_bytes(self, slots: int, *, bytes_per_element: int = 2) -> int:
        """Bytes of keys and values for `slots` sequences of full context: 2 L S K T E bytes."""
        return kv_cache_bytes(self.depth, slots, self.kv_heads, self.context, self.head_width, bytes_per_element)


def kv_cache_bytes(layers: int, batch: int, kv_heads: int, tokens: int, head_width: int, bytes_per_element: int) -> int:
    """Keys and values of `batch` sequences of `tokens` tokens, all layers: two tensors (L, B, K, T, E)."""
    return 2 * layers * batch * kv_heads * tokens * head_width * bytes_per_element


def tokens_for(flops: float, *, parameters: float) -> float:
    """Training tokens that a budget buys: D = C / (6 N), attention's own products left out (Kaplan et al. 2020)."""
    return flops / (6 * parameters)
