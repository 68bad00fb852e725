"""What all tests share: one thread, and no deadlines that a busy machine would miss."""

import os
import signal

import pytest
from hypothesis import settings

import bloomery  # noqa: F401                       sets how threads wait

# Tensors here are tiny. Two threads gain nothing on them, and where cores are shared each waits for the other: a step
# of the smallest model took 180 ms instead of 3. Read by torch when it is imported, and by processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

pytest_plugins = ["tests.browsing"]

LOADED = ("MKL_CBWR", "GOMP_SPINCOUNT")             # read when torch is loaded; commands that decode set them
AT_FIRST = {name: os.environ.get(name) for name in LOADED}


@pytest.fixture(autouse=True)
def loaded_alike():
    """What a command sets for its own process, in a fixture even, reaches no process of a later test."""
    yield
    for name, value in AT_FIRST.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@pytest.fixture
def handlers():
    """A stage puts in signal handlers of its own; the test process gets its own back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
