"""Vectors about text and what becomes of it: vocabulary, packing, masks, rules, sampling, stopping, matching."""

import json
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bloomery.core.records import Message
from bloomery.curate.heuristics import gopher_quality
from bloomery.data.packing import best_fit_decreasing, concat_chunk
from bloomery.classic.answers import exact_match, normalise, token_f1
from bloomery.generate.decode import complete
from bloomery.generate.sampling import Sampling, filtered, greedy, repetition_penalty, top_p
from bloomery.generate.stopping import StopStrings
from bloomery.model.config import ModelConfig
from bloomery.text.bpe import bpe
from bloomery.text.chat import Renderer
from bloomery.text.closed import characters
from bloomery.text.templates import Template
from bloomery.text.tokenizer import SMALLEST
from tests.vectors.not_built import NotBuilt

ORDER = ["temperature", "top_k", "top_p", "min_p"]


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- vocabulary, packing, masks, curation -------------------------------------------------------------------------

def bpe_train(inputs: dict, folder: Path) -> dict:
    """Every word is a text of its own, as often as it is said to occur."""
    words = [word for word, count in inputs["word_frequencies"].items() for _ in range(count)]
    backend = bpe(words, vocabulary=SMALLEST + inputs["n_merges"]).backend
    return {"merges": json.loads(backend.to_str())["model"]["merges"],
            "encoded": {word: backend.encode(word).tokens for word in inputs["words"]}}


def concat_chunk_vector(inputs: dict, folder: Path) -> dict:
    return {"chunks": concat_chunk(inputs["documents"], inputs["context_length"], inputs["eos_id"],
                                   drop_last=inputs["drop_last"])}


def packing_bfd(inputs: dict, folder: Path) -> dict:
    """What is longer than a bin is cut to it before it is packed."""
    lengths = [min(length, inputs["capacity"]) for length in inputs["lengths"]]
    fill = [sum(lengths[i] for i in group) for group in best_fit_decreasing(lengths, inputs["capacity"])]
    return {"n_bins": len(fill), "fill": fill}


def completion_mask(inputs: dict, folder: Path) -> dict:
    """A template whose assistant has a header of the stated length; letters fill the rest of each segment."""
    if inputs["train_on"] != "assistant tokens including the end-of-turn token, excluding the role header":
        raise NotBuilt(f"a mask that trains {inputs['train_on']}")
    if inputs["end_tokens"] != 1:
        raise NotBuilt("turn-ends of other than one token")
    header, end = inputs["header_tokens"], inputs["end_tokens"]
    turns = dict.fromkeys(("system", "user"), "{content}{eos}")
    template = Template("vector", turns, header="h" * header, end="{eos}")
    messages = tuple(Message(role, "c" * (length - end - header * (role == "assistant")))
                     for role, length in inputs["segments"])
    mask = Renderer(characters(["hc"]), template).conversation(messages).trained
    return {"mask": [int(trained) for trained in mask], "n_loss_tokens": sum(mask)}


def gopher_rules(inputs: dict, folder: Path) -> dict:
    return {"failed_rules": gopher_quality(inputs["text"])}


# --- sampling, stopping, matching ---------------------------------------------------------------------------------

def greedy_vector(inputs: dict, folder: Path) -> dict:
    return {"token": int(greedy(double(inputs["logits"])))}


def sampling_filter(inputs: dict, folder: Path) -> dict:
    if inputs["order"] != ORDER:
        raise NotBuilt(f"filters in the order {', '.join(inputs['order'])}")
    given = {name: inputs[name] for name in ORDER if inputs[name] is not None}
    probabilities = filtered(double(inputs["logits"]), Sampling(**given)).exp()
    return {"kept_token_ids": probabilities.nonzero()[:, 0], "probabilities": probabilities}


def top_p_boundary(inputs: dict, folder: Path) -> dict:
    """Probabilities are exact fractions; a boundary that is hit exactly must stay one in floating point."""
    logits = double([float(Fraction(p)) for p in inputs["probabilities"]]).log()
    return {"kept": top_p(logits, float(Fraction(inputs["top_p"]))).isfinite().nonzero()[:, 0]}


def temperature_example(inputs: dict, folder: Path) -> dict:
    logits = double(inputs["logits"])
    return {"p_B": [filtered(logits, Sampling(temperature=t)).exp()[1] for t in inputs["temperatures"]]}


def repetition_penalty_vector(inputs: dict, folder: Path) -> dict:
    return {"logits": repetition_penalty(double(inputs["logits"]), inputs["seen_token_ids"], inputs["penalty"])}


class Script:
    """A model that says token 0 until it has said `end_at - 1` of them, then token 1, which ends."""

    compute, head = torch.float32, torch.nn.Linear(1, 1)

    def __init__(self, prompt: int, end_at: int | None):
        self.config = ModelConfig(vocabulary=2, context=1024, depth=1, heads=1, kv_heads=1, head_width=2)
        self.last = prompt + end_at - 2 if end_at else None     # the position whose prediction is the end token

    def __call__(self, ids: Tensor, positions: Tensor, memory: object) -> Tensor:
        return positions

    def logits(self, hidden: Tensor) -> Tensor:
        return one_hot((hidden == self.last).long() if self.last else torch.zeros_like(hidden), 2).float()


def max_tokens(inputs: dict, folder: Path) -> dict:
    """The end token counts as generated; the position of the end token is counted from 1."""
    script = Script(inputs["n_prompt"], inputs["eos_at_new_token"])
    done = complete(script, [[0] * inputs["n_prompt"]], ends={1}, max_tokens=inputs["max_new_tokens"])[0]
    return {"n_generated": len(done.ids) + (done.finish == "stop"), "finish_reason": done.finish}


def stop_strings(inputs: dict, folder: Path) -> dict:
    """Pieces are pushed until a stop string is met, else what was held back is flushed at the end."""
    watch, chunks, consumed = StopStrings(inputs["stop_strings"]), [], 0
    while consumed < len(inputs["token_pieces"]) and watch.stopped is None:
        chunks.append(watch.push(inputs["token_pieces"][consumed]))
        consumed += 1
    if watch.stopped is None:
        chunks.append(watch.push("", last=True))
    return {"output_text": "".join(chunks), "stop_string_hit": watch.stopped, "pieces_consumed": consumed,
            "streamed_chunks": chunks}


def squad(inputs: dict, folder: Path) -> dict:
    prediction, gold = inputs["prediction"], inputs["gold_answers"]
    return {"exact_match": exact_match(prediction, gold), "f1": token_f1(prediction, gold),
            "normalized_prediction": normalise(prediction)}


TEXT = {
    "bpe_train": bpe_train, "concat_chunk": concat_chunk_vector, "packing_bfd": packing_bfd,
    "completion_mask": completion_mask, "gopher_quality_rules": gopher_rules, "greedy": greedy_vector,
    "sampling_filter": sampling_filter, "top_p_boundary": top_p_boundary, "temperature_example": temperature_example,
    "repetition_penalty": repetition_penalty_vector, "max_tokens": max_tokens, "stop_strings": stop_strings,
    "squad_f1_em": squad,
}
