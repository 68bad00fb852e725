"""What happens around a step. A hook is `(state, report) -> reason to stop, or None`.

Logging, validation, checkpoints and requests to stop are all hooks, so the loop knows none of them.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from bloomery.train.state import Report, State


class Hook(Protocol):
    def __call__(self, state: State, report: Report) -> str | None: ...


class StopSignal:
    """Remembers SIGTERM and Ctrl-C while it is `caught`, until somebody asks; a second one leaves at once."""

    def __init__(self) -> None:
        self.reason: str | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Handle both signals inside, as before again after. A handler only sets a flag: saving in one is not safe."""
        self.reason = None
        in_charge = threading.current_thread() is threading.main_thread()       # no other thread is sent signals
        before = {n: signal.signal(n, self._on_signal) for n in (signal.SIGTERM, signal.SIGINT) if in_charge}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: object) -> None:
        if self.reason:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.reason = f"{signal.Signals(number).name} received"


stop_signal = StopSignal()


def on_signal(state: State, report: Report) -> str | None:
    """Stop after the step in which the process was asked to."""
    return stop_signal.reason


def every(steps: int, action: Callable[[State], None]) -> Hook:
    """Do something after every `steps` steps and after the last one."""
    def hook(state: State, report: Report) -> None:
        if state.step % steps == 0 or state.step == state.steps:
            action(state)

    return hook
