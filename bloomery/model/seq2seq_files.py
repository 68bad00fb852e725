"""Networks that read a source and write a target, as folders: T5 as Hugging Face has it, the others in our own form.

What is loaded is checked name by name and shape by shape before the first weight is read, as in `store.py`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import InputError
from bloomery.model.hf import SEQ2SEQ
from bloomery.model.hf_names import Piece, pieces
from bloomery.model.rnn import RNN, RNNConfig
from bloomery.model.seq2seq import EncoderDecoder, Seq2SeqConfig
from bloomery.model.seq2seq_presets import Network
from bloomery.model.store import HEAD, raise_misfits
from bloomery.model.transformer import model_weights
from bloomery.model.weight_files import SHARD_BYTES, headers, read_json, tensors, weight_files, write_files

SHARED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")      # copies of the embedding in old folders
FEED_FORWARD = {"relu": "relu", "gated-gelu": "geglu_tanh", "gated-silu": "swiglu", "gelu": "gelu",
                "gelu_new": "gelu_tanh", "gated-gelu_new": "geglu_tanh"}


def t5_stack(stack: str, feed_forward: int) -> dict[str, list[str]]:
    """Weight names of one stack; `feed_forward` is the place of that layer in a block."""
    ours, theirs = f"{stack}.blocks.{{l}}", f"{stack}.block.{{l}}.layer"
    dense = f"{theirs}.{feed_forward}.DenseReluDense"
    return {
        f"{stack}.norm.weight": [f"{stack}.final_layer_norm.weight"],
        f"{stack}.relative.weight": [f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"],
        f"{ours}.attention_norm.weight": [f"{theirs}.0.layer_norm.weight"],
        f"{ours}.attention.qkv.weight": [f"{theirs}.0.SelfAttention.{x}.weight" for x in "qkv"],
        f"{ours}.attention.output.weight": [f"{theirs}.0.SelfAttention.o.weight"],
        f"{ours}.cross_norm.weight": [f"{theirs}.1.layer_norm.weight"],
        f"{ours}.cross.query.weight": [f"{theirs}.1.EncDecAttention.q.weight"],
        f"{ours}.cross.key_value.weight": [f"{theirs}.1.EncDecAttention.{x}.weight" for x in "kv"],
        f"{ours}.cross.output.weight": [f"{theirs}.1.EncDecAttention.o.weight"],
        f"{ours}.mlp_norm.weight": [f"{theirs}.{feed_forward}.layer_norm.weight"],
        f"{ours}.mlp.up.weight": [f"{dense}.wi.weight"],
        f"{ours}.mlp.gate_up.weight": [f"{dense}.wi_0.weight", f"{dense}.wi_1.weight"],
        f"{ours}.mlp.down.weight": [f"{dense}.wo.weight"],
    }


T5 = {"embedding.weight": ["shared.weight"], "head.weight": ["lm_head.weight"], **t5_stack("encoder", 1),
      **t5_stack("decoder", 2)}


def t5_config(hf: dict, *, own_head: bool, where: str) -> Seq2SeqConfig:
    """A T5's `config.json`; one `InputError` lists what is missing or what we cannot do.

    v1.1 is told by an untied head.  transformers 5 ties in words what it does not tie in fact: then `own_head`, whether
    the folder has one, and `scale_decoder_outputs` tell.
    """
    needed = {"vocabulary": "vocab_size", "width": "d_model", "head_width": "d_kv", "hidden": "d_ff",
              "encoder_depth": "num_layers", "heads": "num_heads"}
    odd = [f"missing {key}" for key in needed.values() if hf.get(key) is None]
    kind = hf.get("feed_forward_proj") or "relu"
    odd += [] if kind in FEED_FORWARD else [f"feed_forward_proj={kind!r}"]
    if odd:
        raise InputError("unsupported model options", where=where, why=", ".join(odd))
    tied = hf.get("tie_word_embeddings") is not False
    scaled = hf.get("scale_decoder_outputs", tied) if tied else False
    values: dict[str, Any] = {ours: hf[key] for ours, key in needed.items()} | {
        "kv_heads": hf["num_heads"], "depth": hf.get("num_decoder_layers") or hf["num_layers"],
        "context": hf.get("n_positions") or 512, "norm": "rms", "norm_eps": hf.get("layer_norm_epsilon", 1e-6),
        "activation": FEED_FORWARD[kind], "positions": "none", "score_width": 1.0,
        "relative_buckets": hf.get("relative_attention_num_buckets", 32),
        "relative_distance": hf.get("relative_attention_max_distance", 128),
        "tied": tied and (scaled or not own_head), "scaled_head": scaled, "dropout": hf.get("dropout_rate", 0.1),
        "start_id": hf.get("decoder_start_token_id") or 0}
    return consistent(Seq2SeqConfig, values, where)


def t5_json(config: Seq2SeqConfig) -> dict | None:
    """The `config.json` of a network that is a T5, None for any other."""
    hf = {"vocab_size": config.vocabulary, "d_model": config.width, "d_kv": config.head_width, "d_ff": config.hidden,
          "num_layers": config.encoder_depth, "num_decoder_layers": config.depth, "num_heads": config.heads,
          "relative_attention_num_buckets": config.relative_buckets,
          "relative_attention_max_distance": config.relative_distance, "n_positions": config.context,
          "feed_forward_proj": next((t for t, ours in FEED_FORWARD.items() if ours == config.activation), ""),
          "layer_norm_epsilon": config.norm_eps, "tie_word_embeddings": config.tied, "dropout_rate": config.dropout,
          "is_encoder_decoder": True, "decoder_start_token_id": config.start_id}
    known = {"residual_init": config.residual_init}
    try:
        same = t5_config(hf, own_head=not config.tied, where="").model_copy(update=known) == config
    except InputError:
        return None
    return hf if same else None


def consistent(kind: type, values: dict, where: str) -> Any:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        why = "; ".join(f"{'.'.join(map(str, found['loc']))} {found['msg']}".strip() for found in error.errors())
        raise InputError("a model configuration that is not consistent", where=where, why=why) from error


def is_seq2seq(folder: Path) -> bool:
    """Whether a folder holds a network that reads a source and writes a target."""
    path = Path(folder) / "config.json"
    return path.is_file() and read_json(path).get("model_type") in SEQ2SEQ


def folder_config(folder: Path, found: dict[str, tuple[tuple[int, ...], str]]) -> Seq2SeqConfig | RNNConfig:
    """The network of a folder whose weights are `found`."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise InputError("not a model folder", where=str(folder), why="it has no config.json",
                         hint="give what the seq2seq, spans or ul2 stage wrote, or a Hugging Face folder of a T5")
    hf = read_json(path)
    kind = hf.get("model_type")
    if kind == "t5":
        return t5_config(hf, own_head=HEAD in found, where=str(path))
    if kind not in OWN:
        raise InputError(f"model_type {kind!r} reads no source", where=str(path),
                         why=f"the networks that do are t5, {', '.join(OWN)}")
    return consistent(OWN[kind][0], hf.get("network", {}), str(path))


def plan_of(config: Seq2SeqConfig | RNNConfig, weights: dict[str, Tensor]) -> dict[str, Piece]:
    """What a folder of this network holds, by name."""
    names = T5 if isinstance(config, Seq2SeqConfig) and t5_json(config) else None
    plan = pieces(config, {name: weight.shape for name, weight in weights.items()}, names)
    return {piece.theirs: piece for piece in plan}


def load_seq2seq(folder: Path, *, compute: torch.dtype = torch.float32, dtype: torch.dtype = torch.float32) -> Network:
    """Read a folder into a network with weights in `dtype`."""
    folder = Path(folder)
    files = weight_files(folder) if (folder / "config.json").is_file() else []
    found = headers(files)
    config = folder_config(folder, found)
    model = KINDS[type(config)](config, seed=None, compute=compute).to(dtype)
    own = model_weights(model)
    plan = plan_of(config, own)
    raise_misfits(plan, {name: about for name, about in found.items() if name not in SHARED or name in plan},
                  tied=config.tied, where=str(folder))
    with torch.no_grad():
        for name, tensor in tensors(files):
            if piece := plan.get(name):
                own[piece.ours][piece.rows].copy_(tensor)
    return model


@torch.no_grad()
def save_seq2seq(model: Network, folder: Path, *, eos: int | None, pad: int | None = None,
                 dtype: torch.dtype = torch.float32, shard_bytes: float = SHARD_BYTES) -> None:
    """Write weights, `config.json` and `generation_config.json`; a T5 opens in transformers."""
    folder, config, weights = Path(folder), model.config, model_weights(model)
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_of(config, weights)

    def tensor(name: str) -> Tensor:
        piece = plan[name]
        return weights[piece.ours].detach()[piece.rows].to("cpu", dtype).contiguous()

    write_files(folder, {name: weights[piece.ours][piece.rows].numel() * dtype.itemsize
                         for name, piece in plan.items()}, tensor, shard_bytes)
    kind = next(kind for kind, (own, _) in OWN.items() if own is type(config))
    hf = t5_json(config) if isinstance(config, Seq2SeqConfig) else None
    said = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"} | hf if hf else \
        {"architectures": [kind], "model_type": kind, "network": config.model_dump(mode="json")}
    ids = {"eos_token_id": eos, "pad_token_id": config.start_id if pad is None else pad,
           "decoder_start_token_id": config.start_id}
    named = str(dtype).removeprefix("torch.")
    write_atomic(folder / "config.json", json.dumps(said | ids | {"torch_dtype": named, "dtype": named}, indent=2))
    write_atomic(folder / "generation_config.json", json.dumps(ids, indent=2))


OWN = {"bloomery-seq2seq": (Seq2SeqConfig, EncoderDecoder), "bloomery-rnn": (RNNConfig, RNN)}
KINDS = dict(OWN.values())
