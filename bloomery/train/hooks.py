"""What happens around a step. A hook is `(state, report) -> reason to stop, or None`.

Logging, validation, checkpoints and requests to stop are all hooks, so the loop knows none of them.
"""

import signal
from collections.abc import Callable
from typing import Protocol

from bloomery.core.metrics import MetricLog
from bloomery.train.state import Report, State


class Hook(Protocol):
    def __call__(self, state: State, report: Report) -> str | None: ...


class StopSignal:
    """Remembers SIGTERM and Ctrl-C until somebody asks; a second one leaves at once."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def install(self) -> None:
        """Handle both signals from now on. The handler only sets a flag: saving inside one is not safe."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: object) -> None:
        if self.reason:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.reason = f"{signal.Signals(number).name} received"


stop_signal = StopSignal()


def on_signal(state: State, report: Report) -> str | None:
    """Stop after the step in which the process was asked to."""
    return stop_signal.reason


def log_to(log: MetricLog) -> Hook:
    """One row a step: the objective's metrics, `grad_norm` before clipping, `learning_rate`, speed, tokens so far."""
    def hook(state: State, report: Report) -> None:
        log.log(state.step, **report.metrics, grad_norm=report.grad_norm, learning_rate=report.learning_rate,
                tokens_per_second=report.tokens / report.seconds, num_tokens=state.tokens)

    return hook


def every(steps: int, action: Callable[[State], None]) -> Hook:
    """Do something after every `steps` steps and after the last one."""
    def hook(state: State, report: Report) -> None:
        if state.step % steps == 0 or state.step == state.steps:
            action(state)

    return hook
