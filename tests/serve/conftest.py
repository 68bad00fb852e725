"""Live servers for every test of serving; how they are made is `live_server.py`."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from live_server import SETTINGS, Running, make_folder, running

from bloomery.serve.models import open_models
from bloomery.serve.settings import ServeSettings


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A tiny chat model."""
    return make_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory) -> Path:
    """A tiny base model: it continues text."""
    return make_folder(tmp_path_factory.mktemp("models") / "base", chat=False, seed=1)


@pytest.fixture(scope="session")
def server(tiny_folder, base_folder) -> Iterator[Running]:
    """`tiny` chats, `base` continues text; eight slots, fp32."""
    settings = ServeSettings(**SETTINGS)
    with running(open_models([str(tiny_folder), str(base_folder)], settings), settings) as found:
        yield found


@pytest.fixture(scope="session")
def serving(tiny_folder, base_folder) -> Callable:
    """`with serving(pace=0.01, slots=1) as live`: a server with other settings, `pace` seconds a step at least."""
    @contextmanager
    def serve(*, pace: float = 0.0, **changes) -> Iterator[Running]:
        settings = ServeSettings(**{**SETTINGS, **changes})
        models = open_models([str(tiny_folder), str(base_folder)], settings)
        for engine in models.engines.values():
            engine.step = partial(paced, engine.step, pace)
        with running(models, settings) as found:
            yield found

    return serve


def paced(step: Callable, pace: float) -> object:
    time.sleep(pace)
    return step()
