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

RATE = 1e-4             # learning rate after the warm-up, which these few steps never reach the end of
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


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

    settings = OptimizerConfig(lr=RATE, schedule="constant", warmup=0, weight_decay=0.1, beta2=0.95)
    state = fresh(model, settings, steps=spec["steps"])
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
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(spec["folder"], dtype=torch.float32)
    data = [{"input_ids": row, "labels": row} for step in rows(spec, model.config.vocab_size) for row in step]
    ends, losses, norms = [], [], []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **_):                                # noqa: ANN001
            ends.append(time.perf_counter())

        def on_log(self, args, state, control, logs=None, **_):                          # noqa: ANN001
            norms.extend([logs["grad_norm"]] if "grad_norm" in logs else [])

    class Recording(Trainer):
        def training_step(self, *given, **named):                                        # noqa: ANN002, ANN003
            loss = super().training_step(*given, **named)
            losses.append(float(loss))
            return loss

        def get_train_dataloader(self):                                                  # in order, as ours
            self._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(self.train_dataset)
            return super().get_train_dataloader()

    quiet = {"logging_strategy": "no", "gradient_checkpointing": False, "optim": "adamw_torch_fused",
             "dataloader_num_workers": spec["workers"], "dataloader_persistent_workers": spec["workers"] > 0}
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, per_device_train_batch_size=spec["rows"], max_steps=spec["steps"], learning_rate=RATE,
            lr_scheduler_type="constant", weight_decay=0.1, adam_beta2=0.95, max_grad_norm=1.0, use_cpu=True, seed=0,
            bf16=spec["precision"] == "bf16", save_strategy="no", report_to=[], disable_tqdm=True,
            **quiet if spec["tuned"] else {}, **{"logging_steps": 1} if spec.get("gate") else {})
        if spec.get("gate"):
            settings.logging_strategy = "steps"
        Recording(model=model, args=settings, train_dataset=data, callbacks=[Watch()]).train()
    return answer(spec, ends, losses, norms)


SIDES = {"ours": ours, "trainer": trainer}

if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(SIDES[sys.argv[1]](json.loads(sys.argv[2]))) + "\n")
