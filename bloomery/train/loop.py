"""The one optimisation step and the one loop around it; they know no algorithm.

    theta <- AdamW(theta, grad of  sum_b loss_b / sum_b count_b)

Each loss is a sum, divided once by the count over all micro-batches of all ranks, so any split of the data into
micro-batches gives the same step.  What is minimised is the objective's business, what happens around a step is the
hooks', how processes share it is `state.ranks`.
"""

import time
from collections.abc import Iterable, Sequence

import torch
from torch.autograd.graph import increment_version

from bloomery.data.batch import Batch
from bloomery.data.stream import Stream
from bloomery.train.hooks import Hook
from bloomery.train.objective import Metrics, Objective
from bloomery.train.state import Report, State


def train_step(state: State, batches: Sequence[Batch], objective: Objective, clip: float | None) -> Report:
    """One optimizer step, exact for any split of the data into micro-batches.

    `batches` are the micro-batches of all ranks in order; a rank looks at its own only, so they may be made when asked
    for; `state.penalty`, which depends on weights alone, is added once.  A loss or gradient that is not finite, or a
    spike, is the guard's business: it raises `FloatingPointError`, or refuses the step, before weights change.
    """
    start, ranks = time.perf_counter(), state.ranks
    share = ranks.share(len(batches))
    own = {i: batches[i] for i in share}
    sizes = ranks.collect([(batch.count, len(batch.ids)) for batch in own.values()])
    count, tokens = sum(size for size, _ in sizes), sum(length for _, length in sizes)
    sums: list[Metrics] = []

    def backward(i: int, *, counted: bool = True) -> None:
        torch.manual_seed(state.step << 16 | i)                # of dropout: the same after a resume, on any rank
        loss, metrics = objective(state.model, (own[i] if i in own else batches[i]).beside(state.model))
        (loss / count if counted else loss * 0).backward()
        sums.extend([metrics] * counted)

    ranks.backward(share, backward, len(batches))
    totals: Metrics = {}
    for metrics in ranks.collect(sums):
        for name, value in metrics.items():
            totals[name] = totals.get(name, 0.0) + value
    means = {name: value / count for name, value in totals.items()}
    if state.penalty:
        means |= state.penalty(state)
    norm, rate = ranks.clip(clip), state.learning_rate()
    refused = state.guard.judge(means["loss"], norm)
    if not refused:
        update(state, rate)
    state.model.zero_grad(set_to_none=True)
    state.step += 1
    state.tokens += tokens
    return Report(means, norm, rate, tokens, time.perf_counter() - start, refused)


def update(state: State, rate: float) -> None:
    """Let the optimizers change the weights."""
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    increment_version(list(state.model.parameters()))          # the fused kernels do not, and shadows rely on it


def fit(state: State, stream: Stream, objective: Objective, hooks: Iterable[Hook] = ()) -> str | None:
    """Train for `state.steps`, or until a hook of any rank gives a reason to stop, which every rank returns."""
    hooks = tuple(hooks)
    with state.team.watched():
        while state.step < state.steps:
            report = train_step(state, stream(state.step), objective, state.settings.clip)
            reasons = [reason for hook in hooks if (reason := hook(state, report))]
            if reason := state.team.first(reasons[0] if reasons else None):
                return reason
    return None
