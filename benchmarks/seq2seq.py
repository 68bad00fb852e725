"""Case `seq2seq`: training an encoder-decoder against transformers' Seq2SeqTrainer, 128 translations a step, bf16.

T5 v1.1 of width 512, 6 layers in either stack, 8,000 ids of their own on both ends; English captions of Multi30k and
their German ones, in the order of the file, with the lengths that they have.  Both sides start from the same exported
folder, without dropout, and read the same ids in the same order.  Gate: losses and gradient norms of 8 steps agree in
fp32, and in bf16 we are no further from the fp32 losses of 24 steps than the Trainer, a quarter to spare.  The tuned
peer has fused AdamW, nothing logged, and the fastest of 0 or 1 loader processes and of pairs as they come or grouped by
length; `default` is the Trainer as it comes, but in bf16.

    floor = sum over pairs of 6 N_encoder S + 6 N_decoder T + 6 D V T + 12 H E (L_e S^2 + L_d S T + L_d T^2 / 2)  FLOPs

where S and T are lengths of ours, and for the peer the longest of their batch.  Keys and values that a decoder reads
are made once a source token, and count among N_encoder.
"""

import gzip
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Options, Row, compared, equal_steps, first_failure, fresh, low_precision, turns
from benchmarks.machine import peak
from benchmarks.tuning import order, timed
from bloomery.model.seq2seq import EncoderDecoder, Seq2SeqConfig
from bloomery.model.seq2seq_files import save_seq2seq
from bloomery.model.seq2seq_presets import t5
from bloomery.text.tokenizer import Tokenizer, train_tokenizer

GATE, GATE_BF16 = 8, 24                 # steps
MULTI30K, SIDES = "multi30k", ("en", "de")
Pairs = list[tuple[list[int], list[int]]]


def shape(tokenizer: Tokenizer, *, quick: bool) -> Seq2SeqConfig:
    made = t5(2, 64, 2, 128, v11=True, head_width=32) if quick else t5(6, 512, 8, 1024, v11=True)
    return made.model_copy(update={"vocabulary": tokenizer.size, "start_id": tokenizer.begin, "dropout": 0.0})


def captions(data: Path, *, vocabulary: int) -> tuple[Tokenizer, Pairs]:
    """All training pairs as ids, each side with its end, and the tokenizer learned from them."""
    texts = [gzip.decompress((data / MULTI30K / f"train.{side}.gz").read_bytes()).decode().splitlines()
             for side in SIDES]
    tokenizer = train_tokenizer((text for side in texts for text in side), vocabulary=vocabulary)
    sources, targets = ([[*ids, tokenizer.eos] for ids in tokenizer.encode_batch(side)] for side in texts)
    return tokenizer, list(zip(sources, targets, strict=True))


def export(config: Seq2SeqConfig, folder: Path, *, eos: int) -> Path:
    """A folder both sides read, in fp32; the first weights of a T5 are loud enough for a gate."""
    save_seq2seq(EncoderDecoder(config, seed=0), folder, eos=eos)
    return folder


def work(pairs: Pairs, *, steps: int, rows: int) -> dict:
    """Lengths of the first pairs, so many steps of them."""
    first = pairs[:steps * rows]
    return {"prompts": [len(source) for source, _ in first], "completions": [len(target) for _, target in first],
            "rows": rows}


def lengths(spec: dict, step: list[int], *, padded: bool) -> tuple[list[int], list[int]]:
    """Of sources and of targets of one step, as they are or as the longest of either."""
    sizes = [spec["prompts"][i] for i in step], [spec["completions"][i] for i in step]
    return tuple([max(side)] * len(side) for side in sizes) if padded else sizes


def floor(config: Seq2SeqConfig, spec: dict, *, padded: bool) -> float:
    """FLOPs a useful token that cannot be left out."""
    head, read = config.vocabulary * config.width, 2 * config.width * config.kv_heads * config.head_width
    encoder, decoder = (config.stack(depth).parameters() - head for depth in (config.encoder_depth, config.depth))
    encoder, decoder = encoder + config.depth * read, decoder + config.depth * (config.cross() - read)
    total, counted = 0.0, 0
    for step in timed(spec):
        counted += sum(map(sum, lengths(spec, step, padded=False)))
        sources, targets = lengths(spec, step, padded=padded)
        total += 6 * encoder * sum(sources) + 6 * (decoder + head) * sum(targets)
        scores = sum(config.encoder_depth * s**2 + config.depth * (s * t + t**2 / 2)
                     for s, t in zip(sources, targets, strict=True))
        total += 12 * config.heads * config.head_width * scores
    return total / counted


def useful(spec: dict) -> float:
    """The share of the Trainer's padded tokens, of both sides, that are no padding."""
    both = [[sum(map(sum, lengths(spec, step, padded=padded))) for step in order(spec)] for padded in (False, True)]
    return sum(both[0]) / sum(both[1])


def run(options: Options) -> Iterator[Row]:
    names, quick = ("seq2seq", "seq2seq, default"), options.quick
    if not (options.data / MULTI30K).is_dir():
        yield from (Row(name, f"not run: no {MULTI30K} in {options.data}") for name in names)
        return
    tokenizer, pairs = captions(options.data, vocabulary=1000 if quick else 8000)
    config = shape(tokenizer, quick=quick)
    with tempfile.TemporaryDirectory() as place:
        listed = Path(place) / "pairs.json"
        folder = export(config, Path(place) / "model", eos=tokenizer.eos)
        common = {"folder": str(folder), "pairs": str(listed), "precision": "bf16", "tuned": True, "workers": 0,
                  "grouped": False}

        def side(which: str, **more: object) -> dict:
            return fresh(options, "translating", which, json.dumps(common | more), peer=which != "ours")

        spec = work(pairs, steps=5 if quick else 13, rows=4 if quick else 128)
        few, many = (work(pairs, steps=steps, rows=4) for steps in (3 if quick else GATE, GATE_BF16))
        listed.write_text(json.dumps(pairs[:max(len(own["prompts"]) for own in (spec, few, many))]), encoding="utf-8")
        reference = side("trainer", precision="fp32", gate=True, **few)
        if "not_run" in reference:
            yield from (Row(name, f"not run: {reference['not_run']}") for name in names)
            return
        verdict = first_failure(equal_steps(side("ours", precision="fp32", **few), reference), low_precision(
            side("ours", **many), side("trainer", **many), side("trainer", precision="fp32", **many)))
        tried = [{"workers": count, "grouped": grouped} for grouped in (False, True) for count in (0, 1)]
        best = max(tried[:1] if quick else tried, key=lambda chosen: side("trainer", **spec | chosen)["rate"])
        flops, least = peak("bfloat16"), floor(config, spec, padded=False)
        for name, chosen in zip(names, (best, {"tuned": False}), strict=True):
            measured = turns(lambda: side("ours", **spec), lambda c=chosen: side("trainer", **spec | c), options.pairs)
            theirs = floor(config, spec | chosen, padded=True)
            mfu = [needed * statistics.median(each["rate"] for each in sides) / flops
                   for needed, sides in zip((least, theirs), zip(*measured, strict=True), strict=True)]
            yield compared(name, measured, gate=verdict, key="rate", unit="tokens/s", floor=theirs / least,
                           peer_mfu=mfu[1], details={
                               "mfu_ours": round(mfu[0], 3), "mfu_peer": round(mfu[1], 3), "trainer": chosen,
                               "useful share of the peer's tokens": round(useful(spec | chosen), 3)})
