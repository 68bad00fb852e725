"""The next steps' batches made in a thread while the current step trains.

A stream is a function of the step, so asking early changes nothing but the time.  On CUDA batches are put into pinned
memory there, so that copying them does not wait.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from torch import Tensor

from bloomery.data.batch import Batch
from bloomery.data.stream import MicroBatches, Stream


class Prefetched:
    """A stream that has the `ahead` steps after the one asked for made, up to step `steps`.

    `own(n)` says which of a step's n micro-batches to build: a rank's own, all by default; the others are built when
    somebody asks.  An exception appears when its step is asked for.  Leave it as a context manager: the thread ends.
    """

    def __init__(self, stream: Stream, *, steps: int, ahead: int = 2, own: Callable[[int], Iterable[int]] = range,
                 pin: bool = False):
        self.stream, self.steps, self.ahead, self.own, self.pin = stream, steps, ahead, own, pin
        self.waiting: dict[int, Future] = {}
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def __enter__(self) -> "Prefetched":
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.shutdown(cancel_futures=True)

    def __call__(self, step: int) -> Sequence[Batch]:
        wanted = [step, *range(step + 1, min(step + self.ahead + 1, self.steps))]
        for other in self.waiting.keys() - set(wanted):
            self.waiting.pop(other).cancel()
        for number in wanted:
            if number not in self.waiting:
                self.waiting[number] = self.thread.submit(self.make, number)
        return self.waiting.pop(step).result()

    def make(self, step: int) -> Sequence[Batch]:
        batches = self.stream(step)
        if self.pin:
            counts = batches.counts if isinstance(batches, MicroBatches) else [batch.count for batch in batches]
            batches = MicroBatches(partial(pinned, batches), counts)
        for index in self.own(len(batches)):
            batches[index]                                      # builds it
        return batches


def pinned(batches: Sequence[Batch], index: int) -> Batch:
    """A micro-batch in page-locked memory."""
    batch = batches[index]
    return replace(batch, **{name: x.pin_memory() for name, x in vars(batch).items() if isinstance(x, Tensor)})
