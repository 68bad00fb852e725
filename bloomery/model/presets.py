"""Networks by name: published families, and sizes of our own where one dial, `depth`, sets the rest.

A preset is a value; anything it sets can be overridden.  Weights are another matter: `store.py` reads those.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from bloomery.core.config import Settings
from bloomery.core.errors import ConfigError
from bloomery.model.config import ModelConfig, Rope


def sized(depth: int, *, vocabulary: int, context: int, **overrides: Any) -> ModelConfig:
    """A decoder of `depth` blocks: 48 units of width a block, heads of 64, half as many key heads, 8/3 feed-forward.

    Width grows in proportion to depth, as in the families people train (GPT-3 table 2.1: 64 to 128 a block); the
    feed-forward is 8/3 of the width, rounded up to 64, so that SwiGLU costs what a 4x MLP does (Shazeer 2020).
    """
    width = int(overrides.get("width") or max(64, -(-48 * depth // 64) * 64))
    heads = int(overrides.get("heads") or max(1, width // 64))
    derived = {"width": width, "heads": heads, "kv_heads": heads // 2 if heads % 2 == 0 else heads,
               "head_width": width // heads, "hidden": -(-width * 8 // 3 // 64) * 64}
    chosen = {key: value for key, value in overrides.items() if value is not None}
    return ModelConfig(**(derived | {"vocabulary": vocabulary, "context": context, "depth": depth} | chosen))


def gpt2(depth: int, width: int, heads: int) -> ModelConfig:
    """Radford et al. 2019, table 2; every head is 64 wide."""
    return ModelConfig(vocabulary=50_257, context=1024, depth=depth, width=width, heads=heads, kv_heads=heads,
                       head_width=64, hidden=4 * width, norm="layer", activation="gelu_tanh", positions="learned",
                       biases="all")


def llama(depth: int, width: int, heads: int, kv_heads: int, hidden: int, **rest: Any) -> ModelConfig:
    """The shape that Llama, Mistral, Qwen and SmolLM2 share."""
    values = {"head_width": width // heads, "tied": False} | rest
    return ModelConfig(depth=depth, width=width, heads=heads, kv_heads=kv_heads, hidden=hidden, **values)


def llama3_rope(factor: float) -> Rope:
    """How Llama 3.1 and 3.2 reach 131,072 tokens (Dubey et al. 2024, section 3.4.2)."""
    return Rope(type="llama3", factor=factor, original_context=8192)


LLAMA2 = {"vocabulary": 32_000, "context": 4096}
LLAMA3 = {"vocabulary": 128_256, "context": 131_072, "rope_base": 500_000.0}
QWEN2 = {"vocabulary": 151_936, "context": 131_072, "rope_base": 1e6, "norm_eps": 1e-6, "biases": "qkv"}
QWEN3 = {"vocabulary": 151_936, "context": 40_960, "rope_base": 1e6, "norm_eps": 1e-6, "head_width": 128,
         "qk_norm": True}
SMOLLM2 = {"vocabulary": 49_152, "context": 8192, "rope_base": 100_000.0, "tied": True}

PUBLISHED = {
    "gpt2": gpt2(12, 768, 12), "gpt2-medium": gpt2(24, 1024, 16), "gpt2-large": gpt2(36, 1280, 20),
    "gpt2-xl": gpt2(48, 1600, 25),
    "llama-2-7b": llama(32, 4096, 32, 32, 11_008, **LLAMA2),
    "llama-2-13b": llama(40, 5120, 40, 40, 13_824, **LLAMA2),
    "llama-3-8b": llama(32, 4096, 32, 8, 14_336, **LLAMA3 | {"context": 8192}),
    "llama-3.1-8b": llama(32, 4096, 32, 8, 14_336, **LLAMA3, rope=llama3_rope(8.0)),
    "llama-3.2-1b": llama(16, 2048, 32, 8, 8192, **LLAMA3, rope=llama3_rope(32.0), tied=True),
    "llama-3.2-3b": llama(28, 3072, 24, 8, 8192, **LLAMA3, rope=llama3_rope(32.0), tied=True),
    "mistral-7b": llama(32, 4096, 32, 8, 14_336, vocabulary=32_000, context=32_768, window=4096),
    "qwen2-0.5b": llama(24, 896, 14, 2, 4864, **QWEN2, tied=True),
    "qwen2-1.5b": llama(28, 1536, 12, 2, 8960, **QWEN2, tied=True),
    "qwen2-7b": llama(28, 3584, 28, 4, 18_944, **QWEN2 | {"vocabulary": 152_064}),
    "qwen2.5-0.5b": llama(24, 896, 14, 2, 4864, **QWEN2 | {"context": 32_768}, tied=True),
    "qwen2.5-1.5b": llama(28, 1536, 12, 2, 8960, **QWEN2, tied=True),
    "qwen3-0.6b": llama(28, 1024, 16, 8, 3072, **QWEN3, tied=True),
    "qwen3-1.7b": llama(28, 2048, 16, 8, 6144, **QWEN3, tied=True),
    "smollm2-135m": llama(30, 576, 9, 3, 1536, **SMOLLM2),
    "smollm2-360m": llama(32, 960, 15, 5, 2560, **SMOLLM2),
    "smollm2-1.7b": llama(24, 2048, 32, 32, 8192, **SMOLLM2 | {"rope_base": 130_000.0}),
    "gemma-2-2b": llama(26, 2304, 8, 4, 9216, vocabulary=256_000, context=8192, head_width=256, norm="rms_plus_one",
                        norm_order="sandwich", norm_eps=1e-6, activation="geglu_tanh", window=4096,
                        window_layers=tuple(range(0, 26, 2)), softcap=50.0, head_softcap=30.0, scaled_embedding=True,
                        tied=True),
}

BERT = {"causal": False, "norm": "layer", "norm_order": "post", "norm_eps": 1e-12, "activation": "gelu",
        "positions": "learned", "biases": "all", "embedding_norm": True, "types": 2, "head_transform": True}
MODERNBERT = {"causal": False, "norm": "layer_plain", "activation": "geglu", "embedding_norm": True,
              "head_transform": True, "window": 65, "rope_base": 160_000.0, "window_rope_base": 10_000.0}


def encoder(depth: int, width: int, heads: int, hidden: int, **rest: Any) -> ModelConfig:
    """Devlin et al. 2019, section 3; Warner et al. 2024, table 4."""
    if "window" in rest:                                        # every third layer, from the first on, sees everything
        rest = rest | {"window_layers": tuple(layer for layer in range(depth) if layer % 3)}
    return ModelConfig(depth=depth, width=width, heads=heads, kv_heads=heads, head_width=width // heads, hidden=hidden,
                       **rest)


PUBLISHED_ENCODERS = {
    "bert-base": encoder(12, 768, 12, 3072, vocabulary=30_522, context=512, **BERT),
    "bert-large": encoder(24, 1024, 16, 4096, vocabulary=30_522, context=512, **BERT),
    "modernbert-base": encoder(22, 768, 12, 1152, vocabulary=50_368, context=8192, **MODERNBERT),
    "modernbert-large": encoder(28, 1024, 16, 2624, vocabulary=50_368, context=8192, **MODERNBERT),
}
ENCODERS = {"bert": BERT, "modern": MODERNBERT}         # styles of our own sizes
SIZES = {"nano": 4, "micro": 8, "small": 12}            # our own, by the dial

PRESETS: dict[str, ModelConfig] = PUBLISHED | PUBLISHED_ENCODERS | {
    name: sized(depth, vocabulary=32_768, context=512) for name, depth in SIZES.items()}


class Dial(Settings):
    """What sets the rest of a network: a preset, or `depth`."""

    preset: Literal[tuple(PRESETS)] | None = Field(None, description="a network by name; what is given beside it wins")
    depth: int | None = Field(None, gt=0, description="blocks; the one dial, 6 without a preset")
    context: int = Field(default_factory=lambda given: PRESETS[given["preset"]].context if given.get("preset") else 512,
                         gt=1, description="tokens the model reads at most; default the preset's, or 512")


def optional(name: str) -> tuple[Any, Any]:
    """A field of `ModelConfig` that need not be given."""
    field = ModelConfig.model_fields[name]
    kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return kind | None, Field(None, description=field.description)


ModelOptions = create_model(
    "ModelOptions", __base__=Dial, __doc__="The network: a preset, or `depth`, sets whatever is not given.",
    **{name: optional(name) for name in ModelConfig.model_fields if name not in ("vocabulary", *Dial.model_fields)})


def shape(options: ModelOptions, vocabulary: int) -> ModelConfig:
    """The network that options describe; a `ConfigError` says why they do not fit together."""
    given = {name: value for name in ModelOptions.model_fields if (value := getattr(options, name)) is not None}
    preset = given.pop("preset", None)
    try:
        if preset in PRESETS and preset not in SIZES:
            return ModelConfig(**(dict(PRESETS[preset]) | {"vocabulary": vocabulary} | given))
        return sized(given.pop("depth", SIZES.get(preset, 6)), vocabulary=vocabulary, **given)
    except ValueError as error:
        raise ConfigError("the model's shape is not consistent", why=str(error)) from error


def encoder_shape(options: ModelOptions, vocabulary: int, style: str) -> ModelConfig:
    """The encoder that options describe, in one of the styles where no preset says otherwise.

    Heads are not shared, and a plain feed-forward is 4 times as wide as the model.
    """
    given = {name: value for name in ModelOptions.model_fields if (value := getattr(options, name)) is not None}
    if given.get("preset") not in (None, *SIZES):
        return shape(options, vocabulary)
    depth = given.get("depth") or SIZES.get(given.get("preset"), 6)
    width = given.get("width") or max(64, -(-48 * depth // 64) * 64)
    own = {"kv_heads": given.get("heads") or max(1, width // 64)} | ENCODERS[style] | (
        {"hidden": 4 * width} if style == "bert" else {"window_layers": tuple(i for i in range(depth) if i % 3)})
    return shape(options.model_copy(update=own | {"depth": depth} | {k: v for k, v in given.items() if k != "preset"} |
                                    {"preset": None}), vocabulary)
