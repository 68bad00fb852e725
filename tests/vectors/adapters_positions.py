"""Vectors about positions: rotary, scaled for longer contexts, and sinusoidal."""

from pathlib import Path

import torch
from torch import Tensor

from bloomery.model.config import ModelConfig, Rope
from bloomery.model.positions import (
    interleaved_to_half,
    rope,
    rope_frequencies,
    rope_interleaved,
    rope_table,
    sinusoidal,
)
from bloomery.model.rope_scaling import dynamic_stretch, frequencies, ntk_base, ramp_ends, temperature


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def turned(x: Tensor, positions: list[int], base: float, turn=rope) -> Tensor:
    """x (B, heads, tokens, E) turned by one of our two layouts, which read (tokens, heads, E)."""
    table = rope_table(torch.tensor(positions), rope_frequencies(x.shape[-1], base), x.dtype)
    return torch.stack([turn(row.transpose(0, 1), *table).transpose(0, 1) for row in x])


def rope_vector(inputs: dict, folder: Path) -> dict:
    x = double(inputs["x"])
    return {"half_rotated": turned(x, inputs["positions"], inputs["base"]),
            "interleaved": turned(x, inputs["positions"], inputs["base"], rope_interleaved),
            "interleaved_to_half_permutation": interleaved_to_half(inputs["head_dim"])}


def rope_relative(inputs: dict, folder: Path) -> dict:
    q, k = (double(inputs[name])[None, None, None] for name in "qk")
    turns = [(turned(q, [m], inputs["base"]), turned(k, [n], inputs["base"])) for m, n in inputs["pairs"]]
    return {"dot": [(at_m * at_n).sum() for at_m, at_n in turns]}


def decoder(inputs: dict, *, context: int = 2048, **rope: object) -> ModelConfig:
    """One head whose rotary positions are scaled as a vector says."""
    return ModelConfig(vocabulary=1, context=context, depth=1, heads=1, kv_heads=1, head_width=inputs["head_dim"],
                       rope_base=inputs["rope_theta"], rope=Rope(**rope))


def theta(config: ModelConfig, tokens: int = 1) -> Tensor:
    return frequencies(config, torch.tensor([tokens - 1]), torch.float64)


def rope_scaling_pi(inputs: dict, folder: Path) -> dict:
    config = decoder(inputs, type="linear", factor=inputs["factor"])
    return {"inv_freq": theta(config), "attention_factor": temperature(config.rope)}


def rope_scaling_ntk(inputs: dict, folder: Path) -> dict:
    scaled, plain = theta(decoder(inputs, type="ntk", factor=inputs["factor"])), theta(decoder(inputs))
    return {"new_base": ntk_base(inputs["rope_theta"], inputs["head_dim"], inputs["factor"]), "inv_freq": scaled,
            "ratio_first": scaled[0] / plain[0], "ratio_last": scaled[-1] / plain[-1]}


def rope_scaling_dynamic_ntk(inputs: dict, folder: Path) -> dict:
    context, tokens = inputs["max_position_embeddings"], torch.tensor(inputs["seq_len"], dtype=torch.float64)
    config = decoder(inputs, context=context, type="dynamic", factor=inputs["factor"])
    return {"new_base": ntk_base(inputs["rope_theta"], inputs["head_dim"],
                                 dynamic_stretch(inputs["factor"], tokens, context)),
            "inv_freq": theta(config, inputs["seq_len"])}


def rope_scaling_yarn(inputs: dict, folder: Path) -> dict:
    names = ("factor", "beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim", "attention_factor")
    said = {name: inputs[name] for name in names} | {"original_context": inputs["original_max_position_embeddings"]}
    config, paper = (decoder(inputs, type=kind, **said) for kind in ("yarn", "yarn_paper"))
    low, high = ramp_ends(config.rotary_width, config.rope_base, config.rope)
    return {"inv_freq": theta(config), "attention_factor": temperature(config.rope), "ramp_low": low, "ramp_high": high,
            "inv_freq_paper_ramp_in_r": theta(paper)}


def yarn_vs_document(inputs: dict, folder: Path) -> dict:
    config = decoder(inputs, type="yarn_paper", factor=inputs["s"], original_context=inputs["L"],
                     beta_slow=inputs["alpha"], beta_fast=inputs["beta"])
    ratio = theta(config) / theta(decoder(inputs))
    return {"paper_ratio_first_dim": ratio[0], "paper_ratio_last_dim": ratio[-1],
            "sqrt_inverse_t": temperature(config.rope), "t": temperature(config.rope) ** -2}


def sinusoidal_pe(inputs: dict, folder: Path) -> dict:
    return {"pe": sinusoidal(torch.tensor(inputs["positions"]), inputs["d_model"], base=inputs.get("base", 10_000.0))}


def pe_shift_rotation(inputs: dict, folder: Path) -> dict:
    """A shift by k turns every [sin, cos] pair: here the one pair of width 2, whose frequency is 1, at omega p."""
    def at(tokens: float) -> Tensor:
        return sinusoidal(torch.tensor([inputs["omega"] * tokens], dtype=torch.float64), 2)[0]

    sin, cos = at(inputs["k"])
    shift = torch.stack((torch.stack((cos, sin)), torch.stack((-sin, cos))))
    torch.testing.assert_close(shift @ at(inputs["p"]), at(inputs["p"] + inputs["k"]))
    return {"pe_p": at(inputs["p"]), "shift_matrix": shift, "pe_p_plus_k": at(inputs["p"] + inputs["k"])}


POSITIONS = {
    "rope": rope_vector, "rope_relative": rope_relative, "rope_scaling_pi": rope_scaling_pi,
    "rope_scaling_ntk": rope_scaling_ntk, "rope_scaling_dynamic_ntk": rope_scaling_dynamic_ntk,
    "rope_scaling_yarn": rope_scaling_yarn, "yarn_vs_document": yarn_vs_document, "sinusoidal_pe": sinusoidal_pe,
    "pe_shift_rotation": pe_shift_rotation,
}
