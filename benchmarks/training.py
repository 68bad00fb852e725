"""One side of a training step: ours, or a Hugging Face Trainer, from the same weights on the same tokens.

    python -m benchmarks.training SIDE SPEC

SPEC is JSON: folder (weights and configuration) or model (our configuration, random weights), rows, tokens, steps,
precision, and for the Trainer tuned and workers.  Every position but a row's last predicts the next token.  A side
imports nothing of the other.
"""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path

from benchmarks.harness import WARMUP
from benchmarks.machine import peak
from benchmarks.trainers import DTYPES, RATE, settings, watched


def rows(spec: dict, vocabulary: int) -> list[list[list[int]]]:
    """Random ids of every step, (steps, B, T): the same numbers on both sides."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (spec["steps"], spec["rows"], spec["tokens"]), generator=generator).tolist()


def answer(spec: dict, ends: list[float], losses: list[float], norms: list[float], **more: object) -> dict:
    """What a side says: tokens a second after the warm-up, and what must be equal."""
    warm = min(WARMUP, len(ends) - 1)
    seconds = (ends[-1] - ends[warm - 1]) / (len(ends) - warm)
    fastest = min(end - start for start, end in pairwise(ends[warm - 1:]))
    tokens = spec["rows"] * spec["tokens"]
    return {"rate": tokens / seconds, "seconds": seconds, "fastest": tokens / fastest, "losses": losses,
            "grad_norms": norms} | more


def ours(spec: dict) -> dict:
    import torch

    from bloomery.data.batch import Batch, rectangle
    from bloomery.model.config import ModelConfig
    from bloomery.model.store import load_model
    from bloomery.model.transformer import Transformer
    from bloomery.train.loop import fit
    from bloomery.train.objective import causal_lm
    from bloomery.train.optim import OptimizerConfig
    from bloomery.train.state import Report, State, fresh

    compute = getattr(torch, DTYPES[spec["precision"]])
    model = (load_model(Path(spec["folder"]), compute=compute) if "folder" in spec
             else Transformer(ModelConfig(**spec["model"]), compute=compute))
    ids = torch.tensor(rows(spec, model.config.vocabulary))

    def stream(step: int) -> list[Batch]:
        full = rectangle(torch.cat([ids[step], ids[step, :, :1]], 1))
        weights = full.weights.view(spec["rows"], -1)
        weights[:, -1] = 0                                      # the Trainer has no target there
        return [Batch(full.ids, full.targets, weights.flatten(), full.positions, full.segments, float(weights.sum()))]

    optimizer = OptimizerConfig(lr=RATE, schedule="constant", warmup=0, weight_decay=0.1, beta2=0.95)
    state = fresh(model, optimizer, steps=spec["steps"])
    ends, losses, norms = [], [], []

    def watch(state: State, report: Report) -> None:
        ends.append(time.perf_counter())
        losses.append(report.metrics["loss"])
        norms.append(report.grad_norm)

    best = peak(DTYPES[spec["precision"]]) if spec.get("peak") else 0.0
    fit(state, stream, causal_lm, (watch,))
    best = max(best, peak(DTYPES[spec["precision"]])) if spec.get("peak") else 0.0
    return answer(spec, ends, losses, norms, peak=best)


def trainer(spec: dict) -> dict:
    import tempfile

    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(spec["folder"], dtype=torch.float32)
    data = [{"input_ids": row, "labels": row} for step in rows(spec, model.config.vocab_size) for row in step]
    recording, watch, seen = watched(Trainer)
    with tempfile.TemporaryDirectory() as folder:
        recording(model=model, args=TrainingArguments(folder, **settings(spec)), train_dataset=data,
                  callbacks=[watch]).train()
    return answer(spec, seen["ends"], seen["losses"], seen["grad_norms"])


SIDES = {"ours": ours, "trainer": trainer}

if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(SIDES[sys.argv[1]](json.loads(sys.argv[2]))) + "\n")
