"""Vectors about the network: attention, positions, norms, initialisation, the cache, Hugging Face folders."""

from pathlib import Path

import torch
from torch import Tensor

from bloomery.generate.decode import complete
from bloomery.generate.sampling import Sampling, filtered
from bloomery.losses.token import IGNORE, shifted, token_nll
from bloomery.model.dot_product import attention
from bloomery.model.cache import Cache
from bloomery.model.config import ModelConfig, kv_cache_bytes, tokens_for
from bloomery.model.forest import DenseForest, Forest, dense_mask, roots
from bloomery.model.init import initialise, residual_std
from bloomery.model.mlp import MLP
from bloomery.model.norms import rms_norm
from bloomery.model.positions import interleaved_to_half, rope, rope_frequencies, rope_interleaved, rope_table
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


def gpt2_residual_init(inputs: dict, folder: Path) -> dict:
    """The deviation of residual outputs, and what `initialise` gives a norm. There are no biases to look at."""
    norm = torch.nn.LayerNorm(2, bias=False)
    initialise(norm, depth=inputs["n_layer"], seed=0)
    return {"residual_proj_std": residual_std(inputs["n_layer"], inputs["initializer_range"]),
            "layernorm_weight": float(norm.weight.detach().mean())}


def param_count(inputs: dict, folder: Path) -> dict:
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
def hf_import_llama(inputs: dict, folder: Path) -> dict:
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


def hf_generate(inputs: dict, folder: Path) -> dict:
    """Greedy decoding with the cache; beams are not built."""
    path = folder / inputs["checkpoint"]
    if "gpt2" in path.name:
        raise NotBuilt("the gpt2 family")
    model = load_model(path, compute=torch.float64, dtype=torch.float64)

    def greedy(ends: set[int]) -> list[int]:
        done = complete(model, [inputs["prompt_ids"]], ends=ends, max_tokens=inputs["max_new_tokens"])[0]
        return [*done.ids, *(ends if done.finish == "stop" else ())]

    return {"greedy_new_tokens": greedy(set()),
            "greedy_with_eos": {"eos_token_id": inputs["eos_token_id"], "new_tokens": greedy({inputs["eos_token_id"]})}}


MODEL = {
    "attention": attention_vector, "attention_toy": attention_toy, "attention_dot_context": attention_dot_context,
    "attention_rows": attention_rows, "scale_attention_temperature": attention_temperature,
    "kv_cache_toy": kv_cache_toy, "kv_cache_bytes": cache_bytes, "causal_mask_count": causal_mask_count,
    "swiglu": swiglu, "rmsnorm": rmsnorm, "rope": rope_vector, "rope_relative": rope_relative,
    "gpt2_residual_init": gpt2_residual_init, "param_count": param_count, "flops_6nd": flops_6nd,
    "hf_import_llama": hf_import_llama, "hf_generate": hf_generate,
}
