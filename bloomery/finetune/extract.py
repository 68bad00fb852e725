"""The qa stage: extractive question answering, two scores for every token: does an answer begin, or end there?

    loss = CE(start) + CE(end) over the places of a window          Devlin et al. 2019, section 4.2

Texts longer than the context are read in windows that overlap; a window without the answer points to its first token,
as does a question without one (Rajpurkar et al. 2018), or is left out (`unanswered`).  Decoding is `spans.py`.  The
folder opens in transformers as `...ForQuestionAnswering`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from bloomery.classic.answers import exact_match, token_f1
from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Fixed, Input
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine, write_jsonl
from bloomery.core.metrics import say
from bloomery.core.records import unit_hash
from bloomery.data.batch import Batch
from bloomery.data.packing import best_fit_decreasing
from bloomery.data.splits import spread_out
from bloomery.data.stream import Stream, samples
from bloomery.finetune.predictions import TASK, evaluating
from bloomery.finetune.questions import Asked, questions
from bloomery.finetune.spans import LONGEST, QUERY, STRIDE, Window, decoded, windows
from bloomery.finetune.yardsticks import answer_lengths, nearest_sentences, random_spans
from bloomery.losses.classification import one_of_group
from bloomery.model.forest import roots
from bloomery.model.headed import Headed, Shape, load_headed, open_headed, save_headed
from bloomery.model.store import is_model, load_config
from bloomery.text.framing import Frame, frame_of
from bloomery.text.tokenizer import load_tokenizer
from bloomery.train.objective import Metrics
from bloomery.train.precision import Precision, choose, placed
from bloomery.train.session import TrainingConfig, train


class Config(TrainingConfig):
    """Fine-tune on questions with answers in a text."""

    model: Annotated[Input, Fixed()] = Field(description="the pretrained encoder or decoder, a Hugging Face folder")
    data: Input = Field(description="question, context, answers; or SQuAD's JSON")
    validation: Input | None = Field(None, description="held-out questions; default: a share of the data's texts")
    held_out: float = Field(0.1, gt=0, lt=1, description="that share; questions about one title stay together")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ")
    stride: int = Field(STRIDE, gt=0, description="tokens between the beginnings of two windows of a text")
    query: int = Field(QUERY, gt=0, description="tokens of a question that are read")
    longest: int = Field(LONGEST, gt=0, description="tokens of an answer at most")
    threshold: float = Field(0.0, description="how much higher no answer must score to be the answer")
    unanswered: Literal["first", "leave_out"] = Field(
        "first", description="a window without the answer points to its first token, or is not trained on")
    examples: int = Field(32, gt=0, description="windows a step")
    micro_tokens: int = Field(8192, gt=0, description="tokens held in memory at once; any value gives the same step")
    validation_questions: int = Field(500, gt=0, description="held-out questions looked at in each validation")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of what is read that the head does not see in training")
    frozen: bool = Field(False, description="the trunk stays as it is: only the head learns")


def forecast(config: Config, planned: dict[str, dict] | None = None) -> dict:
    """The steps, at a full context a window."""
    model = (planned or {}).get(config.model, {}).get("model")
    if model is None and not is_model(Path(config.model)):
        return {}
    model = model or load_config(Path(config.model))
    tokens = config.steps * config.examples * model.context
    return {"model": model, "parameters": model.parameters(), "tokens": tokens,
            "flops": tokens * model.flops_per_token(), "memory_gb": 18 * model.parameters() / 1e9 + 1.0}


# --- windows ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Reading:
    """One question, encoded: windows, where each token of the text stands in it, and the right tokens, if any."""

    asked: Asked
    windows: list[Window]
    offsets: list[tuple[int, int]]
    gold: tuple[int, int] | None

    def text(self, start: int, end: int) -> str:
        """What the text says from token `start` to token `end`."""
        return self.asked.context[self.offsets[start][0]:self.offsets[end][1]] if start >= 0 else ""


def reading(asked: Asked, frame: Frame, context: int, *, stride: int = STRIDE, query: int = QUERY) -> Reading:
    found = frame.tokenizer.backend.encode(asked.context, add_special_tokens=False)
    gold = None
    if asked.answers:
        text, start = asked.answers[0]
        inside = [i for i, (a, b) in enumerate(found.offsets) if b > start and a < start + len(text) and b > a]
        gold = (inside[0], inside[-1]) if inside else None
    made = windows(frame.tokenizer.encode(asked.question), found.ids, frame, context, stride=stride, query=query)
    return Reading(asked, made, found.offsets, gold)


@dataclass(frozen=True)
class SpanBatch(Batch):
    """Windows end to end, and the flat places of their answers; the first token's of a window that has none."""

    owner: Tensor               # (N,) int64 which window
    first: Tensor               # (R,) int64
    last: Tensor                # (R,) int64


Lesson = tuple[Window, int, int]        # a window, and the places in it where the answer begins and ends


def lessons(readings: Sequence[Reading], *, leave_out: bool) -> list[Lesson]:
    """What there is to learn: every window with its answer, or 0 and 0."""
    found = []
    for one in readings:
        for window in one.windows:
            places = tuple(map(window.place, one.gold)) if one.gold else (0, 0)
            places = places if all(places) else (0, 0)          # an answer that is cut is none
            if any(places) or not (leave_out and one.gold):
                found.append((window, *places))
    return found


def span_batch(group: Sequence[Lesson], *, causal: bool, typed: bool) -> SpanBatch:
    lengths = [len(window.ids) for window, _, _ in group]
    segments = roots(lengths, causal=causal)
    start = segments.start[:-1].long()
    ids = torch.tensor([i for window, _, _ in group for i in window.ids])
    types = torch.tensor([i for window, _, _ in group for i in window.types]) if typed else None
    return SpanBatch(ids, ids, torch.zeros(len(ids)), segments.positions, segments, float(len(group)), types=types,
                     owner=torch.arange(len(group)).repeat_interleave(torch.tensor(lengths)),
                     first=start + torch.tensor([first for _, first, _ in group]),
                     last=start + torch.tensor([last for _, _, last in group]))


def packed(group: Sequence[Lesson], micro_tokens: int, make: Callable[[Sequence[Lesson]], SpanBatch]
           ) -> tuple[list[SpanBatch], list[list[int]]]:
    sizes = [len(window.ids) for window, _, _ in group]
    bins = best_fit_decreasing(sizes, max(micro_tokens, *sizes))
    return [make([group[i] for i in own]) for own in bins], bins


def objective(model: Headed, batch: SpanBatch) -> tuple[Tensor, Metrics]:
    """CE(start) + CE(end), summed over windows; transformers' heads take half of it."""
    scores = model.scores(batch.ids, batch.segments, batch.types)                        # (N, 2)
    begin, end = (one_of_group(scores[:, side], batch.owner, right)
                  for side, right in ((0, batch.first), (1, batch.last)))
    loss = (begin + end).sum()
    return loss, {"loss": float(loss.detach()), "start_loss": float(begin.sum().detach()),
                  "end_loss": float(end.sum().detach())}


# --- answers ------------------------------------------------------------------------------------------------------

def answers(model: Headed, readings: Sequence[Reading], *, longest: int, threshold: float,
            micro_tokens: int = 8192) -> list[dict]:
    """What the model answers to every question, "" for no answer, with its score and that of no answer."""
    group = [(window, 0, 0) for one in readings for window in one.windows]
    make = partial(span_batch, causal=model.config.causal, typed=model.config.types > 0)
    scores: list[np.ndarray] = [np.zeros((0, 2))] * len(group)
    with evaluating(model):
        for batch, places in zip(*packed(group, micro_tokens, make), strict=True):
            batch = batch.beside(model)
            found = model.scores(batch.ids, batch.segments, batch.types).double().cpu()
            for place, own in zip(places, found.split([len(group[i][0].ids) for i in places]), strict=True):
                scores[place] = own.numpy()
    waiting, out = iter(scores), []
    for one in readings:
        span = decoded(one.windows, [next(waiting) for _ in one.windows], longest=longest)
        said = "" if span.nothing(threshold) else one.text(span.start, span.end)
        out.append({"prediction": said, "best": one.text(span.start, span.end), "score": round(span.score, 6),
                    "null_score": round(span.null, 6), "start": one.offsets[span.start][0] if said else -1})
    return out


def figures(readings: Sequence[Reading], said: Sequence[dict]) -> dict[str, float]:
    """Exact match and F1 of SQuAD, in all and of questions with and without an answer."""
    rows = [(bool(one.asked.answers), [text for text, _ in one.asked.answers] or [""], own["prediction"])
            for one, own in zip(readings, said, strict=True)]
    found = {}
    for name, own in (("", rows), ("answerable_", [row for row in rows if row[0]]),
                      ("unanswerable_", [row for row in rows if not row[0]])):
        if own and (not name or len(own) < len(rows)):
            found |= {f"{name}exact_match": 100 * float(np.mean([exact_match(text, gold) for _, gold, text in own])),
                      f"{name}f1": 100 * float(np.mean([token_f1(text, gold) for _, gold, text in own]))}
    return found


def yardsticks(training: Sequence[Asked], measured: Sequence[Reading]) -> dict[str, dict[str, float]]:
    """The figures of held-out questions without a network."""
    asked = [one.asked for one in measured]
    ways = {"random_span": random_spans(asked, answer_lengths(training)),
            "nearest_sentence": nearest_sentences(asked)}
    return {name: figures(measured, [{"prediction": text} for text in texts]) for name, texts in ways.items()}


def gathered(config: Config, quarantine: Quarantine) -> tuple[list[Asked], list[Asked]]:
    """Questions to learn from and those held out, by title, or by text where there are no titles."""
    rows = questions(config.data, quarantine, config.columns)
    if config.validation:
        return rows, questions(config.validation, quarantine, config.columns)
    held = {key: unit_hash(key, "held out") < config.held_out for key in {row.title or row.context for row in rows}}
    training, held_out = ([row for row in rows if held[row.title or row.context] is side] for side in (False, True))
    if not training or not held_out:
        raise InputError("nothing is left to learn from" if not training else "nothing is held out", where=config.data,
                         why=f"{len(rows)} questions about {len(held)} titles or texts", hint="another held_out, or "
                                                                                              "give validation")
    return training, held_out


def run(config: Config, out: Path) -> dict:
    """Train, answer the held-out questions, and export."""
    if config.sample_every:
        raise ConfigError("a reader writes no samples", where="qa.sample_every", hint="leave it out")
    quarantine = Quarantine()
    training, held_out = gathered(config, quarantine)
    quarantine.write(out)
    tokenizer, pretrained = load_tokenizer(Path(config.model)), load_config(Path(config.model))
    frame = frame_of(tokenizer, causal=pretrained.causal, where=config.model)
    model = open_headed(Path(config.model), Shape("span", 2), seed=config.seed, pad=frame.pad, dropout=config.dropout)
    model.trunk.requires_grad_(not config.frozen)
    encode = partial(reading, frame=frame, context=model.config.context, stride=config.stride, query=config.query)
    known, measured = [encode(asked) for asked in training], [encode(asked) for asked in held_out]
    taught = lessons(known, leave_out=config.unanswered == "leave_out")
    lost = sum(one.gold is None and bool(one.asked.answers) for one in known)
    say(f"  qa: {len(training)} questions in {len(taught)} windows, {len(held_out)} held out, "
        f"{config.steps * config.examples / len(taught):.1f} epochs; {lost} answers are no tokens")
    make = partial(span_batch, causal=model.config.causal, typed=model.config.types > 0)

    def validate(model: Headed) -> Metrics:
        chosen = spread_out(measured, config.validation_questions)
        said = answers(model, chosen, longest=config.longest, threshold=config.threshold,
                       micro_tokens=config.micro_tokens)
        with evaluating(model):
            batches = packed(lessons(chosen, leave_out=False), config.micro_tokens, make)[0]
            loss = sum(objective(model, b.beside(model))[1]["loss"] for b in batches) / sum(b.count for b in batches)
        return {"val_loss": loss, **{f"val_{name}": value for name, value in figures(chosen, said).items()}}

    def stream(step: int) -> list[SpanBatch]:
        return packed([taught[i] for i in samples(step, config.examples, len(taught), config.seed)],
                      config.micro_tokens, make)[0]

    batches: Stream = stream
    state = train(model, config, out, name="qa", stream=batches, objective=objective, validate=validate,
                  epoch=config.examples / len(taught))
    said = answers(state.model, measured, longest=config.longest, threshold=config.threshold,
                   micro_tokens=config.micro_tokens)
    lines = [{"id": one.asked.id, "question": one.asked.question, "context": one.asked.context,
              "answers": (gold := [text for text, _ in one.asked.answers]), **own,
              "f1": round(token_f1(own["prediction"], gold or [""]), 4)}
             for one, own in zip(measured, said, strict=True)]
    lines.sort(key=lambda line: (line["f1"], -abs(line["score"] - line["null_score"])))      # the surest mistakes first
    write_jsonl(out / "predictions.jsonl", lines)
    found = figures(measured, said)
    beside = yardsticks(training, measured)
    for name, own in ({"reader": found} | beside).items():
        say(f"  qa: {name:17} exact match {own['exact_match']:.1f}, F1 {own['f1']:.1f}")
    write_atomic(out / "card.json", json.dumps({"task": "qa", **found, "beside": beside}, indent=1))
    write_atomic(out / TASK, json.dumps({"task": "qa", **{name: getattr(config, name) for name in
                                                           ("stride", "query", "longest", "threshold")}}, indent=1))
    save_headed(state.model, out, bos=tokenizer.begin if pretrained.causal else None)
    tokenizer.save(out, context=model.config.context)
    return {"questions": len(training), "held_out_questions": len(held_out), "windows": len(taught),
            "answers_lost": lost, "quarantined": len(quarantine), "tokens": state.tokens, **state.best,
            **{f"val_{name}": value for name, value in found.items()},
            **{f"{name}_{figure}": own[figure] for name, own in beside.items() for figure in ("exact_match", "f1")}}


@dataclass(frozen=True)
class Reader:
    """A model that answers questions about texts."""

    model: Headed
    frame: Frame
    stride: int = STRIDE
    query: int = QUERY
    longest: int = LONGEST
    threshold: float = 0.0

    def __call__(self, asked: Sequence[Asked]) -> list[dict]:
        found = [reading(one, self.frame, self.model.config.context, stride=self.stride, query=self.query)
                 for one in asked]
        return answers(self.model, found, longest=self.longest, threshold=self.threshold)


def open_reader(folder: Path, *, precision: Precision = "auto") -> Reader:
    """A qa stage's folder, or any ...ForQuestionAnswering with a tokenizer."""
    folder, model = Path(folder), load_headed(Path(folder), compute=choose(precision)[0]).to(placed())
    told = json.loads((folder / TASK).read_text(encoding="utf-8")) if (folder / TASK).is_file() else {}
    frame = frame_of(load_tokenizer(folder), causal=model.config.causal, where=str(folder))
    return Reader(model, frame, **{name: told[name] for name in ("stride", "query", "longest", "threshold")
                                   if name in told})
