"""A trunk with the head of a task beside it, in the folders transformers has for it.

    sequence    labels of a text                    ...ForSequenceClassification
    choice      one number an answer, softmax       ...ForMultipleChoice (a decoder's: ForSequenceClassification)
                over the answers to a question
    token       labels of every token               ...ForTokenClassification
    span        where an answer begins and ends     ...ForQuestionAnswering
    pairs       does B follow A? beside the head    BertForPreTraining
                of the masked language model

A text is read at its first token by an encoder ([CLS]), at its last by a decoder, or as the mean of its tokens.
Between the trunk and the numbers BERT has its pooler, tanh(W h + b), for what is read of a text, ModernBERT its
prediction head, norm(gelu(W h)), for everything, and decoders nothing.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import ConfigError, InputError
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest, Segments
from bloomery.model.hf import FAMILIES, OWN, family_of, from_config
from bloomery.model.hf_names import Piece, pieces
from bloomery.model.init import STD
from bloomery.model.linear import Linear
from bloomery.model.scalar import ScalarModel, last_tokens
from bloomery.model.store import current, load_config, load_model, model_weights, raise_misfits
from bloomery.model.transformer import Transform, Transformer
from bloomery.model.weight_files import SHARD_BYTES, headers, read_json, tensors, weight_files, write_files

CLASSES = {"sequence": "ForSequenceClassification", "choice": "ForMultipleChoice", "token": "ForTokenClassification",
           "span": "ForQuestionAnswering", "pairs": "ForPreTraining"}
OF_TEXTS = ("sequence", "choice", "pairs")              # tasks that read one place of a text, not every token


class Pooler(nn.Module):
    """tanh(W h + b): Devlin et al. 2019."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.dense = Linear(config.width, config.width, bias=True)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dense(hidden).tanh()


@dataclass(frozen=True)
class Shape:
    """What a head is: its task, how many numbers it gives, their names, and where a text is read."""

    task: str
    labels: int
    names: tuple[str, ...] = ()
    pooling: str = "first"          # first, last or mean
    problem: str | None = None      # transformers' problem_type


class Headed(ScalarModel):
    """A trunk and the head of a task; the trunk is taken over, and lets its own head go unless that is kept."""

    def __init__(self, trunk: Transformer, shape: Shape, *, seed: int | None = 0, pad: int | None = None,
                 dropout: float = 0.0, keeps_head: bool = False):
        kind = family_of(trunk.config)
        before = trunk.transform if kind == "modernbert" and trunk.config.head_transform else None
        biased = not (trunk.config.causal and shape.task in OF_TEXTS)
        super().__init__(trunk, shape.labels, seed=None, pad=pad, bias=biased, keeps_head=keeps_head)
        self.shape, self.dropout = shape, nn.Dropout(dropout)
        self.pooler = pooler(kind, trunk.config, shape.task).to(trunk.embedding.weight.dtype)
        if seed is not None:
            draw([self.score, self.pooler], seed)
        if before is not None:                                  # as transformers does: both are called `head` there
            self.pooler.load_state_dict(before.state_dict())
        self.compute = trunk.compute

    @property
    def compute(self) -> torch.dtype:
        return self.trunk.compute

    @compute.setter
    def compute(self, dtype: torch.dtype) -> None:
        self.trunk.compute = dtype
        if isinstance(getattr(self, "pooler", None), Transform):
            self.pooler.norm.compute = dtype

    def states(self, ids: Tensor, segments: Segments, types: Tensor | None = None) -> Tensor:
        """What the trunk says of every token, (N, D)."""
        return self.trunk(ids, segments.positions.to(ids.device), Forest(segments), types)

    def scores(self, ids: Tensor, segments: Segments, types: Tensor | None = None) -> Tensor:
        """The numbers of every token, (N, labels), or of every run, (R, labels)."""
        return self.judged(self.states(ids, segments, types), segments)

    def judged(self, hidden: Tensor, segments: Segments) -> Tensor:
        """The same from the trunk's states."""
        return self.read(pooled(hidden, segments, self.shape.pooling) if self.shape.task in OF_TEXTS else hidden)

    def read(self, hidden: Tensor) -> Tensor:
        return super().read(self.dropout(self.pooler(hidden)))


def pooler(kind: str, config: ModelConfig, task: str) -> nn.Module:
    """What stands between the trunk and the numbers."""
    if config.causal:
        return nn.Identity()
    if kind == "modernbert":
        return Transform(config)
    return Pooler(config) if task in OF_TEXTS else nn.Identity()


@torch.no_grad()
def draw(modules: list[nn.Module], seed: int) -> None:
    """First weights, N(0, 0.02^2); biases 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in (named for module in modules for named in sorted(module.named_parameters())):
        if name.endswith("bias"):
            weight.zero_()
        elif weight.dim() == 2:
            weight.copy_(torch.randn(weight.shape, generator=generator) * STD)


def pooled(hidden: Tensor, segments: Segments, how: str) -> Tensor:
    """One state a run, (R, D), of hidden (N, D)."""
    return POOLINGS[how](hidden, segments)


def first(hidden: Tensor, segments: Segments) -> Tensor:
    return hidden[segments.start[:-1].long().to(hidden.device)]


def last(hidden: Tensor, segments: Segments) -> Tensor:
    return hidden[torch.tensor(last_tokens(segments), device=hidden.device)]


def mean(hidden: Tensor, segments: Segments) -> Tensor:
    """Of a run's own tokens, in fp32 at least."""
    lengths = segments.start.diff().long().to(hidden.device)
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    owner = torch.arange(len(lengths), device=hidden.device).repeat_interleave(lengths)
    sums = wide.new_zeros(len(lengths), hidden.shape[1]).index_add(0, owner, wide)
    return (sums / lengths.clamp(min=1)[:, None]).to(hidden.dtype)


POOLINGS = {"first": first, "last": last, "mean": mean}


# --- folders ------------------------------------------------------------------------------------------------------

def headed_weights(model: Headed) -> dict[str, Tensor]:
    """Every weight by our name, the trunk's without a prefix."""
    own = {name: weight for name, weight in model.named_parameters() if not name.startswith("trunk.")}
    return model_weights(model.trunk) | own


def folder_kind(config: ModelConfig, shape: Shape) -> str:
    """The family a folder is written as. Ours where no class of transformers computes the same."""
    kind = family_of(config)
    told = {"bert": ("first",), "modernbert": ("first", "mean")}.get(kind, ("last",))
    return kind if shape.task not in OF_TEXTS or shape.pooling in told else OWN


def plan_of(model: Headed, kind: str) -> dict[str, Piece]:
    """What a folder of this family holds, by name."""
    family, shapes = FAMILIES.get(kind), {name: w.shape for name, w in headed_weights(model).items()}
    names = family and {ours: [in_class(theirs, kind, model.shape.task) for theirs in every]
                        for ours, every in (family.names | head_names(kind, model.shape.task)).items()}
    plan = pieces(model.config, shapes, names, transposed=bool(family and family.transposed))
    return {piece.theirs: piece for piece in plan}


def in_class(name: str, kind: str, task: str) -> str:
    """Llama's and Qwen's question answering calls its trunk `transformer`."""
    odd = task == "span" and kind in ("llama", "qwen2", "qwen3")
    return re.sub("^model[.]", "transformer.", name) if odd else name


def head_names(kind: str, task: str) -> dict[str, list[str]]:
    """Their names of what a head adds to the trunk."""
    if kind == "bert":
        score = {"span": "qa_outputs", "pairs": "cls.seq_relationship"}.get(task, "classifier")
        return {"pooler.dense.weight": ["bert.pooler.dense.weight"], "score.weight": [f"{score}.weight"]}
    if kind == "modernbert":
        return {"pooler.dense.weight": ["head.dense.weight"], "pooler.norm.weight": ["head.norm.weight"],
                "score.weight": ["classifier.weight"]}
    score = "qa_outputs" if task == "span" else "classifier" if (kind, task) == ("gpt2", "token") else "score"
    return {"score.weight": [f"{score}.weight"]}


def save_headed(model: Headed, folder: Path, *, bos: int | None = None, eos: int | None = None) -> None:
    """Write a folder that transformers opens as the class of the task."""
    folder, shape, config = Path(folder), model.shape, model.config
    folder.mkdir(parents=True, exist_ok=True)
    kind = folder_kind(config, shape)
    weights, plan = headed_weights(model), plan_of(model, kind)

    def tensor(name: str) -> Tensor:
        part = weights[plan[name].ours].detach()[plan[name].rows]
        return (part.T if plan[name].transposed else part).to("cpu", torch.float32).contiguous()

    sizes = {name: 4 * weights[piece.ours][piece.rows].numel() for name, piece in plan.items()}
    write_files(folder, sizes, tensor, SHARD_BYTES)
    said = from_config(config, bos=bos, eos=eos, pad=model.pad) | {"model_type": kind, "pooling": shape.pooling}
    said |= {"network": config.model_dump(mode="json")} if kind == OWN else {}
    base = re.sub("ForCausalLM$|LMHeadModel$|ForMaskedLM$", "",
                  "Bloomery" if kind == OWN else FAMILIES[kind].architecture)
    task = "sequence" if shape.task == "choice" and config.causal else shape.task
    names = shape.names or tuple(f"LABEL_{i}" for i in range(shape.labels))
    said |= {"architectures": [base + CLASSES[task]], "id2label": dict(enumerate(names)),
             "label2id": {name: i for i, name in enumerate(names)}, "task": shape.task}
    said |= {"problem_type": shape.problem} if shape.problem else {}
    said |= {"classifier_pooling": {"first": "cls"}.get(shape.pooling, shape.pooling)} if kind == "modernbert" else {}
    write_atomic(folder / "config.json", json.dumps(said, indent=2))


def shape_in(folder: Path) -> Shape | None:
    """The head that a folder's `config.json` tells of, None where it tells of none."""
    hf = read_json(Path(folder) / "config.json")
    name, causal = (hf.get("architectures") or [""])[0], load_config(folder).causal
    task = next((task for task, end in CLASSES.items() if name.endswith(end)), None)
    if task is None:
        return None
    task = hf.get("task", task)
    default = "last" if causal else "mean" if hf.get("classifier_pooling") == "mean" else "first"
    told = hf.get("id2label") or {}
    labels = {"choice": 1, "pairs": 2, "span": 2}.get(task) or len(told) or hf.get("num_labels", 2)
    names = tuple(told.values()) if task in ("sequence", "token") else ()
    return Shape(task, labels, names, hf.get("pooling", default), hf.get("problem_type"))


def load_headed(folder: Path, *, compute: torch.dtype = torch.float32, dtype: torch.dtype = torch.float32) -> Headed:
    """Read the folder of a task's class; `InputError` where it is none, or its weights do not fit."""
    folder, shape = Path(folder), None
    if (folder / "config.json").is_file():
        shape = shape_in(folder)
    if shape is None:
        raise InputError("not a model of a task", where=str(folder),
                         why=f"config.json names none of ...{', ...'.join(CLASSES.values())}",
                         hint="give the folder of a classify or qa stage")
    hf = read_json(folder / "config.json")
    trunk = Transformer(load_config(folder).model_copy(update={"tied": True}), seed=None, compute=compute)
    model = Headed(trunk, shape, seed=None, pad=hf.get("pad_token_id"), keeps_head=shape.task == "pairs").to(dtype)
    fill(model, plan_of(model, hf["model_type"]), folder)
    return model


def fill(model: Headed, plan: dict[str, Piece], folder: Path) -> None:
    """Copy a folder's weights, checked name by name and shape by shape before the first is read."""
    files, own = weight_files(folder), headed_weights(model)
    found = {current(name): about for name, about in headers(files).items()}
    raise_misfits(plan, {name: about for name, about in found.items() if name in plan or not beside(name)}, tied=True,
                  where=str(folder))
    with torch.no_grad():
        for name, tensor in tensors(files):
            if piece := plan.get(current(name)):
                own[piece.ours][piece.rows].copy_(tensor.T if piece.transposed else tensor)


def beside(name: str) -> bool:
    """Weights that old folders hold twice."""
    return name.endswith("position_ids") or name.startswith(("cls.predictions.decoder.", "decoder.weight"))


def open_headed(folder: Path, shape: Shape, *, seed: int, pad: int | None = None, dropout: float = 0.0,
                keeps_head: bool = False) -> Headed:
    """A pretrained model, or that of another task, with a new head; the pooler goes on from the folder's, if any."""
    folder = Path(folder)
    before = shape_in(folder) if (folder / "config.json").is_file() else None
    trunk = load_headed(folder).trunk if before and before.task != "pairs" else load_model(folder)
    if trunk.config.causal and shape.task in OF_TEXTS and shape.pooling == "first":
        raise ConfigError("a decoder cannot be read at its first token", where="pooling",
                          why="that token has seen nothing but itself", hint="last, or mean")
    model = Headed(trunk, shape, seed=seed, pad=pad, dropout=dropout, keeps_head=keeps_head)
    if isinstance(model.pooler, Pooler) and not (folder / "adapter_config.json").is_file():
        own = {f"{prefix}pooler.dense.{name}": weight for prefix in ("", "bert.")
               for name, weight in model.pooler.dense.named_parameters()}
        with torch.no_grad():
            for name, tensor in tensors(weight_files(folder)):
                if name in own:
                    own[name].copy_(tensor)
    return model
