"""`bloomery export`: a model as a Hugging Face folder that is checked before it bears its name.

The folder is written beside its place, opened again (by transformers, where that is installed and knows the family),
and asked for the logits of fixed prompts.  They must be those of the model it was made from, with weights rounded to
the asked dtype and all sums in fp32, and token ids must be the same too; only then is the folder renamed.  What
rounding itself costs is measured and said, not judged.
"""

import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend
from torch import Tensor

from bloomery.anatomy import chat_template, files
from bloomery.core.artifacts import check_space, sync_folder
from bloomery.core.errors import ConfigError, GateError, InputError
from bloomery.core.records import Message
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest, roots
from bloomery.model.hf import FAMILIES, family_of
from bloomery.model.hub import located
from bloomery.model.store import load_config, load_generation, load_model, model_weights, save_model
from bloomery.model.transformer import Transformer
from bloomery.model.weight_files import read_json
from bloomery.text.chat import Renderer, load_renderer
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import load_tokenizer
from bloomery.train.checkpoint import damage, raise_unless_whole

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = 2e-5                    # of a logit, as a share of the largest where that is above one
LONGEST = 512                       # tokens of the longest prompt
TEXTS = ("The furnace turns ore into iron, and iron into tools.", "def add(a, b):\n    return a + b\n",
         "Ünïcödé: 鉄は熱いうちに打て 🔥 <|im_end|>")
DIALOGUE = (Message("system", "Be brief."), Message("user", "  What is 2 + 2?"), Message("assistant", "4."))
BESIDE = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


@dataclass(frozen=True)
class Source:
    """What is exported: the model in fp32, where its tokenizer lies, and how its generation begins and ends."""

    model: Transformer
    words: Path
    generation: dict


def export(source: str, out: Path, *, dtype: str = "fp32", shard_gb: float = 5.0, words: str = "") -> dict:
    """Write `out` from a model's folder, a hub id or a checkpoint; what was written and how exact it is.

    `words` is a folder with the tokenizer, where the source has none.  Raises `GateError` above `TOLERANCE`, and then
    leaves nothing behind.
    """
    raise_unless_writable(out, dtype)
    return written(opened(Path(located(source)), words), Path(out), dtype=dtype, shard_gb=shard_gb)


def raise_unless_writable(out: Path, dtype: str) -> None:
    """What can be wrong with the two is said before any model is opened."""
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype}", hint=f"one of {', '.join(DTYPES)}")
    if Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
        raise InputError("the output folder is not empty", where=str(out), hint="choose another, or remove it")


def written(found: Source, out: Path, *, dtype: str, shard_gb: float) -> dict:
    """Write a model whose weights may be changed on the way, check what was written, and give it its name."""
    out.parent.mkdir(parents=True, exist_ok=True)
    check_space(out.parent, 2 * sum(w.numel() for w in found.model.parameters()) * DTYPES[dtype].itemsize)
    asked = prompts(found)
    exact = logits(found.model, asked)
    with torch.no_grad():
        for weight in found.model.parameters():
            weight.copy_(weight.to(DTYPES[dtype]))
    ours = logits(found.model, asked)
    temporary = out.parent / f".tmp-{out.name}-{uuid.uuid4().hex}"
    try:
        write(found, temporary, dtype, shard_gb)
        told = {"folder": str(out), "parameters": found.model.config.parameters(), "dtype": dtype,
                "files": files(temporary), "rounding": distance(exact, ours), **checked(temporary, found, asked, ours)}
        temporary.replace(out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return told


# --- what is exported ---------------------------------------------------------------------------------------------

def opened(folder: Path, words: str) -> Source:
    """A model's folder or a checkpoint as a model with fp32 weights, its tokenizer's folder and its ends."""
    is_checkpoint = (folder / "state.json").is_file()
    if not is_checkpoint:
        load_config(folder)                                 # what is no model at all is said first
    places = [Path(located(words))] if words else [folder, folder.parent.parent] if is_checkpoint else [folder]
    beside = next((place for place in places if (place / "tokenizer.json").is_file()), None)
    if beside is None:
        raise InputError("the model has no tokenizer beside it", where=str(folder),
                         hint="give the folder of its tokenizer with --tokenizer")
    if not is_checkpoint:
        return Source(load_model(folder), beside, load_generation(folder))
    model, speaks = checkpointed(folder), load_renderer(beside)
    ends = [*dict.fromkeys((speaks.end, speaks.tokenizer.eos))]
    return Source(model, beside, {"bos_token_id": speaks.tokenizer.begin, "eos_token_id": ends,
                                  "max_length": model.config.context})


def checkpointed(folder: Path) -> Transformer:
    """The model of a checkpoint, whose every file is compared with its hash first."""
    if problem := damage(folder):
        raise InputError("this checkpoint is damaged", where=str(folder), why=problem, hint="use the one before")
    shape = read_json(folder / "state.json").get("model")
    if not shape:
        raise InputError("this checkpoint does not say what its model is", where=str(folder),
                         why="state.json has no `model`: it was written by an earlier version",
                         hint="go on with the run, and export a newer checkpoint or the finished stage")
    model = Transformer(ModelConfig.model_validate(shape), seed=None)
    saved, own = load_file(folder / "model.safetensors"), model_weights(model)
    raise_unless_whole(own, saved, folder)
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(saved[name])
    return model


def write(source: Source, folder: Path, dtype: str, shard_gb: float) -> None:
    """The complete folder: weights, both configurations, and everything the tokenizer has."""
    save_model(source.model, folder, generation=source.generation, dtype=DTYPES[dtype], shard_bytes=shard_gb * 1e9)
    for name in BESIDE:
        if (source.words / name).is_file():
            shutil.copyfile(source.words / name, folder / name)


# --- the check ----------------------------------------------------------------------------------------------------

def prompts(source: Source) -> list[list[int]]:
    """Token ids of fixed texts, and one long row of ids from all over the vocabulary."""
    shape, backend = source.model.config, Backend.from_file(str(source.words / "tokenizer.json"))
    texts = [backend.encode(text, add_special_tokens=False).ids for text in TEXTS]
    length = min(LONGEST, shape.context)
    return [[i % shape.vocabulary for i in ids[:length]] for ids in texts] + \
        [[(7919 * i + 13) % shape.vocabulary for i in range(length)]]


@torch.no_grad()
def logits(model: Transformer, asked: list[list[int]]) -> list[Tensor]:
    """Ours of every prompt, (T, V) each."""
    return [model.logits(model(torch.tensor(ids), torch.arange(len(ids)), Forest(roots([len(ids)])))) for ids in asked]


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """The largest difference of two lists of logits; not a number, where either is none, counts as infinite."""
    found = max(float((x.float() - y.float()).abs().max()) for x, y in zip(a, b, strict=True))
    return found if found == found else float("inf")


def checked(folder: Path, source: Source, asked: list[list[int]], ours: list[Tensor]) -> dict:
    """Open what was written and compare; `GateError` when it says something else than the model it was made from."""
    library = transformers() if family_of(source.model.config) in FAMILIES else None
    if library is None:
        reader, theirs = "bloomery", logits(load_model(folder), asked)
    else:
        reader, theirs = f"transformers {library.__version__}", their_logits(library, folder, asked)
        same_ids(library, folder, source)
    largest, scale = distance(ours, theirs), max(1.0, max(float(x.abs().max()) for x in ours))
    if largest > TOLERANCE * scale:
        raise GateError("the exported model is not the model", where=reader,
                        why=f"logits differ by {largest:.2g}, allowed are {TOLERANCE * scale:.2g}",
                        hint="nothing was written; this is a defect of bloomery, or of that version of transformers")
    return {"reader": reader, "prompts": len(asked), "difference": largest, "tolerance": TOLERANCE * scale}


def transformers() -> ModuleType | None:
    """The library most others read such folders with, where it is installed."""
    try:
        import transformers
    except ImportError:
        return None
    return transformers


@torch.no_grad()
def their_logits(library: ModuleType, folder: Path, asked: list[list[int]]) -> list[Tensor]:
    model = library.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                         local_files_only=True, use_safetensors=True).eval()
    return [model(torch.tensor([ids])).logits[0] for ids in asked]


def same_ids(library: ModuleType, folder: Path, source: Source) -> None:
    """Texts and, for a template of ours, a dialogue must become the same ids as here."""
    theirs, backend = library.AutoTokenizer.from_pretrained(folder), Backend.from_file(str(folder / "tokenizer.json"))
    pairs = [(text, theirs.encode(text, add_special_tokens=False), backend.encode(text, add_special_tokens=False).ids)
             for text in TEXTS]
    if (name := chat_template(folder)) in TEMPLATES:
        turns = [{"role": turn.role, "content": turn.content} for turn in DIALOGUE]
        rendered = theirs.apply_chat_template(turns, tokenize=True, return_dict=False)
        pairs.append(("a dialogue", rendered, Renderer(load_tokenizer(folder), name).conversation(DIALOGUE).ids))
    for what, found, expected in pairs:
        if list(found) != list(expected):
            raise GateError("the exported tokenizer is not the tokenizer", where=f"transformers {library.__version__}",
                            why=f"{what!r} becomes {len(found)} other ids than the {len(expected)} it has here",
                            hint="nothing was written; look at tokenizer_config.json beside the source")
