"""One side of masked language modelling: ours, or a Hugging Face Trainer with its collator, from the same weights.

    python -m benchmarks.masking SIDE SPEC

SPEC is JSON: folder, lengths (`rows` of them a step), rows, precision, and for the Trainer tuned, workers and grouped.
Texts are random ids between [CLS] and [SEP].  Each side draws its masks as it does for people, 15 % of the tokens; with
`given` both read the same ones.  Tokens that count are a text's, never padding.
"""

import json
import sys
from pathlib import Path

from benchmarks.trainers import DTYPES, settings, watched
from benchmarks.tuning import answer, order, stepped

PAD, CLS, SEP, MASK, UNKNOWN = range(5)
NAMES = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "unk_token": "[UNK]"}
MICRO_TOKENS = 8192     # of our flat micro-batches
SHARE, HIDDEN, OTHER = 0.15, 0.8, 0.1


def texts(spec: dict, vocabulary: int) -> list[list[int]]:
    """Random ids of every text, [CLS] and [SEP] among its length: the same on both sides."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return [[CLS, *torch.randint(UNKNOWN + 1, vocabulary, (length - 2,), generator=generator).tolist(), SEP]
            for length in spec["prompts"]]


def given(ids: list[int], number: int, vocabulary: int) -> tuple[list[int], list[bool]]:
    """What is read of a text and what is to be guessed, drawn by its number; one token at least."""
    import torch

    generator = torch.Generator().manual_seed(number + 1)
    chosen, how = torch.rand(2, len(ids), generator=generator).tolist()
    others = torch.randint(UNKNOWN + 1, vocabulary, (len(ids),), generator=generator).tolist()
    hidden = [i == 1 or (0 < i < len(ids) - 1 and draw < SHARE) for i, draw in enumerate(chosen)]
    read = [token if not hide or draw >= HIDDEN + OTHER else MASK if draw < HIDDEN else other
            for token, hide, draw, other in zip(ids, hidden, how, others, strict=True)]
    return read, hidden


def ours(spec: dict) -> dict:
    import numpy as np
    import torch

    from bloomery.data.batch import Batch
    from bloomery.data.packing import best_fit_decreasing
    from bloomery.model.forest import roots
    from bloomery.model.store import load_model
    from bloomery.pretrain.masking import Masker, MaskingConfig
    from bloomery.train.objective import causal_lm

    model = load_model(Path(spec["folder"]), compute=getattr(torch, DTYPES[spec["precision"]]))
    size = model.config.vocabulary
    found, steps = [np.array(ids) for ids in texts(spec, size)], order(spec)
    masker = Masker(MaskingConfig(selection="bernoulli", rate=SHARE), MASK, np.arange(size) > UNKNOWN,
                    np.ones(size, bool), np.arange(UNKNOWN + 1, size))

    def masked(number: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        if not spec.get("given"):
            return masker(found[number], number, step)
        read, hidden = given(found[number].tolist(), number, size)
        return np.array(read), np.flatnonzero(hidden)

    def batch(group: list[int], step: int) -> Batch:
        lengths, read, weights = [len(found[i]) for i in group], [], []
        for ids, hidden in (masked(i, step) for i in group):
            read.append(ids)
            weights.append(np.zeros(len(ids), np.float32))
            weights[-1][hidden] = 1.0
        segments, weight = roots(lengths, causal=False), torch.from_numpy(np.concatenate(weights))
        ids, right = (torch.from_numpy(np.concatenate(each)) for each in (read, [found[i] for i in group]))
        return Batch(ids, right, weight, segments.positions, segments, float(weight.sum()))

    def stream(step: int) -> list[Batch]:
        lengths = [len(found[i]) for i in steps[step]]
        bins = best_fit_decreasing(lengths, max(MICRO_TOKENS, *lengths))
        return [batch([steps[step][i] for i in group], step) for group in bins]

    return stepped(spec, model, stream, causal_lm, steps=len(steps))


def trainer(spec: dict) -> dict:
    import tempfile

    import torch
    from tokenizers import Tokenizer, models
    from transformers import (
        AutoModelForMaskedLM,
        DataCollatorForLanguageModeling,
        PreTrainedTokenizerFast,
        Trainer,
        TrainingArguments,
    )

    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = AutoModelForMaskedLM.from_pretrained(spec["folder"], dtype=torch.float32, **still)
    size = model.config.vocab_size
    words = [*NAMES.values(), *(f"w{i}" for i in range(UNKNOWN + 1, size))]
    blank = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(
        {word: i for i, word in enumerate(words)}, "[UNK]")), **NAMES)
    found = texts(spec, size)
    rows = [{"input_ids": found[i], "special_tokens_mask": [1, *[0] * (len(found[i]) - 2), 1], "number": i}
            for step in order(spec) for i in step]
    draws = DataCollatorForLanguageModeling(blank, mlm_probability=SHARE)

    def fixed(rows: list[dict]) -> dict:
        masked = [(row["input_ids"], *given(row["input_ids"], row["number"], size)) for row in rows]
        filled = blank.pad([{"input_ids": read} for _, read, _ in masked], return_tensors="pt")
        labels = torch.full_like(filled["input_ids"], -100)
        for row, (ids, _, hidden) in enumerate(masked):
            labels[row, :len(ids)] = torch.where(torch.tensor(hidden), torch.tensor(ids), -100)
        return dict(filled) | {"labels": labels}

    rows = rows if spec.get("given") else [{name: row[name] for name in ("input_ids", "special_tokens_mask")}
                                           for row in rows]
    recording, watch, seen = watched(Trainer)
    with tempfile.TemporaryDirectory() as folder:
        recording(model=model, args=TrainingArguments(folder, remove_unused_columns=False, **settings(spec)),
                  train_dataset=rows, data_collator=fixed if spec.get("given") else draws, callbacks=[watch]).train()
    return answer(spec, seen["ends"], seen["losses"], seen["grad_norms"])


SIDES = {"ours": ours, "trainer": trainer}

if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(SIDES[sys.argv[1]](json.loads(sys.argv[2]))) + "\n")
