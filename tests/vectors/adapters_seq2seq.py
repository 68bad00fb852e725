"""Vectors of networks that read a source: span corruption, UL2, T5 checkpoints, attention of recurrent networks."""

from pathlib import Path

import torch

from bloomery.data.parallel import Pair, pair_batch
from bloomery.generate.seq2seq import beamed, written
from bloomery.losses.token import IGNORE, token_nll
from bloomery.model.forest import Forest
from bloomery.model.rnn import additive_scores, attended
from bloomery.model.seq2seq import Split
from bloomery.model.seq2seq_files import load_seq2seq
from bloomery.pretrain.spans import corrupt, noise_counts, raw_length
from bloomery.pretrain.ul2 import MIXTURE, MODES, RELEASED, prefix_split


def span_corruption(inputs: dict, folder: Path) -> dict:
    first, step = inputs["first_sentinel_id"], 1 if inputs.get("sentinel_order", "").startswith("increasing") else -1
    count = len(inputs["token_ids"]) + 1
    made = corrupt(inputs["token_ids"], inputs["noise_mask"], [first + step * i for i in range(count)],
                   inputs.get("eos_id"))
    return dict(zip(("inputs", "targets"), made, strict=True))


def span_corruption_text(inputs: dict, folder: Path) -> dict:
    return dict(zip(("inputs", "targets"), corrupt(inputs["words"], inputs["noise_mask"], inputs["sentinels"]),
                    strict=True))


def span_corruption_counts(inputs: dict, folder: Path) -> dict:
    noise, spans = noise_counts(inputs["length"], inputs["noise_density"], inputs["mean_noise_span_length"])
    return {"num_noise_tokens": noise, "num_noise_spans": spans}


def span_corruption_lengths(inputs: dict, folder: Path) -> dict:
    tokens, targets = raw_length(inputs["inputs_length"], inputs["noise_density"], inputs["mean_noise_span_length"],
                                 extra_inputs=inputs["extra_tokens_per_span_inputs"],
                                 extra_targets=inputs["extra_tokens_per_span_targets"])
    return {"tokens_length": tokens, "targets_length": targets}


def ul2_denoisers(inputs: dict, folder: Path) -> dict:
    found = {mode: [[each.span or "prefix-LM", each.density] for each in MIXTURE if each.mode == mode]
             for mode in MODES}
    return found | {"mode_tokens_paper": list(MODES.values()), "mode_tokens_released_checkpoint": RELEASED}


def prefix_lm_split(inputs: dict, folder: Path) -> dict:
    made = prefix_split(inputs["token_ids"], inputs["split_at"], mode=inputs.get("mode_token_id"),
                        sentinel=inputs["sentinel_id"], end=inputs.get("eos_id"))
    return dict(zip(("inputs", "targets"), made, strict=True))


def bahdanau_attention(inputs: dict, folder: Path) -> dict:
    h, s, w, u, v = (torch.tensor(inputs[name], dtype=torch.float64) for name in ("h", "s_prev", "W", "U", "v"))
    scores = additive_scores((w @ s)[None], (h @ u.T)[None], v)
    hidden = inputs.get("mask_1_is_real")
    context, weights = attended(scores, h[None], None if hidden is None else ~torch.tensor(hidden).bool()[None])
    return {"scores": scores[0], "weights": weights[0], "context": context[0]}


@torch.no_grad()
def hf_import_t5(inputs: dict, folder: Path) -> dict:
    """Padding is taken off, every row is a source and its target, and what stood for padding is computed apart."""
    model = load_seq2seq(folder / inputs["checkpoint"], compute=torch.float64, dtype=torch.float64)
    start = model.config.start_id
    real = [sum(row) for row in inputs["attention_mask"]]
    sources = [row[:count] for row, count in zip(inputs["input_ids"], real, strict=True)]
    labels = torch.tensor(inputs["labels"])
    filled = labels.masked_fill(labels == IGNORE, start).tolist()
    batch = pair_batch([Pair(source, target) for source, target in zip(sources, filled, strict=True)], start)
    hidden = model(batch.ids, batch.positions, Forest(batch.segments))
    is_target = Split(batch.segments).is_target
    logits = model.logits(hidden[is_target]).unflatten(0, labels.shape)
    kept = labels != IGNORE
    encoded = torch.zeros(len(inputs["input_ids"][0]), model.config.width, dtype=torch.float64)
    encoded[:real[0]] = hidden[:real[0]]
    found = {"logits": logits, "loss": token_nll(logits[kept], labels[kept]).mean(),
             "decoder_input_ids": batch.ids[is_target].view(labels.shape), "encoder_last_hidden_state_row0": encoded,
             "n_parameters": model.config.parameters()}
    for name, beams in (("greedy", 1), ("beam", inputs.get("num_beams", 4))):
        if limit := inputs.get("max_new_tokens"):
            ends = {inputs.get("eos_token_id", 1)}
            found[name] = written(model, sources, ends=ends, max_tokens=limit) if beams == 1 else \
                [best[0].ids for best in beamed(model, sources, ends=ends, max_tokens=limit, beams=beams)]
    return found


SEQ2SEQ = {
    "span_corruption": span_corruption, "span_corruption_text": span_corruption_text,
    "span_corruption_counts": span_corruption_counts, "span_corruption_lengths": span_corruption_lengths,
    "ul2_denoisers": ul2_denoisers, "prefix_lm_split": prefix_lm_split, "bahdanau_attention": bahdanau_attention,
    "hf_import_t5": hf_import_t5,
}
