"""A trainer of transformers or TRL as a side: the settings all of them are given, and what is seen of their steps."""

import time
from collections.abc import Callable
from typing import Any

RATE = 1e-4             # learning rate, constant
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def settings(spec: dict) -> dict[str, Any]:
    """What every trainer is told: our optimizer, rows in order, nothing written; `tuned` and `workers` as asked."""
    quiet = {"gradient_checkpointing": False, "optim": "adamw_torch_fused", "logging_strategy": "no",
             "dataloader_num_workers": spec["workers"], "dataloader_persistent_workers": spec["workers"] > 0}
    logged = {"logging_strategy": "steps", "logging_steps": 1} if spec.get("gate") else {}
    return {"per_device_train_batch_size": spec["rows"], "num_train_epochs": 1, "learning_rate": RATE, "seed": 0,
            "lr_scheduler_type": "constant", "weight_decay": 0.1, "adam_beta2": 0.95, "max_grad_norm": 1.0,
            "bf16": spec["precision"] == "bf16", "use_cpu": True, "save_strategy": "no", "report_to": [],
            "disable_tqdm": True, "train_sampling_strategy": "sequential"} | (quiet if spec["tuned"] else {}) | logged


def watched(kind: type, figures: Callable[[Any], dict[str, float]] = lambda trainer: {}) -> tuple[type, Any, dict]:
    """A trainer's class that notes its steps, the callback it needs, and the notes themselves.

    Noted of every step: when it ended, its loss, its gradient norm where it is logged, and `figures` of the trainer.
    """
    from transformers import TrainerCallback

    seen: dict[str, list] = {"ends": [], "losses": [], "grad_norms": [], "figures": []}

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **_):                                # noqa: ANN001
            seen["ends"].append(time.perf_counter())

        def on_log(self, args, state, control, logs=None, **_):                          # noqa: ANN001
            seen["grad_norms"] += [logs["grad_norm"]] if "grad_norm" in logs else []

    class Watched(kind):
        def training_step(self, *given, **named):                                        # noqa: ANN002, ANN003
            loss = super().training_step(*given, **named)
            seen["losses"].append(float(loss))
            seen["figures"].append(figures(self))
            return loss

    return Watched, Watch(), seen
