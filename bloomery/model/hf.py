"""Hugging Face `config.json` to `ModelConfig` and back.

A family is a list of aspects; each reads its part of a `config.json` and writes it.  A configuration is written as the
first family that says it completely, which is tried: what it writes must read back as the same network.  One that no
family can say (ReLU^2, post-norm, ...) has a form of its own, which only this package reads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from pydantic import ValidationError

from bloomery.core.errors import InputError
from bloomery.model.config import ModelConfig, Rope
from bloomery.model.hf_names import BERT, GEMMA2, GPT2, LLAMA, MODERNBERT, QWEN3
from bloomery.model.hf_rope import read_rope, write_rope
from bloomery.model.rope_scaling import ntk_base

OWN = "bloomery"                        # the model_type of networks no family can say
SEQ2SEQ = ("t5", "bloomery-seq2seq", "bloomery-rnn")        # of networks that read a source: `seq2seq_files.py`
NEEDED = object()                       # the default of a key without which there is no network


class Aspect(NamedTuple):
    """One thing a `config.json` says: read with a list for complaints about what we cannot do, and written."""

    read: Callable[[dict, list[str]], dict[str, Any]]
    write: Callable[[ModelConfig], dict[str, Any]]


def renamed(**table: tuple[str, Any]) -> Aspect:
    """Fields with another name: ours = (theirs, their default)."""
    def read(hf: dict, odd: list[str]) -> dict[str, Any]:
        odd += [f"missing {key}" for key, default in table.values() if default is NEEDED and hf.get(key) is None]
        return {ours: hf.get(key, None if default is NEEDED else default) for ours, (key, default) in table.items()}

    return Aspect(read, lambda config: {key: getattr(config, ours) for ours, (key, _) in table.items()})


def always(**ours: Any) -> Aspect:
    """What every model of a family has, without saying so."""
    return Aspect(lambda hf, odd: ours, lambda config: {})


def only(**theirs: Any) -> Aspect:
    """Keys for which we know one value; anything else changes the network."""
    def read(hf: dict, odd: list[str]) -> dict[str, Any]:
        odd += [f"{key}={hf[key]!r}" for key, value in theirs.items() if hf.get(key, value) not in (value, None)]
        return {}

    return Aspect(read, lambda config: theirs)


def activation(key: str, kinds: dict[str, str], default: str) -> Aspect:
    """`kinds` is theirs -> ours; of several names for one function the first is written."""
    def read(hf: dict, odd: list[str]) -> dict[str, Any]:
        name = hf.get(key) or default
        odd += [] if name in kinds else [f"{key}={name!r}"]
        return {"activation": kinds.get(name)}

    return Aspect(read, lambda config: {key: next((t for t, ours in kinds.items() if ours == config.activation), None)})


def rope(fraction: float | None = None) -> Aspect:
    return Aspect(partial(read_rope, fraction=fraction), write_rope)


def heads(default: int | None = None, *, said: bool = True) -> Aspect:
    """Key heads and the width of a head; where it is not `said`, a head is D / H wide."""
    def read(hf: dict, odd: list[str]) -> dict[str, Any]:
        count = hf.get("num_attention_heads") or 1
        width = hf.get("head_dim") if said else None
        return {"kv_heads": hf.get("num_key_value_heads") or count,
                "head_width": width or default or (hf.get("hidden_size") or 0) // count}

    return Aspect(read, lambda config: {"num_key_value_heads": config.kv_heads} |
                  ({"head_dim": config.head_width} if said else {}))


def llama_biases(hf: dict, odd: list[str]) -> dict[str, Any]:
    attention, mlp = bool(hf.get("attention_bias")), bool(hf.get("mlp_bias"))
    odd += ["mlp_bias=True without attention_bias"] if mlp and not attention else []
    return {"biases": "all" if mlp else "attention" if attention else "none"}


BIASES = Aspect(llama_biases, lambda config: {"attention_bias": config.biases in ("attention", "all"),
                                              "mlp_bias": config.biases == "all"})
ATTENTION_BIAS = Aspect(lambda hf, odd: {"biases": "attention" if hf.get("attention_bias") else "none"},
                        lambda config: {"attention_bias": config.biases == "attention"})
QKV_BIAS = Aspect(lambda hf, odd: {"biases": "qkv" if hf.get("use_qkv_bias") else "none"},
                  lambda config: {"use_qkv_bias": config.biases == "qkv"})


def windows(windowed: Callable[[dict, int], bool], *, switch: bool) -> Aspect:
    """`sliding_window`, and which layers have it: `layer_types` where given, else what `windowed` says of a layer.

    `switch`: Qwen's `use_sliding_window`, without which nothing else counts.
    """
    def read(hf: dict, odd: list[str]) -> dict[str, Any]:
        depth, window = hf.get("num_hidden_layers") or 0, hf.get("sliding_window", 4096)
        if not window or (switch and not hf.get("use_sliding_window")):
            return {}
        kinds = hf.get("layer_types")
        odd += [f"layer type {kind!r}" for kind in sorted(set(kinds or ()) - {"sliding_attention", "full_attention"})]
        has = [kind == "sliding_attention" for kind in kinds] if kinds else [windowed(hf, i) for i in range(depth)]
        layers = tuple(layer for layer, yes in enumerate(has) if yes)
        return {"window": window, "window_layers": None if len(layers) == depth else layers} if layers else {}

    def write(config: ModelConfig) -> dict[str, Any]:
        has = [config.windowed(layer) is not None for layer in range(config.depth)]
        kinds = ["sliding_attention" if yes else "full_attention" for yes in has]
        first = has.index(True) if any(has) else config.depth
        return {"sliding_window": config.window, "layer_types": kinds} | (
            {"use_sliding_window": any(has), "max_window_layers": first} if switch else {})

    return Aspect(read, write)


def gpt2_shape(hf: dict, odd: list[str]) -> dict[str, Any]:
    width, count = hf.get("n_embd") or 0, hf.get("n_head") or 1
    scaled = hf.get("scale_attn_weights", True)
    return {"kv_heads": hf.get("n_head"), "head_width": width // count, "hidden": hf.get("n_inner") or 4 * width,
            "score_width": None if scaled else 1.0}


def gemma2_scale(hf: dict, odd: list[str]) -> dict[str, Any]:
    scalar = hf.get("query_pre_attn_scalar", 256)
    return {"score_width": None if scalar == hf.get("head_dim", 256) else scalar}


def masked_head(architecture: str, bare: str) -> Aspect:
    """Whether there is the head of a masked language model: the name of the class tells."""
    def read(hf: dict, odd: list[str]) -> dict[str, Any]:
        name = (hf.get("architectures") or [architecture])[0]
        return {"head_transform": name.endswith(("ForMaskedLM", "ForPreTraining", "LMHeadModel"))}

    return Aspect(read, lambda config: {"architectures": [architecture if config.head_transform else bare]})


def equal_heads(hf: dict, odd: list[str]) -> dict[str, Any]:
    count = hf.get("num_attention_heads") or 1
    return {"kv_heads": count, "head_width": (hf.get("hidden_size") or 0) // count}


def modernbert_window(hf: dict, odd: list[str]) -> dict[str, Any]:
    """`local_attention` counts both sides and not the token itself; its layers may turn by a base of their own."""
    depth, every = hf.get("num_hidden_layers") or 0, hf.get("global_attn_every_n_layers") or 3
    kinds = hf.get("layer_types") or ["sliding_attention" if i % every else "full_attention" for i in range(depth)]
    turns = hf.get("rope_parameters") or {}
    odd += [f"rope of type {each['rope_type']!r}" for each in turns.values()
            if isinstance(each, dict) and each.get("rope_type", "default") != "default"]
    far, near = ((turns.get(f"{kind}_attention") or {}).get("rope_theta") or hf.get(f"{name}_rope_theta") or base
                 for kind, name, base in (("full", "global", 160_000.0), ("sliding", "local", 10_000.0)))
    layers = tuple(layer for layer, kind in enumerate(kinds) if kind == "sliding_attention")
    found = {"window": (hf.get("local_attention") or 128) // 2 + 1, "window_rope_base": None if near == far else near,
             "window_layers": None if len(layers) == depth else layers}
    return {"rope_base": far} | (found if layers else {})


def write_modernbert_window(config: ModelConfig) -> dict[str, Any]:
    has = [config.windowed(layer) is not None for layer in range(config.depth)]
    bases = {"full": config.rope_base, "sliding": config.window_rope_base or config.rope_base}
    every = next((n for n in range(1, config.depth + 1) if has == [bool(i % n) for i in range(config.depth)]), None)
    return {"local_attention": 2 * (config.window - 1) if config.window else 128,
            "layer_types": ["sliding_attention" if yes else "full_attention" for yes in has],
            "global_rope_theta": bases["full"], "local_rope_theta": bases["sliding"],
            "rope_parameters": {f"{kind}_attention": {"rope_type": "default", "rope_theta": base}
                                for kind, base in bases.items()}} | \
        ({"global_attn_every_n_layers": every} if every else {})


def modernbert_head(hf: dict, odd: list[str]) -> dict[str, Any]:
    bias, act = hf.get("classifier_bias", False), hf.get("classifier_activation", "gelu")
    odd += [f"classifier_bias={bias}"] if bool(bias) != bool(hf.get("mlp_bias")) else []
    odd += [f"classifier_activation={act!r}"] if act != hf.get("hidden_activation", "gelu") else []
    return {"norm": "layer" if hf.get("norm_bias") else "layer_plain"}


SIZES = renamed(vocabulary=("vocab_size", NEEDED), context=("max_position_embeddings", NEEDED),
                depth=("num_hidden_layers", NEEDED), width=("hidden_size", NEEDED),
                heads=("num_attention_heads", NEEDED), hidden=("intermediate_size", NEEDED))
RMS = renamed(norm_eps=("rms_norm_eps", 1e-6))
UNTIED, TIED = (renamed(tied=("tie_word_embeddings", default)) for default in (False, True))
GATES = {"silu": "swiglu", "gelu": "geglu", "gelu_pytorch_tanh": "geglu_tanh", "gelu_new": "geglu_tanh",
         "swish": "swiglu"}
PLAIN = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu", "relu2": "relu2", "gelu_pytorch_tanh": "gelu_tanh"}
GATE = activation("hidden_act", GATES, "silu")
EQUAL_HEADS = Aspect(equal_heads, lambda config: {})
QWEN_WINDOWS = windows(lambda hf, layer: layer >= hf.get("max_window_layers", 28), switch=True)


@dataclass(frozen=True)
class Family:
    """An architecture of transformers: its class, its weight names, and what its `config.json` says."""

    architecture: str
    names: dict[str, list[str]]
    aspects: list[Aspect]
    prefix: str = "model."              # of every weight but the head; left out in folders of a bare trunk
    transposed: bool = False            # matrices of blocks are (in, out)
    beside: tuple[str, ...] = ()        # how weights begin that are none of the language model's: of other heads

    def read(self, hf: dict, odd: list[str]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for aspect in self.aspects:
            values |= aspect.read(hf, odd)
        return values

    def write(self, config: ModelConfig) -> dict[str, Any]:
        hf: dict[str, Any] = {}
        for aspect in self.aspects:
            hf |= aspect.write(config)
        return hf


def to_config(hf: dict, *, where: str = "config.json") -> ModelConfig:
    """Read a `config.json`; one `InputError` lists every option that is missing or that we cannot do."""
    kind, odd = hf.get("model_type"), []
    if kind in SEQ2SEQ:
        raise InputError("this network reads a source and writes a target", where=where,
                         why=f"model_type {kind!r} is no language model, which goes on with a text",
                         hint="bloomery generate MODEL SOURCES.jsonl OUT.jsonl --beams 5, or bloomery seq2seq model=")
    if kind not in FAMILIES and kind != OWN:
        raise InputError(f"unsupported model_type {kind!r}", where=where,
                         why=f"the architectures known here are {', '.join(FAMILIES)}")
    values = hf.get("network", {}) if kind == OWN else FAMILIES[kind].read(hf, odd)
    if odd:
        raise InputError("unsupported model options", where=where, why=", ".join(odd))
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        why = "; ".join(f"{'.'.join(map(str, found['loc']))} {found['msg']}".strip() for found in error.errors())
        raise InputError("a model configuration that is not consistent", where=where, why=why) from error


def from_config(config: ModelConfig, *, bos: int | None = None, eos: int | list[int] | None = None,
                pad: int | None = None, dtype: str = "float32") -> dict:
    """A `config.json` that transformers 4 and 5 both read, where one of their families can say the network."""
    kind = family_of(config)
    if kind == OWN:
        said = {"architectures": [OWN], "network": config.model_dump(mode="json")}
    else:
        said = {"architectures": [FAMILIES[kind].architecture]} | FAMILIES[kind].write(folded(config))
    return said | {"model_type": kind, "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad,
                   "torch_dtype": dtype, "dtype": dtype, "use_cache": True}


def family_of(config: ModelConfig) -> str:
    """The first family that says this network, or `OWN`."""
    wanted = folded(config)
    for kind, family in FAMILIES.items():
        odd: list[str] = []
        values = family.read(family.write(wanted), odd)
        if not odd and consistent(values) == wanted:
            return kind
    return OWN


def consistent(values: dict[str, Any]) -> ModelConfig | None:
    """The network of these values, None where there can be none: a family may have no word for the width of a head."""
    try:
        return ModelConfig.model_validate(values)
    except ValidationError:
        return None


def folded(config: ModelConfig) -> ModelConfig:
    """The same network in the words of a folder: static NTK is a larger base, interleaved pairs are halves with their
    rows in another order (see `hf_names.py`), and how weights began is forgotten."""
    change: dict[str, Any] = {"residual_init": "scaled"}
    if config.rope.type == "ntk":
        change["rope_base"] = ntk_base(config.rope_base, config.rotary_width, config.rope.factor)
        change["rope"] = Rope(fraction=config.rope.fraction)
    if config.positions == "rope_interleaved":
        change["positions"] = "rope"
    if config.score_width == config.head_width:
        change["score_width"] = None
    return config.model_copy(update=change)


FAMILIES = {
    "llama": Family("LlamaForCausalLM", LLAMA, [SIZES, heads(), RMS, UNTIED, GATE, rope(), BIASES]),
    "mistral": Family("MistralForCausalLM", LLAMA, [
        SIZES, heads(), RMS, UNTIED, GATE, rope(), renamed(window=("sliding_window", 4096))]),
    "qwen2": Family("Qwen2ForCausalLM", LLAMA, [
        SIZES, heads(), RMS, UNTIED, GATE, rope(), QWEN_WINDOWS, always(biases="qkv")]),
    "qwen3": Family("Qwen3ForCausalLM", QWEN3, [
        SIZES, heads(128), RMS, UNTIED, GATE, rope(), QWEN_WINDOWS, ATTENTION_BIAS, always(qk_norm=True)]),
    "gemma2": Family("Gemma2ForCausalLM", GEMMA2, [
        SIZES, heads(256), RMS, TIED, activation("hidden_activation", GATES, "gelu_pytorch_tanh"), rope(),
        windows(lambda hf, layer: layer % 2 == 0, switch=False), only(use_bidirectional_attention=False),
        ATTENTION_BIAS,
        Aspect(gemma2_scale, lambda config: {"query_pre_attn_scalar": config.score_width or config.head_width}),
        renamed(softcap=("attn_logit_softcapping", 50.0), head_softcap=("final_logit_softcapping", 30.0)),
        always(norm="rms_plus_one", norm_order="sandwich", scaled_embedding=True)]),
    "stablelm": Family("StableLmForCausalLM", LLAMA, [
        SIZES, heads(said=False), renamed(norm_eps=("layer_norm_eps", 1e-5)), UNTIED, GATE, rope(0.25), QKV_BIAS,
        only(qk_layernorm=False, use_parallel_residual=False), always(norm="layer")]),
    "gpt2": Family("GPT2LMHeadModel", GPT2, [
        renamed(vocabulary=("vocab_size", NEEDED), context=("n_positions", NEEDED), depth=("n_layer", NEEDED),
                width=("n_embd", NEEDED), heads=("n_head", NEEDED), norm_eps=("layer_norm_epsilon", 1e-5)), TIED,
        Aspect(gpt2_shape, lambda config: {"n_inner": config.hidden, "scale_attn_weights": config.score_width is None}),
        activation("activation_function", PLAIN, "gelu_new"),
        only(scale_attn_by_inverse_layer_idx=False, add_cross_attention=False),
        always(norm="layer", positions="learned", biases="all")], prefix="transformer.", transposed=True),
    "bert": Family("BertForMaskedLM", BERT, [
        SIZES, EQUAL_HEADS, renamed(norm_eps=("layer_norm_eps", 1e-12), types=("type_vocab_size", 2)),
        activation("hidden_act", PLAIN, "gelu"), masked_head("BertForMaskedLM", "BertModel"),
        only(is_decoder=False, add_cross_attention=False, position_embedding_type="absolute", tie_word_embeddings=True),
        always(causal=False, norm="layer", norm_order="post", embedding_norm=True, positions="learned", biases="all")],
        prefix="bert.", beside=("bert.pooler.", "pooler.", "cls.seq_relationship.", "cls.predictions.decoder.",
                                "bert.embeddings.position_ids", "embeddings.position_ids")),
    "modernbert": Family("ModernBertForMaskedLM", MODERNBERT, [
        SIZES, EQUAL_HEADS, renamed(norm_eps=("norm_eps", 1e-5)), activation("hidden_activation", GATES, "gelu"),
        BIASES, masked_head("ModernBertForMaskedLM", "ModernBertModel"),
        Aspect(modernbert_window, write_modernbert_window),
        Aspect(modernbert_head, lambda config: {
            "norm_bias": config.norm == "layer", "classifier_bias": config.biases == "all",
            "classifier_activation": next((t for t, ours in GATES.items() if ours == config.activation), None)}),
        only(decoder_bias=True, sparse_prediction=False, tie_word_embeddings=True),
        always(causal=False, embedding_norm=True)], beside=("decoder.weight",)),
}
