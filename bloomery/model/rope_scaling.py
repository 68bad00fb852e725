"""Rotary positions for a context longer than the one a model was trained with, s = `rope.factor` times.

    linear      theta / s, position interpolation                                 Chen et al. 2023
    ntk         base s^(E/(E-2)): the fastest pair is kept, the slowest divided by s   "NTK-aware", bloc97 2023
    dynamic     the same, with s growing as the longest position does             emozilla 2023
    llama3      long waves divided by s, short ones kept, a smooth step between   Dubey et al. 2024
    yarn        as llama3 by a ramp over dimensions, and a temperature on the scores   Peng et al. 2023, official code
    yarn_paper  the ramp of the paper's equations, linear in turns per context    Peng et al. 2023, eq. 17-18

Checkpoints depend on the form of the official code, so `yarn` is that.  In fp32 every step is taken in transformers'
order, to the bit.  `dynamic` changes all angles once a batch holds a position beyond the context; a cache keeps keys
turned by the angles of their time, so decoding past the context differs from reading it at once (in transformers too).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bloomery.model.config import ModelConfig, Rope
from bloomery.model.positions import rope_frequencies


def ntk_base(base: float, width: int, stretch: float | Tensor) -> float | Tensor:
    """The base whose slowest of `width`/2 pairs turns `stretch` times slower while the fastest stays."""
    if width <= 2:
        raise ValueError(f"NTK scaling needs more than one pair of dimensions, got {width} dimensions")
    return base * stretch ** (width / (width - 2))


def dynamic_stretch(factor: float, tokens: Tensor, context: int) -> Tensor:
    """How far the base is stretched for `tokens` tokens: not at all within the context, `factor` at twice of it less
    one context, and on in proportion."""
    return factor * tokens.clamp(min=context) / context - (factor - 1)


def linear(powers: Tensor, width: int, base: float, rope: Rope) -> Tensor:
    return 1.0 / powers / rope.factor


def llama3(powers: Tensor, width: int, base: float, rope: Rope) -> Tensor:
    theta = 1.0 / powers
    waves = 2 * math.pi / theta                                                          # tokens a turn takes
    smooth = (rope.original_context / waves - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    long, short = rope.original_context / rope.low_freq_factor, rope.original_context / rope.high_freq_factor
    blended = (1 - smooth) * theta / rope.factor + smooth * theta
    return torch.where(waves > long, theta / rope.factor, torch.where(waves < short, theta, blended))


def yarn(powers: Tensor, width: int, base: float, rope: Rope) -> Tensor:
    low, high = ramp_ends(width, base, rope)
    high += 0.001 if low == high else 0
    keep = 1 - ((torch.arange(width // 2, dtype=powers.dtype) - low) / (high - low)).clamp(0, 1)
    return 1.0 / (rope.factor * powers) * (1 - keep) + 1.0 / powers * keep


def ramp_ends(width: int, base: float, rope: Rope) -> tuple[float, float]:
    """The pairs that turn `beta_fast` and `beta_slow` times in the original context: faster is kept, slower divided."""
    low, high = (width * math.log(rope.original_context / (turns * 2 * math.pi)) / (2 * math.log(base))
                 for turns in (rope.beta_fast, rope.beta_slow))
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, width - 1)


def yarn_paper(powers: Tensor, width: int, base: float, rope: Rope) -> Tensor:
    theta = 1.0 / powers
    turns = rope.original_context * theta / (2 * math.pi)
    keep = ((turns - rope.beta_slow) / (rope.beta_fast - rope.beta_slow)).clamp(0, 1)
    return (1 - keep) * theta / rope.factor + keep * theta


def temperature(rope: Rope) -> float:
    """What cos and sin are multiplied by, sqrt(1/t) = 0.1 ln s + 1: scores become sharper.

    Peng et al. 2023, eq. 22; with `mscale` and `mscale_all_dim` the quotient of two such (DeepSeek-V2).
    """
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.type not in ("yarn", "yarn_paper"):
        return 1.0
    scales = (rope.mscale, rope.mscale_all_dim) if rope.mscale and rope.mscale_all_dim else (1, 0)
    above, below = (0.1 * scale * math.log(rope.factor) + 1 for scale in scales)
    return above / below


def frequencies(config: ModelConfig, positions: Tensor, dtype: torch.dtype) -> Tensor:
    """Angles per position of the pairs that are turned, for a batch with these positions."""
    rope, width, base = config.rope, config.rotary_width, config.rope_base
    if rope.type in SCALINGS:
        powers = base ** (torch.arange(0, width, 2).to(dtype) / width)
        return SCALINGS[rope.type](powers, width, base, rope).to(positions.device)
    if rope.type == "ntk":
        base = ntk_base(base, width, rope.factor)
    elif rope.type == "dynamic":
        tokens = (positions.max() + 1).to("cpu", dtype)
        base = ntk_base(base, width, dynamic_stretch(rope.factor, tokens, config.context))
    return rope_frequencies(width, base, dtype).to(positions.device)


SCALINGS: dict[str, Callable[[Tensor, int, float, Rope], Tensor]] = {
    "linear": linear, "llama3": llama3, "yarn": yarn, "yarn_paper": yarn_paper}
