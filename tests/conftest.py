"""What all tests share: one thread, and no deadlines that a busy machine would miss."""

import os

import pytest
from hypothesis import settings

# Tensors here are tiny. Two threads gain nothing on them, and where cores are shared each waits for the other: a step
# of the smallest model took 180 ms instead of 3. Read by torch when it is imported, and by processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def environment():
    """What a command sets for its own process (`bloomery generate` does) reaches no process of a later test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
