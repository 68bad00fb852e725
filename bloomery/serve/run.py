"""`bloomery serve`: load the models, look whether answers are reproducible here, listen, and end gracefully.

On Ctrl-C or SIGTERM no new connection is taken; what is being answered gets `shutdown_seconds` to finish.
"""

import gc
import signal
import socket
from contextlib import suppress
from typing import Any

from bloomery.core.config import assign, check, raise_problems, read_assignment
from bloomery.core.errors import BloomeryError, ConfigError
from bloomery.core.metrics import say, shorten
from bloomery.generate.determinism import self_test
from bloomery.generate.engine import Engine
from bloomery.serve.app import create_app
from bloomery.serve.limits import guarded
from bloomery.serve.models import Models, open_models
from bloomery.serve.protocol import Protocol
from bloomery.serve.settings import ServeSettings, read_keys

try:
    import uvicorn
except ImportError as error:
    raise BloomeryError("uvicorn is not installed", why=str(error), hint="pip install 'bloomery[serve]'") from error


def serve(models: list[str], settings: ServeSettings, *, rewards: list[str] = (), tokenizer: str = "") -> None:
    """Serve until told to stop. `models` and `rewards` are `[NAME=]FOLDER` or `[NAME=]hf:org/name` each."""
    read_keys(settings)                     # without keys a public address is refused before any weight is read
    loaded = open_models(models, settings, rewards=rewards, tokenizer=tokenizer)
    signal.signal(signal.SIGTERM, signal.default_int_handler)       # uvicorn raises it again when all is tidied up
    with listening(settings) as place, suppress(KeyboardInterrupt):
        serving = server(prepared(loaded, settings), settings)
        say(f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{place.getsockname()[1]}")
        serving.run(sockets=[place])
    say("stopped")


def settings_of(given: dict[str, Any], assignments: list[str]) -> ServeSettings:
    """Settings from the command line: options of their own, and `key=value` for all others."""
    values = dict(given)
    for text in assignments:
        assign(values, *read_assignment(text), ServeSettings)
    settings, problems = check(ServeSettings, values, locate=lambda keys: "")
    raise_problems(problems, what="the options of serve")
    return settings


def listening(settings: ServeSettings) -> socket.socket:
    """The socket, taken before anything is promised: a port in use is an error with one line."""
    place = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((settings.host, settings.port))
    except OSError as error:
        place.close()
        raise ConfigError("cannot listen there", where=f"{settings.host}:{settings.port}", why=error.strerror or
                          str(error), hint="choose another --port; 0 takes a free one") from error
    return place


def prepared(models: Models, settings: ServeSettings) -> Any:
    """The application behind its limits, its engines tested."""
    reports = {name: self_test(engine) for name, engine in models.engines.items() if isinstance(engine, Engine)}
    for name, served in models.table.items():
        report = reports.get(name)
        promise = "" if report is None else ", same request and seed: same bytes" if report.ok else \
            f", answers may differ in bytes: {report.why}"
        say(f"{name}: {served.kind}, {shorten(served.card()['parameters'])} parameters, {served.context} tokens"
            + promise)
    why = "; ".join(f"{name}: {report.why}" for name, report in reports.items() if not report.ok)
    app = guarded(create_app(models, settings, deterministic=not why, why=why), settings)
    gc.freeze()                             # weights and code are not looked through again: no pause in mid-answer
    return app


def server(app: Any, settings: ServeSettings) -> Any:
    """uvicorn, told what our limits are."""
    return uvicorn.Server(uvicorn.Config(
        app, http=Protocol, ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        h11_max_incomplete_event_size=2 * settings.header_bytes,
        timeout_graceful_shutdown=round(settings.shutdown_seconds)))
