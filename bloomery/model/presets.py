"""Sizes of our own: one dial, `depth`, sets the rest. A preset is a value; anything it sets can be overridden."""

from bloomery.model.config import ModelConfig


def sized(depth: int, *, vocabulary: int, context: int, **overrides: int | float | bool) -> ModelConfig:
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
