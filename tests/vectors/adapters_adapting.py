"""Vectors about adapting a frozen model: LoRA, 4-bit weights, bottleneck adapters, prefixes."""

from pathlib import Path

import torch
from torch import Tensor

from bloomery.model.adapters import Bottleneck
from bloomery.model.blockwise import BLOCK as SECOND_BLOCK
from bloomery.model.forest import Forest, roots
from bloomery.model.linear import plain
from bloomery.model.lora import LoraLinear, Part
from bloomery.model.nf4 import BLOCK, CODES, constants, quantised, restored
from bloomery.model.prefix import Prefixed
from tests.vectors.not_built import NotBuilt

CPU = torch.device("cpu")


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def nf4_codebook(inputs: dict, folder: Path) -> dict:
    return {"values": CODES}


def nf4_quantize(inputs: dict, folder: Path) -> dict:
    if inputs["blocksize"] != BLOCK:
        raise NotBuilt(f"blocks of {inputs['blocksize']} weights")
    x = torch.tensor(inputs["weights"])
    packed, largest = quantised(x)
    codes = torch.stack((packed >> 4, packed & 15), 1).flatten()[:len(x)]
    return {"codes": codes, "absmax": largest, "dequantized": restored(packed, largest, torch.empty_like(x)),
            "packed_bytes_first8": packed[:8]}


def nf4_double_quant(inputs: dict, folder: Path) -> dict:
    if inputs["blocksize_second"] != SECOND_BLOCK:
        raise NotBuilt(f"blocks of {inputs['blocksize_second']} constants")
    largest = torch.tensor(inputs["block_absmax"])
    mean = largest.mean()
    codes, scales = constants(CPU).quantised(largest - mean)
    recovered = constants(CPU).restored(codes, scales) + mean
    return {"offset_mean": mean, "second_absmax": scales, "codes_8bit": codes, "recovered_absmax": recovered,
            "max_abs_error": (recovered - largest).abs().max(),
            "bits_per_parameter_overhead": 8 / BLOCK + 32 / (BLOCK * SECOND_BLOCK)}


def adapter(inputs: dict, folder: Path) -> dict:
    h, down, up = (double(inputs[name]) for name in ("h", "W_down", "W_up"))
    layer = Bottleneck(*down.shape, activation=inputs["activation"], generator=torch.Generator()).double()
    with torch.no_grad():
        for linear, weight, bias in ((layer.down, down, "b_down"), (layer.up, up, "b_up")):
            linear.weight.copy_(weight.T)
            linear.bias.copy_(double(inputs[bias]))
    return {"out": layer(h)}


def prefix_tuning_attention(inputs: dict, folder: Path) -> dict:
    """Heads come first there; tokens come first here."""
    q, k, v, *prefix = (double(inputs[name])[0].transpose(0, 1) for name in ("q", "k", "v", "prefix_k", "prefix_v"))
    memory = Prefixed(Forest(roots([len(q)], causal=inputs["causal"])), torch.stack(prefix)[None])
    return {"out": memory.attend(0, q, k, v).transpose(0, 1)[None]}


def lora(inputs: dict, folder: Path) -> dict:
    w, a, b, x = (double(inputs[name]) for name in ("W0", "A", "B", "x"))
    layer = LoraLinear(plain(w, None if inputs["bias"] is None else double(inputs["bias"])))
    part = Part("", slice(0, len(w)), inputs["r"], inputs["alpha"], inputs["rslora"])
    change = layer.add("default", (part,))
    with torch.no_grad():
        change.a.copy_(a)
        change.b[0].copy_(b)
    trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    return {"scaling": part.scale, "out": layer(x), "merged_weight": layer.merged().weight,
            "trainable_parameters": trained}


def lora_param_count(inputs: dict, folder: Path) -> dict:
    """Counted on a layer without memory."""
    with torch.device("meta"):
        layer = LoraLinear(plain(torch.empty(inputs["d_out"], inputs["d_in"]), None))
        layer.add("default", (Part("", slice(0, inputs["d_out"]), inputs["r"], 1.0, False),))
    trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    return {"lora": trained, "full": layer.weight.numel(), "ratio": layer.weight.numel() / trained}


ADAPTING = {"nf4_codebook": nf4_codebook, "nf4_quantize": nf4_quantize, "nf4_double_quant": nf4_double_quant,
            "lora": lora, "lora_param_count": lora_param_count,
            "adapter": adapter, "prefix_tuning_attention": prefix_tuning_attention}
