"""Who does the work: engines that map a function over jobs, results in the order of the jobs.

Threads are the default: kernels let go of the interpreter, nothing is pickled and no `__main__` guard is needed.  Ray
(`scale.py`) does the same on a cluster.  An engine holds a few results more than it has workers, never all of them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bloomery.curate.scale import ray_tasks

A, B = TypeVar("A"), TypeVar("B")
Engine = Callable[[Callable[[A], B], Iterable[A], int], Iterator[B]]


def serial(function: Callable[[A], B], jobs: Iterable[A], workers: int) -> Iterator[B]:
    return map(function, jobs)


def threads(function: Callable[[A], B], jobs: Iterable[A], workers: int) -> Iterator[B]:
    """One job a thread; the first error ends the others before their next job."""
    pool, waiting = ThreadPoolExecutor(workers, thread_name_prefix="curate"), deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(function, job))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


ENGINES: dict[str, Engine] = {"serial": serial, "threads": threads, "ray": ray_tasks}
