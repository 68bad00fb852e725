"""What happens around a step. A hook is `(state, report) -> reason to stop, or None`.

Logging, validation, checkpoints and requests to stop are all hooks, so the loop knows none of them.
"""

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

from pydantic import Field

from bloomery.core.config import Settings
from bloomery.core.errors import ConfigError
from bloomery.train.state import Report, State

BEST_STEP, WAITED = "best_step", "validations_since_best"


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


class EarlyStopping(Settings):
    """End training when validations stop getting better; what is exported is the best of them.

    Everything it knows is in `state.best`, so in every checkpoint: a resumed run ends where an undisturbed one does.
    """

    metric: str = Field("val_loss", description="what validations are judged by")
    mode: Literal["min", "max"] = Field("min", description="whether less or more of it is better")
    patience: int = Field(3, gt=0, description="validations in a row without a better one after which training ends")
    min_delta: float = Field(0.0, ge=0, description="a better one is better by more than this")

    def judged(self, best: dict[str, float], step: int) -> dict[str, float]:
        """What is remembered after the validation at `step`: the best value, its step, how many came after it."""
        if self.metric not in best:
            raise ConfigError("early stopping has nothing to go by", where="early_stopping.metric",
                              why=f"{self.metric} is not measured, only {', '.join(best) or 'nothing'}",
                              hint="give validation data, or name another metric")
        value, kept = best[self.metric], best.get(f"best_{self.metric}")
        gain = math.inf if kept is None or math.isnan(kept) else (kept - value) * (1 if self.mode == "min" else -1)
        if gain > self.min_delta:                               # never of a nan
            return {f"best_{self.metric}": value, BEST_STEP: step, WAITED: 0}
        return {WAITED: best[WAITED] + 1}

    def enough(self, best: dict[str, float]) -> str | None:
        """Why training should end, or None."""
        if best.get(WAITED, 0) < self.patience:
            return None
        return f"no {self.metric} better than {best[f'best_{self.metric}']:.4g}, of step {best[BEST_STEP]}, in " \
               f"{best[WAITED]} validations"

    def __call__(self, state: State, report: Report) -> str | None:
        return self.enough(state.best)


def every(steps: int, action: Callable[[State], None]) -> Hook:
    """Do something after every `steps` steps and after the last one."""
    def hook(state: State, report: Report) -> None:
        if state.step % steps == 0 or state.step == state.steps:
            action(state)

    return hook
