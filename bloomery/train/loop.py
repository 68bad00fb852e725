"""The one optimisation step and the one loop around it; they know no algorithm.

    theta <- AdamW(theta, grad of  sum_b loss_b / sum_b count_b)

Each loss is a sum, divided once by the count over all micro-batches, so any split of the data into micro-batches gives
the same step.  What is minimised is the objective's business, what happens around a step is the hooks'.
"""

import time
from collections.abc import Iterable

from torch.autograd.graph import increment_version

from bloomery.data.batch import Batch
from bloomery.data.stream import Stream
from bloomery.train.hooks import Hook
from bloomery.train.objective import Metrics, Objective
from bloomery.train.optim import clip_gradients
from bloomery.train.state import Report, State


def train_step(state: State, batches: list[Batch], objective: Objective, clip: float | None) -> Report:
    """One optimizer step, exact for any split of the data into micro-batches.

    Raises `FloatingPointError` on a loss or gradient that is not finite, before weights change.
    """
    start = time.perf_counter()
    count = sum(batch.count for batch in batches)
    totals: Metrics = {}
    for batch in batches:
        loss, metrics = objective(state.model, batch)
        (loss / count).backward()
        for name, value in metrics.items():
            totals[name] = totals.get(name, 0.0) + value
    total = totals["loss"]
    if not abs(total) < float("inf"):
        raise FloatingPointError(f"the loss of step {state.step} is {total}")
    norm = clip_gradients(list(state.model.parameters()), clip)
    rate = state.learning_rate()
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    increment_version(list(state.model.parameters()))          # the fused kernels do not, and shadows rely on it
    tokens = sum(len(batch.ids) for batch in batches)
    state.step += 1
    state.tokens += tokens
    means = {name: value / count for name, value in totals.items()}
    return Report(means, norm, rate, tokens, time.perf_counter() - start)


def fit(state: State, stream: Stream, objective: Objective, hooks: Iterable[Hook] = ()) -> str | None:
    """Train for `state.steps`, or until a hook gives a reason to stop, which is returned."""
    while state.step < state.steps:
        report = train_step(state, stream(state.step), objective, state.settings.clip)
        for hook in hooks:
            if reason := hook(state, report):
                return reason
    return None
