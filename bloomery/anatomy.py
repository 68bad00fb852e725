"""What a model folder is, in words and numbers: architecture, where its parameters are, what a token costs, its files.

Everything is read from configurations and from the headers of weight files: a model of any size is described at once.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer as Backend

from bloomery.console import number, table
from bloomery.core.errors import InputError
from bloomery.core.metrics import shorten
from bloomery.model.config import ModelConfig, Rope, kv_cache_bytes
from bloomery.model.seq2seq_files import folder_config
from bloomery.model.store import load_config, load_generation, model_weights
from bloomery.model.transformer import Transformer
from bloomery.model.weight_files import headers, read_json
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import END_OF_TEXT, named

LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
CACHE_BYTES = 2                     # of a key's or value's element: bf16
BAR = 24                            # characters of the widest share


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors")) if (folder / "config.json").is_file() else []


def describe(folder: Path) -> dict:
    """All that is known of a model folder, as JSON-like values."""
    config = load_config(folder)
    given = read_json(folder / "config.json")
    cache = kv_cache_bytes(config.depth, 1, config.kv_heads, 1, config.head_width, CACHE_BYTES)
    return {"family": given.get("model_type"), "class": (given.get("architectures") or [None])[0],
            "architecture": architecture(config), "parameters": anatomy(config), "context": config.context,
            "kv_cache_bytes_per_token": cache,
            "training_flops_per_token": config.flops_per_token(), "config": config.model_dump(mode="json"),
            "files": files(folder), "tokenizer": tokenizer(folder), "chat_template": chat_template(folder),
            "generation": load_generation(folder)}


# --- architecture in words ----------------------------------------------------------------------------------------

def architecture(config: ModelConfig) -> dict[str, str]:
    """Each part of the network as one phrase."""
    scaled = ", times the root of the width" if config.scaled_embedding else ""
    found = {"blocks": f"{config.depth} of width {config.width}",
             "norm": f"{NORMS[config.norm]} {ORDERS[config.norm_order]}, eps {config.norm_eps:g}",
             "attention": attention(config), "feed-forward": f"{ACTIVATIONS[config.activation]}, {config.hidden} wide",
             "positions": positions(config), "biases": BIASES[config.biases],
             "embedding": f"{config.vocabulary} rows{scaled}",
             "head": "the embedding itself (tied)" if config.tied else "a matrix of its own"}
    if config.head_softcap:
        found["head"] += f", logits soft-capped at {config.head_softcap:g}"
    return found


def attention(config: ModelConfig) -> str:
    """Multi-head, multi-query or grouped-query (Ainslie et al. 2023), and what is special about the scores."""
    heads, keys, width = config.heads, config.kv_heads, config.head_width
    kind = f"multi-head, {heads} head{'s' if heads > 1 else ''} of {width}" if heads == keys else \
        f"multi-query, {heads} heads of {width} share one key head" if keys == 1 else \
        f"grouped-query, {heads} heads of {width} share {keys} key heads"
    layers = "" if config.window_layers is None else f" in {len(config.window_layers)} of {config.depth} blocks"
    special = ["queries and keys normalised"] * config.qk_norm
    special += [f"window of {config.window} tokens{layers}"] if config.window else []
    special += [f"scores soft-capped at {config.softcap:g}"] if config.softcap else []
    special += [f"scores over the root of {config.score_width:g}"] if config.score_width else []
    return ", ".join([kind, *special])


def positions(config: ModelConfig) -> str:
    if not config.rotary:
        return PLACES[config.positions]
    rope, turned = config.rope, config.rotary_width
    part = "" if turned == config.head_width else f", {turned} of {config.head_width} dimensions"
    pairs = ", interleaved" if config.positions == "rope_interleaved" else ""
    return f"rotary, base {number(config.rope_base)}{pairs}{part}{scaling(rope)}"


def scaling(rope: Rope) -> str:
    if rope.type == "default":
        return ""
    origin = f" from {rope.original_context} tokens" if rope.original_context else ""
    return f"; {SCALINGS[rope.type]}, factor {rope.factor:g}{origin}"


# --- numbers ------------------------------------------------------------------------------------------------------

def anatomy(config: ModelConfig) -> dict[str, int]:
    """How many parameters each part has, the largest first; a tied head is the embedding's. No weight is ever made."""
    with torch.device("meta"):
        model = Transformer(config, seed=None)
    found: Counter[str] = Counter()
    for name, weight in model_weights(model).items():
        found[next(part for part, sign in PARTS.items() if re.search(sign, name))] += weight.numel()
    return {"all": found.total(), **dict(found.most_common())}


def files(folder: Path) -> list[dict]:
    """Every weight file with its size, how many tensors it has and of which types."""
    found = []
    for path in weight_files(folder):
        kinds = Counter(dtype for _, dtype in headers([path]).values())
        found.append({"name": path.name, "bytes": path.stat().st_size, "tensors": kinds.total(), "types": dict(kinds)})
    return found


# --- what lies beside the weights ---------------------------------------------------------------------------------

def tokenizer(folder: Path) -> dict:
    """Kind, size and special tokens of a `tokenizer.json`, ours or anybody's; empty when there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return {}
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:                              # the library raises plain Exception
        raise InputError("a tokenizer cannot be read", where=str(path), why=str(error)) from error
    added = backend.get_added_tokens_decoder()
    return {"kind": type(backend.model).__name__, "size": backend.get_vocab_size(),
            "special": {token.content: index for index, token in sorted(added.items()) if token.special}}


def chat_template(folder: Path) -> str:
    """The name of a template of ours, else the family its control tokens belong to; empty when there is none."""
    path, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    told = read_json(settings) if settings.is_file() else {}
    text = path.read_text(encoding="utf-8") if path.is_file() else told.get("chat_template") or ""
    if not isinstance(text, str):                           # a list of named templates
        return "several: " + ", ".join(entry["name"] for entry in text)
    bos, ends = named(told, "bos_token"), (END_OF_TEXT, named(told, "eos_token"))
    known = next((name for name, template in TEMPLATES.items() for eos in ends
                  if template.bound(bos, eos).jinja() == text), None)
    family = next((family for sign, family in SIGNS.items() if sign in text), "another")
    return known or (f"its own, {family} style" if text else "")


# --- for people ---------------------------------------------------------------------------------------------------

def network(folder: Path) -> dict:
    """What is known of a network that reads a source: its kind, its size and every option."""
    config = folder_config(folder, headers(weight_files(folder)))
    return {"family": read_json(folder / "config.json")["model_type"], "parameters": config.parameters(),
            "config": config.model_dump(mode="json"), "files": files(folder), "tokenizer": tokenizer(folder)}


def show_network(folder: Path, out: Console) -> None:
    """The same as a table; what is as it is in every network of its kind is left out."""
    found = network(folder)
    out.print(Text.assemble(("\nnetwork  ", "bold"), f"{found['family']}, ",
                            (f"{shorten(found['parameters'])} parameters", "bold green")))
    rows = [[name, str(value)] for name, value in found["config"].items() if value not in (None, False, [], {})]
    out.print(table("option", "value", rows=[row for row in rows if row[0] != "rope"]))
    out.print(Text("--attention TEXT draws what it looks at", style="dim"))


def show_model(folder: Path, out: Console) -> None:
    """What a model is: in words, by its parts, and file by file."""
    found = describe(folder)
    parameters = found["parameters"]
    out.print(Text.assemble(("\nmodel  ", "bold"), f"{found['class'] or found['family']}, ",
                            (f"{shorten(parameters['all'])} parameters", "bold green")))
    cache, rows = found["kv_cache_bytes_per_token"], [list(pair) for pair in found["architecture"].items()]
    rows += [["context", f"{found['context']} tokens"],
             ["cache", f"{shorten(cache)} bytes a token in bf16, {size(cache * found['context'])} at full context"],
             ["training", f"{shorten(found['training_flops_per_token'])} FLOPs a token"]]
    rows += beside(found)
    out.print(table("part", "what it is", rows=rows))
    whole = parameters.pop("all")
    out.print(table("parameters", "count", "share", "", rows=[
        [part, f"{count:,}", f"{count / whole:.1%}", "█" * round(BAR * count / whole)]
        for part, count in parameters.items()]))
    out.print(table("file", "size", "tensors", "type", rows=[
        [file["name"], size(file["bytes"]), str(file["tensors"]), ", ".join(file["types"])]
        for file in found["files"]]))
    kinds = Counter((LAYER.sub("*", name), *kind) for name, kind in headers(weight_files(folder)).items())
    out.print(table("tensor", "how many", "shape", "type", rows=[
        [name, str(many), " x ".join(map(str, shape)), dtype] for (name, shape, dtype), many in kinds.items()]))


def beside(found: dict) -> Iterator[list[str]]:
    """Tokenizer, template and generation, as far as the folder has them."""
    if known := found["tokenizer"]:
        special = [f"{name} {index}" for name, index in known["special"].items()]
        more = f" and {len(special) - SPECIAL} more" if len(special) > SPECIAL else ""
        yield ["tokenizer", f"{known['size']} ids, {known['kind']}"]
        yield ["special ids", ", ".join(special[:SPECIAL]) + more]
    if found["chat_template"]:
        yield ["chat template", found["chat_template"]]
    generation = {key: value for key, value in found["generation"].items() if value is not None and key not in QUIET}
    if generation:
        yield ["generation", ", ".join(f"{key} {value}" for key, value in generation.items())]


def size(count: float) -> str:
    """Bytes as people read them: 1.2 GB, 34 kB (powers of ten)."""
    scale, unit = next((pair for pair in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= pair[0]), (1, "bytes"))
    return f"{count / scale:.3g} {unit}"


SPECIAL = 8                         # special tokens that are listed
QUIET = ("transformers_version", "_from_model_config")
PARTS = {"norms": "norm|_after", "attention": r"\.attention\.", "feed-forward": r"\.mlp\.", "positions": "places",
         "token types": "types", "embedding": "embedding",
         "head": "head|transform"}                          # a name belongs to the first part whose pattern is in it
NORMS = {"rms": "RMSNorm", "rms_plus_one": "RMSNorm with 1 + w", "layer": "LayerNorm",
         "layer_plain": "LayerNorm without a bias"}
ORDERS = {"pre": "before each layer", "post": "after each layer", "sandwich": "before and after each layer"}
ACTIVATIONS = {"swiglu": "SwiGLU", "geglu": "GeGLU", "geglu_tanh": "GeGLU (tanh)", "gelu": "GELU",
               "gelu_tanh": "GELU (tanh)", "relu": "ReLU", "relu2": "squared ReLU"}
PLACES = {"learned": "learned", "sinusoidal": "sinusoidal", "none": "none"}
SCALINGS = {"linear": "position interpolation", "ntk": "NTK-aware", "dynamic": "dynamic NTK",
            "llama3": "Llama-3 scaling", "yarn": "YaRN", "yarn_paper": "YaRN (paper)"}
BIASES = {"none": "none", "qkv": "of queries, keys and values", "attention": "of attention", "all": "everywhere"}
SIGNS = {"<|im_start|>": "ChatML", "<|start_header_id|>": "Llama 3", "<start_of_turn>": "Gemma", "[INST]": "Llama 2"}
