"""A transformer with a head of scalars beside it: reward models, critics, classifiers.

    score = W h,    h (D,) the trunk's last hidden state, W (labels, D)

A run's score is read at its last token, which has seen all of it.  Folders are those of transformers'
`...ForSequenceClassification`; the trunk's own head is no part of them and is let go.
"""

import json
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import InputError
from bloomery.model.attention import Memory
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest, Segments
from bloomery.model.hf import from_config
from bloomery.model.linear import Linear
from bloomery.model.store import (
    folder_pieces,
    load_config,
    model_weights,
    raise_misfits,
    save_weights,
    with_their_prefix,
)
from bloomery.model.transformer import Transformer
from bloomery.model.weight_files import SHARD_BYTES, headers, read_json, tensors, weight_files

KIND = "ForSequenceClassification"


class ScalarModel(nn.Module):
    """A trunk and `labels` numbers a position. The trunk is taken over: its head becomes its embedding.

    `pad` is the token that fills up rows elsewhere; here it is only carried along (see `padded_scores`).
    """

    def __init__(self, trunk: Transformer, labels: int = 1, *, seed: int | None = 0, pad: int | None = None,
                 bias: bool = False, keeps_head: bool = False):
        super().__init__()
        self.trunk, self.labels, self.pad = trunk if keeps_head else without_head(trunk), labels, pad
        self.score = Linear(trunk.config.width, labels, bias=bias).to(trunk.embedding.weight.dtype)
        if seed is not None:                                    # deviation 1 / sqrt(D + 1): Stiennon et al. 2020
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                drawn = torch.randn(self.score.weight.shape, generator=generator)
                self.score.weight.copy_(drawn / (trunk.config.width + 1) ** 0.5)

    @property
    def config(self) -> ModelConfig:
        """The trunk's, so that training sees one model; its matrices for the optimizer are `embedding` and `head`."""
        return self.trunk.config

    @property
    def compute(self) -> torch.dtype:
        return self.trunk.compute

    @compute.setter
    def compute(self, dtype: torch.dtype) -> None:
        self.trunk.compute = dtype

    @property
    def blocks(self) -> nn.ModuleList:
        return self.trunk.blocks

    @property
    def embedding(self) -> Linear:
        return self.trunk.embedding

    @property
    def head(self) -> Linear:
        return self.score

    def forward(self, ids: Tensor, positions: Tensor, memory: Memory) -> Tensor:
        """The scores of every position, (N, labels) in at least fp32: a critic's values."""
        return self.read(self.trunk(ids, positions, memory))

    def scores(self, ids: Tensor, segments: Segments) -> Tensor:
        """The scores of every run, read at its last token, (R, labels); an empty run has those of what it continues."""
        hidden = self.trunk(ids, segments.positions.to(ids.device), Forest(segments))
        return self.read(hidden[torch.tensor(last_tokens(segments))])

    def read(self, hidden: Tensor) -> Tensor:
        scores = self.score(hidden)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))


def without_head(trunk: Transformer) -> Transformer:
    """The same network, in place, whose head is its embedding and has nothing of its own."""
    trunk.head, trunk.transform = trunk.embedding, torch.nn.Identity()
    trunk.head.bias = None
    trunk.config = trunk.config.model_copy(update={"tied": True, "head_transform": False})
    return trunk


def last_tokens(segments: Segments) -> list[int]:
    """Where every run's path ends. `ValueError` for a path without a token."""
    last: list[int] = []
    for (first, end), parent in zip(segments.runs, segments.parent.tolist(), strict=True):
        if first == end and parent < 0:
            raise ValueError(f"run {len(last)} is empty and continues nothing: there is no token to read a score at")
        last.append(end - 1 if end > first else last[parent])
    return last


def padded_scores(model: ScalarModel, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scores of padded rows (B, T) as transformers gives them, (B, labels).

    `mask` (B, T) says which tokens are real.  As there, a position is a column, padding on the left included, and a
    row's score is read at its last token that is not `model.pad`, whatever the mask says of others: a row whose own
    last token is `pad` is read too early.  Flat runs (`ScalarModel.scores`) know no padding and have no such trap.
    """
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    columns = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    if model.pad is None and len(ids) > 1:
        raise ValueError("rows of a batch cannot be told from their padding: the model has no pad token")
    told = torch.ones_like(real) if model.pad is None else ids != model.pad
    last = torch.where(told, columns, 0).amax(1)                                         # (B,)
    if not real[torch.arange(len(ids)), last].all():
        raise ValueError("a row's last token that is not padding is masked out")
    lengths = real.sum(1)
    start = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(torch.int32)
    segments = Segments(start, torch.full((len(ids),), -1, dtype=torch.int32))
    tokens = torch.arange(int(lengths.sum()), device=ids.device)
    flat = torch.zeros_like(ids).masked_scatter(real, tokens)                            # column -> flat token
    hidden = model.trunk(ids[real], columns[real], Forest(segments))
    return model.read(hidden[flat[torch.arange(len(ids)), last]])


def scalar_weights(model: ScalarModel) -> dict[str, Tensor]:
    return model_weights(model.trunk) | {"score.weight": model.score.weight}


def save_scalar(model: ScalarModel, folder: Path, *, bos: int | None = None, eos: list[int] | None = None,
                dtype: torch.dtype = torch.float32, shard_bytes: float = SHARD_BYTES) -> None:
    """Write a folder that transformers opens as `AutoModelForSequenceClassification`."""
    folder, names = Path(folder), [f"LABEL_{i}" for i in range(model.labels)]
    config = from_config(model.trunk.config, bos=bos, eos=eos[0] if eos and len(eos) == 1 else eos, pad=model.pad,
                         dtype=str(dtype).removeprefix("torch."))
    base = re.sub("ForCausalLM$|LMHeadModel$", "", config["architectures"][0])
    said = {"architectures": [base + KIND], "id2label": dict(enumerate(names)),
            "label2id": {name: i for i, name in enumerate(names)}}
    save_weights(scalar_weights(model), model.trunk.config, folder, dtype=dtype, shard_bytes=shard_bytes)
    write_atomic(folder / "config.json", json.dumps(config | said, indent=2))


def is_scalar(folder: Path) -> bool:
    """Does this model folder hold a scalar head, and no language model?"""
    names = read_json(Path(folder) / "config.json").get("architectures") or [""]
    return str(names[0]).endswith(KIND)


def load_scalar(folder: Path, *, compute: torch.dtype = torch.float32,
                dtype: torch.dtype = torch.float32) -> ScalarModel:
    """Read a `...ForSequenceClassification` folder; `InputError` where it is none, or its weights do not fit."""
    folder = Path(folder)
    config = load_config(folder).model_copy(update={"tied": True})
    if not is_scalar(folder):
        raise InputError("not a reward model or classifier", where=str(folder),
                         why=f"config.json names no ...{KIND} in its architectures",
                         hint="give the folder of a reward stage; a language model has no head of scalars")
    hf = read_json(folder / "config.json")
    labels = len(hf["id2label"]) if hf.get("id2label") else hf.get("num_labels", 2)      # 2: transformers' default
    model = ScalarModel(Transformer(config, seed=None, compute=compute), labels, seed=None,
                        pad=hf.get("pad_token_id")).to(dtype)
    own, files = scalar_weights(model), weight_files(folder)
    plan, found = folder_pieces(config, own, hf["model_type"]), headers(files)
    plan = with_their_prefix(plan, hf["model_type"], found)
    raise_misfits(plan, found, tied=True, where=str(folder))
    with torch.no_grad():
        for name, tensor in tensors(files):
            if piece := plan.get(name):
                own[piece.ours][piece.rows].copy_(tensor.T if piece.transposed else tensor)
    return model
