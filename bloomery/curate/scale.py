"""The same work on Ray: one task a shard descriptor; documents go through files and never through the object store.

A cluster that is running is found by its address (`RAY_ADDRESS`, or the one on this machine), else one is started here
and ended with the process.  All nodes see the input and the output folder under the same paths.  Left out: a shuffle;
steps that need all documents meet in partitioned files, as they do without Ray.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from bloomery.core.errors import BloomeryError
from bloomery.core.metrics import say

A, B = TypeVar("A"), TypeVar("B")


def ray_tasks(function: Callable[[A], B], jobs: Iterable[A], workers: int) -> Iterator[B]:
    """Map a function over jobs as Ray tasks, as many at once as the cluster has CPUs, results in order.

    A task that its machine took with it is tried again: parts are written whole or not at all.
    """
    ray = connect(workers)
    remote, waiting = ray.remote(max_retries=3)(function), deque()
    at_once = 2 * max(int(ray.cluster_resources().get("CPU", 1)), 1)
    for job in jobs:
        waiting.append(remote.remote(job))
        if len(waiting) > at_once:
            yield ray.get(waiting.popleft())
    while waiting:
        yield ray.get(waiting.popleft())


def connect(workers: int) -> object:
    """Ray, connected to the cluster that runs, or to one of `workers` processes started here."""
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")           # nothing is sent anywhere
        import ray
    except ImportError:
        raise BloomeryError("Ray is not installed", hint="pip install 'bloomery[ray]', or engine=threads") from None
    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False, logging_level="error")
            say(f"  ray: {int(ray.cluster_resources().get('CPU', 0))} CPUs of {len(ray.nodes())} nodes")
        except ConnectionError:
            ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False,
                     logging_level="error")
            say(f"  ray: no cluster is running, {workers} processes on this machine")
    return ray
