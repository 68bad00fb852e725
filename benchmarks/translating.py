"""One side of training an encoder-decoder: ours, or transformers' Seq2SeqTrainer with its collator, from one folder.

    python -m benchmarks.translating SIDE SPEC

SPEC is JSON: folder, pairs (a file of [source ids, target ids] in order), prompts and completions (their lengths,
`rows` of them a step), rows, precision, and for the Trainer tuned, workers and grouped.  A source and a target end with
the end token; tokens that count are theirs, never padding.
"""

import json
import sys
from pathlib import Path

from benchmarks.trainers import DTYPES, settings, watched
from benchmarks.tuning import MICRO_TOKENS, answer, order, stepped


def pairs(spec: dict) -> list[tuple[list[int], list[int]]]:
    """Sources and targets, as many as there are lengths: the same on both sides."""
    return json.loads(Path(spec["pairs"]).read_text(encoding="utf-8"))[:len(spec["prompts"])]


def ours(spec: dict) -> dict:
    import torch

    from bloomery.data.parallel import Pair, pair_batches
    from bloomery.data.stream import MicroBatches
    from bloomery.model.seq2seq_files import load_seq2seq
    from bloomery.train.objective import causal_lm

    model = load_seq2seq(Path(spec["folder"]), compute=getattr(torch, DTYPES[spec["precision"]]))
    found, steps = [Pair(*pair) for pair in pairs(spec)], order(spec)

    def stream(step: int) -> MicroBatches:
        return pair_batches([found[i] for i in steps[step]], model.config.start_id, MICRO_TOKENS)

    return stepped(spec, model, stream, causal_lm, steps=len(steps))


def trainer(spec: dict) -> dict:
    import tempfile

    import torch
    from tokenizers import Tokenizer, models
    from transformers import (
        DataCollatorForSeq2Seq,
        PreTrainedTokenizerFast,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        T5ForConditionalGeneration,
    )

    model = T5ForConditionalGeneration.from_pretrained(spec["folder"], dtype=torch.float32)
    found = pairs(spec)
    rows = [{"input_ids": found[i][0], "labels": found[i][1]} for step in order(spec) for i in step]
    blank = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0}, "<pad>")),
                                    pad_token="<pad>", eos_token="<pad>")         # ids are given; it knows the padding
    recording, watch, seen = watched(Seq2SeqTrainer)
    with tempfile.TemporaryDirectory() as folder:
        recording(model=model, args=Seq2SeqTrainingArguments(folder, remove_unused_columns=False, **settings(spec)),
                  train_dataset=rows, data_collator=DataCollatorForSeq2Seq(blank, model=model),
                  callbacks=[watch]).train()
    return answer(spec, seen["ends"], seen["losses"], seen["grad_norms"])


SIDES = {"ours": ours, "trainer": trainer}

if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(SIDES[sys.argv[1]](json.loads(sys.argv[2]))) + "\n")
