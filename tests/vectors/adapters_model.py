"""Vectors about the network: attention, norms, initialisation, the cache, Hugging Face folders."""

from pathlib import Path

import torch
from torch import Tensor

from bloomery.generate.sampling import Sampling, filtered
from bloomery.losses.token import IGNORE, shifted, token_nll
from bloomery.model.cache import Cache
from bloomery.model.config import ModelConfig, kv_cache_bytes, tokens_for
from bloomery.model.dot_product import attention
from bloomery.model.forest import DenseForest, Forest, dense_mask, roots
from bloomery.model.init import STD, initialise, residual_std
from bloomery.model.mlp import ACTIVATIONS, MLP
from bloomery.model.norms import LayerNorm, rms_norm
from bloomery.model.presets import PRESETS
from bloomery.model.seq2seq_presets import NETWORKS
from bloomery.model.store import load_config, load_model
from tests.vectors.not_built import NotBuilt


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def attention_vector(inputs: dict, folder: Path) -> dict:
    q, k, v = (double(inputs[name]) for name in "qkv")                                   # (B, heads, tokens, E)
    place, column = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    mask = column <= place + inputs["query_offset"] if inputs["causal"] else torch.ones(q.shape[2], k.shape[2]).bool()
    if inputs["key_padding_mask_1_is_real"] is not None:
        mask = mask & torch.tensor(inputs["key_padding_mask_1_is_real"]).bool()[:, None, None]
    return {"out": attention(q, k, v, mask)}


def looked_up(query: Tensor, keys: Tensor, values: Tensor, *, scaled: bool = True) -> Tensor:
    """Attention of one query (E,) over keys and values (S, E), with or without the division by sqrt(E)."""
    scale = 1.0 if scaled else query.shape[-1] ** 0.5
    return attention(query[None, None] * scale, keys[None], values[None], None)[0, 0]


def attention_toy(inputs: dict, folder: Path) -> dict:
    x = double(inputs["X"])
    q, k, v = (x @ double(inputs[f"W_{name}"]) for name in "QKV")
    query, one_hot = q[inputs["position"] - 1], torch.eye(len(x), dtype=torch.float64)
    return {"K": k, "weights_unscaled": looked_up(query, k, one_hot, scaled=False),
            "weights_scaled": looked_up(query, k, one_hot), "out_unscaled": looked_up(query, k, v, scaled=False),
            "out_scaled": looked_up(query, k, v)}


def attention_dot_context(inputs: dict, folder: Path) -> dict:
    h, query = double(inputs["h"]), double(inputs["s_prev"])
    return {"weights": looked_up(query, h, torch.eye(len(h), dtype=torch.float64), scaled=False),
            "context": looked_up(query, h, h, scaled=False)}


def attention_rows(inputs: dict, folder: Path) -> dict:
    """Rows of weights, made by our attention from their logarithms, and what they sum to."""
    rows = double(inputs["rows"])
    one_hot = torch.eye(rows.shape[1], dtype=torch.float64)
    weights = torch.stack([looked_up(row.log().clamp(min=-700), one_hot, one_hot, scaled=False) for row in rows])
    return {"row_sums": weights.sum(-1)}


def attention_temperature(inputs: dict, folder: Path) -> dict:
    scores = double(inputs["scores"])
    return {"weights": [filtered(scores, Sampling(temperature=tau)).exp() for tau in inputs["tau"]]}


def kv_cache_toy(inputs: dict, folder: Path) -> dict:
    """Tokens fed one at a time to one slot; the last answer is what the last token attends to."""
    x = double(inputs["x"])
    q, k, v = (x @ double(inputs[f"W_{name}"]) for name in "QKV")
    config = ModelConfig(vocabulary=1, context=len(x), depth=1, heads=1, kv_heads=1, head_width=q.shape[1])
    cache, out = Cache(config, 1, len(x), dtype=torch.float64), None
    for token in range(len(x)):
        cache.feed([0], [1])
        out = cache.attend(0, *(part[token, None, None] for part in (q, k, v)))
        cache.advance()
    return {"keys": cache.keys[0, 0, 0], "values": cache.values[0, 0, 0], "query_last": q[-1], "out_last": out[0, 0]}


def cache_bytes(inputs: dict, folder: Path) -> dict:
    names = ("n_layers", "batch", "n_kv_heads", "seq_len", "head_dim", "bytes_per_element")
    return {"bytes": kv_cache_bytes(*(inputs[name] for name in names))}


def causal_mask_count(inputs: dict, folder: Path) -> dict:
    return {"pairs": [int(dense_mask(roots([n])).sum()) for n in inputs["N"]]}


def swiglu(inputs: dict, folder: Path) -> dict:
    x, gate, up, down = (double(inputs[name]) for name in ("x", "W1_gate", "W3_up", "W2_down"))
    mlp = MLP(*gate.shape).double()
    with torch.no_grad():
        mlp.gate_up.weight.copy_(torch.cat((gate.T, up.T)))
        mlp.down.weight.copy_(down.T)
        return {"out": mlp(x)}


def rmsnorm(inputs: dict, folder: Path) -> dict:
    return {"out": rms_norm(double(inputs["x"]), double(inputs["weight"]), inputs["eps"])}


def layernorm(inputs: dict, folder: Path) -> dict:
    norm = LayerNorm(len(inputs["weight"]), inputs["eps"]).double()
    with torch.no_grad():
        norm.weight.copy_(double(inputs["weight"]))
        norm.bias.copy_(double(inputs["bias"]))
        return {"out": norm(double(inputs["x"]))}


def activations(inputs: dict, folder: Path) -> dict:
    x = double(inputs["x"])
    return {"gelu_erf": ACTIVATIONS["gelu"](x), "gelu_tanh": ACTIVATIONS["gelu_tanh"](x),
            "silu": ACTIVATIONS["swiglu"](x), "relu": ACTIVATIONS["relu"](x)}


def fp16_mask(inputs: dict, folder: Path) -> dict:
    """-1e9 overflows half precision and leaves a uniform row; our mask leaves zeros where nothing is seen."""
    blind = attention(torch.ones(1, 1, 2), torch.ones(1, 3, 2), torch.eye(3)[None], torch.zeros(1, 3).bool())
    assert not blind.any() and torch.full((3,), inputs["mask_value"]).softmax(-1).allclose(torch.full((3,), 1 / 3))
    return {"float16": float(torch.tensor(inputs["mask_value"]).half()),
            "float16_lowest_finite": torch.finfo(torch.float16).min}


def attention_cost(inputs: dict, folder: Path) -> dict:
    """Products of a query with a key while n tokens are decoded: the pairs that the masks let through."""
    def pairs(tokens: int, *, causal: bool = True) -> int:
        return int(dense_mask(roots([tokens], causal=causal)).sum())

    return {"score_dot_products_with_cache": [pairs(n) for n in inputs["n"]],
            "score_dot_products_no_cache": [sum(pairs(t, causal=False) for t in range(1, n + 1)) for n in inputs["n"]],
            "no_cache_causal_only": [sum(pairs(t) for t in range(1, n + 1)) for n in inputs["n"]]}


def gpt3_table(inputs: dict, folder: Path) -> dict:
    """Rows of (name, width, heads, head width): heads need not add up to the width."""
    models = [ModelConfig(vocabulary=1, width=width, heads=heads, kv_heads=heads, head_width=head)
              for _, width, heads, head in inputs["rows"]]
    return {"heads_times_d_head": [model.heads * model.head_width for model in models],
            "equals_d_model": [model.heads * model.head_width == model.width for model in models]}


def gpt2_residual_init(inputs: dict, folder: Path) -> dict:
    """The deviation of residual outputs, and what `initialise` gives a norm."""
    norm = torch.nn.LayerNorm(2)
    initialise(norm, depth=inputs["n_layer"], seed=0)
    return {"residual_proj_std": residual_std(inputs["n_layer"], inputs["initializer_range"]), "other_weight_std": STD,
            "layernorm_weight": float(norm.weight.detach().mean()), "bias": float(norm.bias.detach().abs().max())}


def param_count(inputs: dict, folder: Path) -> dict:
    if inputs["family"] == "gpt2":
        width, change = inputs["n_embd"], {"context": inputs["n_positions"], "depth": inputs["n_layer"]}
        config = PRESETS["gpt2"].model_copy(update=change | {"vocabulary": inputs["vocab"], "width": width,
                                                             "heads": inputs["n_head"], "tied": inputs["tied"]})
        return {"parameters": config.parameters()}
    if inputs["family"].startswith("t5"):
        base = NETWORKS["t5-v1.1-small" if "1.1" in inputs["family"] else "t5-small"]
        return {"parameters": base.model_copy(update={
            "vocabulary": inputs["vocab"], "width": inputs["d_model"], "head_width": inputs["d_kv"],
            "hidden": inputs["d_ff"], "encoder_depth": inputs["n_layer"], "depth": inputs["n_dec"],
            "heads": inputs["n_head"], "kv_heads": inputs["n_head"], "tied": inputs["tied"],
            "relative_buckets": inputs["rel_buckets"]}).parameters()}
    if inputs["family"].startswith("bert"):
        width, pooler = inputs["d_model"], inputs["d_model"] * (inputs["d_model"] + 1)
        base = PRESETS["bert-base"].model_copy(update={
            "vocabulary": inputs["vocab"], "width": width, "hidden": inputs["d_ff"], "depth": inputs["n_layer"],
            "heads": inputs["n_head"], "kv_heads": inputs["n_head"], "head_width": width // inputs["n_head"],
            "context": inputs["n_positions"], "types": inputs["type_vocab"], "head_transform": False})
        return {"parameters": base.parameters() + pooler * ("pooler" in inputs["family"])}
    if not inputs["family"].startswith("llama"):
        raise NotBuilt(f"the {inputs['family']} family")
    heads, width = inputs["n_head"], inputs["d_model"]
    config = ModelConfig(vocabulary=inputs["vocab"], depth=inputs["n_layer"], width=width, heads=heads,
                         kv_heads=inputs.get("n_kv_head") or heads, head_width=inputs.get("head_dim") or width // heads,
                         hidden=inputs["d_ff"], tied=inputs["tied"])
    return {"parameters": config.parameters()}


def flops_6nd(inputs: dict, folder: Path) -> dict:
    return {"D": tokens_for(inputs["C"], parameters=inputs["N"])}


@torch.no_grad()
def hf_import(inputs: dict, folder: Path) -> dict:
    """The padding is taken off, rows are roots of one forest, and zeros stand where padding was.

    Both backends must agree; the results of the fast one are returned.
    """
    path = folder / inputs["checkpoint"]
    model = load_model(path, compute=torch.float64, dtype=torch.float64)
    ids, real = torch.tensor(inputs["input_ids"]), torch.tensor(inputs["attention_mask"]).bool()
    segments = roots(real.sum(1).tolist())
    positions = (real.cumsum(1) - 1)[real]
    hidden, oracle = (model(ids[real], positions, memory(segments)) for memory in (Forest, DenseForest))
    torch.testing.assert_close(hidden, oracle, atol=1e-9, rtol=1e-9)
    logits = torch.zeros(*ids.shape, model.config.vocabulary, dtype=torch.float64)
    states = torch.zeros(*ids.shape, model.config.width, dtype=torch.float64)
    logits[real], states[real] = model.logits(hidden), hidden
    targets = shifted(ids.masked_fill(~real, IGNORE)).flatten()
    kept = targets != IGNORE
    return {"logits": logits, "last_hidden_state_row0": states[0],
            "causal_lm_loss": token_nll(logits.flatten(0, 1)[kept], targets[kept]).mean(),
            "n_parameters": load_config(path).parameters()}


MODEL = {
    "attention": attention_vector, "attention_toy": attention_toy, "attention_dot_context": attention_dot_context,
    "attention_rows": attention_rows, "scale_attention_temperature": attention_temperature,
    "kv_cache_toy": kv_cache_toy, "kv_cache_bytes": cache_bytes, "causal_mask_count": causal_mask_count,
    "swiglu": swiglu, "rmsnorm": rmsnorm,
    "gpt2_residual_init": gpt2_residual_init, "param_count": param_count, "flops_6nd": flops_6nd,
    "hf_import_llama": hf_import, "hf_import_gpt2": hf_import, "layernorm": layernorm,
    "activations": activations, "fp16_mask": fp16_mask, "attention_cost": attention_cost,
    "gpt3_table": gpt3_table,
}
