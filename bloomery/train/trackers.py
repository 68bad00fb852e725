"""The same rows in the tools people look at runs with: TensorBoard, Weights & Biases, Trackio.

A tracker listens to the metric log.  Everything stays on this machine unless the environment says otherwise
(`WANDB_MODE=online`); one that fails is counted and never in the way of training.

After a resume some steps are trained again.  TensorBoard is told to forget them; the other two refuse or double a step
they have seen, so each start is a run of its own, in one group (wandb issue 4482).
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bloomery.core.errors import BloomeryError
from bloomery.core.metrics import say

TrackerName = Literal["tensorboard", "wandb", "trackio"]


@dataclass(frozen=True)
class Start:
    """What a tracker is opened with: one start of a run, at step 0 or after a resume."""

    folder: Path
    name: str
    config: dict
    step: int = 0

    @property
    def title(self) -> str:
        return f"{self.name} from step {self.step}" if self.step else self.name


@dataclass(frozen=True)
class Tracker:
    """An open tracker: what takes a row of numbers, and what ends it."""

    log: Callable[[int, dict[str, float]], object]
    close: Callable[[], object]


class Trackers:
    """Those that were asked for, as a context and as one listener of a metric log.

    Raises `BloomeryError` when one is not installed: that is found before the first step, not missed after the last.
    """

    def __init__(self, names: tuple[TrackerName, ...], start: Start):
        self.open: dict[str, Tracker] = {}
        self.failures: dict[str, int] = {}
        for name in names:
            try:
                with redirect_stdout(sys.stderr):           # they greet and say goodbye; stdout is the result
                    self.open[name] = TRACKERS[name](start)
            except BloomeryError:
                raise
            except Exception as error:
                self.failed(name, error)

    def __call__(self, step: int, values: dict[str, float | str]) -> None:
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        for name, tracker in self.open.items():
            try:
                tracker.log(step, numbers)
            except Exception as error:                      # somebody else's program: it may raise anything
                self.failed(name, error)

    def failed(self, name: str, error: Exception) -> None:
        self.failures[name] = self.failures.get(name, 0) + 1
        if self.failures[name] == 1:
            say(f"  warning: {name} failed ({type(error).__name__}: {error}); training goes on, metrics.jsonl has "
                "every row")

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *_: object) -> None:
        for name, tracker in self.open.items():
            try:
                with redirect_stdout(sys.stderr):
                    tracker.close()
            except Exception as error:
                self.failed(name, error)
        for name, count in self.failures.items():
            say(f"  warning: {name} failed {count} time{'s' if count > 1 else ''} in all")


@contextmanager
def installed(name: str) -> Iterator[None]:
    """Around an import: what to do where the package is missing."""
    try:
        yield
    except ImportError as error:
        raise BloomeryError(f"{name} is not installed", where="track", why=str(error),
                            hint=f"pip install {name}, or pip install 'bloomery[track]' for all trackers") from error


def tensorboard(start: Start) -> Tracker:
    with installed("tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    folder = os.environ.get("TENSORBOARD_LOGGING_DIR") or start.folder / "tensorboard"
    writer = SummaryWriter(str(folder), purge_step=start.step + 1 if start.step else None)

    def log(step: int, numbers: dict[str, float]) -> None:
        for key, value in numbers.items():
            writer.add_scalar(key, value, step)

    return Tracker(log, writer.close)


def wandb(start: Start) -> Tracker:
    with installed("wandb"):
        import wandb
    run = wandb.init(project=os.environ.get("WANDB_PROJECT", "bloomery"), name=start.title, group=start.name,
                     dir=str(start.folder), config=start.config, mode=os.environ.get("WANDB_MODE", "offline"))
    return Tracker(lambda step, numbers: run.log(numbers, step=step), run.finish)


def trackio(start: Start) -> Tracker:
    with installed("trackio"):
        import trackio
    run = trackio.init(project=os.environ.get("TRACKIO_PROJECT", "bloomery"), name=start.title, group=start.name,
                       config=start.config, resume="never")
    return Tracker(lambda step, numbers: run.log(numbers, step=step), run.finish)


TRACKERS: dict[str, Callable[[Start], Tracker]] = {"tensorboard": tensorboard, "wandb": wandb, "trackio": trackio}
