"""The embed stage: a model whose vectors of texts that belong together are near each other.

    h = the last states at [CLS], as a mean, or at the last token; a text's vector is h / |h|
    loss of a query = -log softmax over the passages of its group of cosine / temperature        `losses/contrastive.py`

Encoders and decoders alike (Reimers and Gurevych 2019; Gao et al. 2021, section 4; Wang et al. 2024 for the last
token).  A group is one micro-batch, since every passage of it is a negative: its size is a setting that matters, not a
matter of memory.  The folder is the model as it was, with new weights, and says how it is read in the files of
sentence-transformers; `/v1/embeddings` and `bloomery text search --model` take it.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from bloomery.classic.bm25 import build
from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Fixed, Input
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine, write_jsonl
from bloomery.core.metrics import say
from bloomery.core.records import unit_hash
from bloomery.finetune.judged import is_judged, open_judged
from bloomery.finetune.pairs import Group, Pair, lessons, pairs, stream_of
from bloomery.finetune.predictions import evaluating
from bloomery.finetune.retrieval import Search, by_terms, by_vectors, figures, fused
from bloomery.generate.vectors import as_read, vectors
from bloomery.losses.contrastive import in_batch
from bloomery.model.adapt import AdaptConfig, adapt, merge, trained_share
from bloomery.model.forest import Forest
from bloomery.model.headed import pooled
from bloomery.model.store import is_model, load_config, load_generation, load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.model.vectors import pooling_in, save_pooling
from bloomery.text.framing import frame_of
from bloomery.text.tokenizer import load_tokenizer
from bloomery.train.objective import Metrics
from bloomery.train.session import TrainingConfig, train

MERGED = ("full", "lora", "ia3")                # ways of adapting that end in plain weights
TOKENS = 64                                     # of a text, where nothing is known of it


class Config(TrainingConfig):
    """Fine-tune on pairs of texts that belong together."""

    model: Annotated[Input, Fixed()] = Field(description="the pretrained encoder or decoder, a Hugging Face folder")
    data: Input = Field(description="query, passage (and negatives); question, context; SQuAD's JSON; or a judged "
                                    "collection, whose texts are learned from")
    validation: Input | None = Field(None, description="held-out pairs or a judged collection (BEIR's files, or "
                                                       "SMART's as Cranfield has them); default: a share of the data")
    held_out: float = Field(0.1, gt=0, lt=1, description="that share; pairs with one passage stay together")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ")
    pooling: Annotated[Literal["auto", "first", "mean", "last"], Fixed()] = Field(
        "auto", description="where a text is read; auto: as the folder says, else an encoder's mean, a decoder's last")
    temperature: float = Field(0.05, gt=0, description="cosines are divided by it; smaller: hard negatives count more")
    symmetric: bool = Field(False, description="queries are looked for by passages too, and the two losses averaged")
    examples: int = Field(32, gt=1, description="pairs of a group, whose passages are each other's negatives")
    groups: int = Field(1, gt=0, description="groups a step")
    negatives: int = Field(1, ge=0, description="hard negatives a pair beside those of the group")
    among: int = Field(20, gt=0, description="drawn from so many that BM25 ranks first, unless rows bring their own")
    longest: int | None = Field(None, gt=2, description="tokens of a text that are read; default: the model's context")
    searched: int = Field(5000, gt=0, description="texts that held-out queries are looked up in at most: theirs first")
    adapt: AdaptConfig = AdaptConfig()


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """The steps, at 64 tokens a text."""
    model = (planned or {}).get(config.model, {}).get("model")
    if model is None and not is_model(Path(config.model)):
        return {}
    model = model or load_config(Path(config.model))
    texts = config.steps * config.groups * config.examples * (2 + config.negatives)
    tokens = texts * min(TOKENS, model.context)
    return {"model": model, "parameters": model.parameters(), "tokens": tokens,
            "flops": tokens * model.flops_per_token(), "memory_gb": 18 * model.parameters() / 1e9 + 1.0,
            "note": f"{TOKENS} tokens a text assumed"}


def run(config: Config, out: Path) -> dict:
    """Train, look up the held-out queries by terms, by vectors and by both, and export."""
    raise_contradictions(config)
    quarantine = Quarantine()
    training, search = gathered(config, quarantine)
    quarantine.write(out)
    folder = Path(config.model)
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    causal = model.config.causal
    frame_of(tokenizer, causal=causal, where=config.model)              # an encoder's has [CLS] and [SEP], or an error
    pooling = pooling_of(config, causal=causal)
    context = min(config.longest or model.config.context, model.config.context)
    room = context if causal else context - 2

    def encode(text: str) -> list[int]:
        ids = tokenizer.encode(text)[:room]
        return as_read(ids or [tokenizer.begin], tokenizer, causal=causal)

    own = lessons(training, encode, build, among=config.among if config.negatives else 0)
    asked, texts = ([encode(text) for text in part] for part in (search.questions, search.texts))
    epoch = config.groups * config.examples / len(training)
    say(f"  embed: {len(training)} pairs of {len(own.ids)} texts, {config.steps * epoch:.1f} epochs; {len(asked)} "
        f"held-out queries are looked up in {len(texts)} texts; pooling = {pooling}")
    adapt(model, config.adapt, seed=config.seed)
    without_head(model)
    terms_found = by_terms(search)

    def looked_up(model: Transformer) -> list[list[int]]:
        with evaluating(model):
            return by_vectors(*(vectors(model, ids, pooling).numpy() for ids in (asked, texts)))

    def validate(model: Transformer) -> Metrics:
        return {f"val_{name}": value for name, value in figures(looked_up(model), search.relevant).items()}

    stream = stream_of(own, size=config.examples, groups=config.groups, negatives=config.negatives, seed=config.seed,
                       causal=causal)
    state = train(model, config, out, name="embed", stream=stream, validate=validate,
                  objective=partial(contrastive, pooling=pooling, temperature=config.temperature,
                                    symmetric=config.symmetric), epoch=epoch)
    learned, share = state.model, trained_share(state.model)
    learned = learned if config.adapt.method == "full" else merge(learned)
    ways = written(search, {"bm25": terms_found, "dense": looked_up(learned)}, out)
    save_model(learned, out, generation=load_generation(folder))
    save_pooling(out, pooling, width=learned.config.width, context=context)
    tokenizer.save(out, context=context)
    return {"pairs": len(training), "held_out_queries": len(asked), "searched": len(texts), "pooling": pooling,
            "quarantined": len(quarantine), "tokens": state.tokens, "trained_share": share, **state.best, **ways}


# --- before -------------------------------------------------------------------------------------------------------

def raise_contradictions(config: Config) -> None:
    """One `ConfigError` for options that exclude each other, before any data is read."""
    if config.adapt.method not in MERGED:
        raise ConfigError(f"vectors are not made with adapt.method = {config.adapt.method}", where="embed.adapt",
                          why="the folder holds plain weights", hint=f"one of {', '.join(MERGED)}")
    if config.sample_every:
        raise ConfigError("what makes vectors writes no samples", where="embed.sample_every", hint="leave it out")
    if max(config.parallel.shard, config.parallel.tensor) > 1:
        raise ConfigError("this model is not split over ranks", where="embed.parallel",
                          hint="leave out shard and tensor: ranks then hold copies, a group each")


def pooling_of(config: Config, *, causal: bool) -> str:
    """Where texts are read. `ConfigError` for a decoder's first token, which has seen nothing but itself."""
    own = pooling_in(Path(config.model)) if config.pooling == "auto" else config.pooling
    found = own or ("last" if causal else "mean")
    if causal and found == "first":
        raise ConfigError("a decoder cannot be read at its first token", where="embed.pooling",
                          why="that token has seen nothing but itself", hint="last, or mean")
    return found


def gathered(config: Config, quarantine: Quarantine) -> tuple[list[Pair], Search]:
    """The pairs to learn from, and the held-out queries with the texts they are looked up in."""
    found = pairs(config.data, quarantine, config.columns)
    if config.validation and is_judged(config.validation):
        judged = open_judged(config.validation, quarantine)
        return found, Search(judged.questions, judged.texts, judged.relevant)
    if config.validation:
        training, held = found, pairs(config.validation, quarantine, config.columns)
    else:
        out = [unit_hash(pair.passage, "held out") < config.held_out for pair in found]
        training, held = ([pair for pair, away in zip(found, out, strict=True) if away is side]
                          for side in (False, True))
    if not training or not held:
        raise InputError("nothing is left to learn from" if not training else "nothing is held out", where=config.data,
                         hint="give more pairs, or another held_out")
    return training, searching(held, [pair.passage for pair in training], config.searched)


def searching(held: Sequence[Pair], others: Sequence[str], limit: int) -> Search:
    """The held-out queries, each once, in their own passages and as many others, by hash, as the limit leaves."""
    place: dict[str, int] = {}
    relevant: dict[str, dict[int, float]] = defaultdict(dict)
    for pair in held:
        relevant[pair.query][place.setdefault(pair.passage, len(place))] = 1.0
    rest = sorted({text for text in others if text not in place}, key=lambda text: unit_hash(text, "searched"))
    return Search([*relevant], [*place, *rest[:max(0, limit - len(place))]], [*relevant.values()])


def without_head(model: Transformer) -> None:
    """What only guesses tokens learns nothing here, and stays as it is; a tied head is the embedding."""
    model.transform.requires_grad_(False)
    if model.head.bias is not None:
        model.head.bias.requires_grad_(False)
    if not model.config.tied:
        model.head.weight.requires_grad_(False)


# --- what is minimised --------------------------------------------------------------------------------------------

def contrastive(model: Transformer, batch: Group, *, pooling: str, temperature: float, symmetric: bool
                ) -> tuple[Tensor, Metrics]:
    """The loss of a group summed over its queries, and how many found their passage first."""
    hidden, right, known = model(batch.ids, batch.positions, Forest(batch.segments)), batch.right, batch.known
    states = normalize(pooled(hidden, batch.segments, pooling).to(torch.promote_types(hidden.dtype, torch.float32)),
                       dim=-1)                                                           # (Q + P, D)
    cosines = states[:len(right)] @ states[len(right):].T                                # (Q, P)
    losses = in_batch(cosines, right, temperature=temperature, known=known)
    if symmetric:
        back = in_batch(cosines[:, right].T, torch.arange(len(right), device=right.device), temperature=temperature,
                        known=known[:, right].T)
        losses = (losses + back) / 2
    best = cosines.argmax(1)
    found = known.gather(1, best[:, None]).sum()
    return losses.sum(), {"loss": float(losses.sum().detach()), "accuracy": float(found)}


# --- after --------------------------------------------------------------------------------------------------------

def written(search: Search, rankings: dict[str, list[list[int]]], out: Path) -> dict[str, float]:
    """Write `predictions.jsonl`, what the vectors are furthest from finding first, and `card.json`; all figures."""
    rankings = rankings | {"hybrid": fused(*rankings.values())}
    found = {way: figures(own, search.relevant) for way, own in rankings.items()}
    lines = []
    for number, (question, right) in enumerate(zip(search.questions, search.relevant, strict=True)):
        places = {way: next((place for place, text in enumerate(own[number], start=1) if text in right), None)
                  for way, own in rankings.items()}
        lines.append({"query": question, **{f"{way}_place": place for way, place in places.items()},
                      "expected": search.texts[max(right, key=right.get)],
                      "found": search.texts[rankings["dense"][number][0]]})
    lines.sort(key=lambda line: line["dense_place"] or np.inf, reverse=True)
    write_jsonl(out / "predictions.jsonl", lines)
    write_atomic(out / "card.json", json.dumps({"task": "embed", **found}, indent=1))
    for way, own in found.items():
        say(f"  {way:8} " + ", ".join(f"{name} {value:.4f}" for name, value in own.items()))
    return {f"{way}_{name}": value for way, own in found.items() for name, value in own.items()}
