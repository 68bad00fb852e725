"""Examples of several tasks in one batch: each position knows its task, so that a loss can be told task by task.

Metrics are sums that a step's count divides (`train/objective.py`).  A task's own mean is made of them by a factor that
is known when the step is packed, (count of the step) / (count of the task), whatever its split into micro-batches.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bloomery.data.batch import Batch, Run, forest
from bloomery.data.packing import best_fit_decreasing
from bloomery.data.stream import MicroBatches


@dataclass(frozen=True)
class Example(Run):
    """One rendered conversation; `row` is its number among those that were read."""

    task: str = ""
    row: int = 0


@dataclass(frozen=True)
class TaskBatch(Batch):
    """A batch of examples, and what is told of them beside the loss."""

    task: Tensor                # (N,) int64 which of `scale` a position belongs to
    scale: dict[str, float]     # task -> count of the step / count of the task; empty where there is one task only
    told: dict[str, float]      # figures of this micro-batch, sums as metrics are


def micro_batches(examples: Sequence[Example], capacity: int, *, tasks: bool = True) -> MicroBatches:
    """A step's examples best-fit into micro-batches of at most `capacity` tokens, or one example where it is longer.

    Told are the trained tokens, their share of all, and how full the micro-batches are; with `tasks` also losses.
    """
    lengths = [len(example.ids) for example in examples]
    bins = best_fit_decreasing(lengths, max([capacity, *lengths]))
    sizes = [sum(example.weights) for example in examples]
    counts = [float(sum(sizes[i] for i in group)) for group in bins]
    total, own = sum(counts), Counter()
    for example, size in zip(examples, sizes, strict=True):
        own[example.task] += size
    scale = {name: total / size for name, size in sorted(own.items())} if tasks and len(own) > 1 else {}
    number = {name: index for index, name in enumerate(scale)}

    def build(index: int) -> TaskBatch:
        group = [examples[i] for i in bins[index]]
        batch = forest(group, count=counts[index])
        task = torch.tensor([number.get(example.task, 0) for example in group])
        trained = int((batch.weights != 0).sum())
        told = {"supervised_tokens": trained, "supervised_share": trained / sum(lengths),
                "packing_efficiency": len(batch.ids) / (len(bins) * max([capacity, *lengths]))}
        return TaskBatch(**vars(batch), task=task.repeat_interleave(torch.tensor([len(e.ids) for e in group])),
                         scale=scale, told={name: value * total for name, value in told.items()})

    return MicroBatches(build, counts)
