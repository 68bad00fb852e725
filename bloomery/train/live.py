"""What a person sees of a run while it works: speed, share of the machine's peak, memory, time left, last numbers.

    MFU = tokens a second x training FLOPs a token / FLOP a second of a plain matrix product here
                                                                        Chowdhery et al. 2022, appendix B

`Meter` is the hook that writes a row a step, `LiveView` listens to the rows: a panel redrawn in place on a terminal,
plain lines elsewhere.  What both read off the clock is shown and logged, and nothing is ever computed from it.
"""

import math
import resource
import time
from functools import cache
from pathlib import Path

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bloomery.core.artifacts import peak_memory_gb
from bloomery.core.metrics import MetricLog, console, duration, say, shorten
from bloomery.train.precision import matmul_rate
from bloomery.train.state import Report, State

PAGES, PAGE = Path("/proc/self/statm"), resource.getpagesize()
REDRAWN = 0.1                       # seconds between two panels at least
LINES = (2.0, 60.0)                 # seconds between two plain lines: a twentieth of the run so far, within these
MEMORY = 0.95                       # of the averages shown: about the last twenty steps


@cache
def peak_rate(dtype: torch.dtype, device: str = "cpu") -> float:
    """FLOP/s that matrix products reach there, measured once a process and without drawing from torch's generators."""
    large = device.startswith("cuda")
    with torch.random.fork_rng([device] if large else []):
        return matmul_rate(dtype, size=8192 if large else 512, device=device)


def held_gb() -> float:
    """Memory this process holds now, in GB (10^9 bytes): of the GPU, where it uses one."""
    if torch.cuda.is_initialized():
        return torch.cuda.memory_allocated() / 1e9
    if not PAGES.exists():                                  # macOS tells the peak only
        return peak_memory_gb()
    return int(PAGES.read_text().split()[1]) * PAGE / 1e9   # VmRSS: 23 us, 74 from `status`


def most_gb() -> float:
    """The most it has held so far."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_initialized() else max(peak_memory_gb(), held_gb())


class Meter:
    """The hook that logs every step: the objective's metrics, what the optimizer did, and how fast it all went.

    `flops_per_token` is what training costs by the model's shape, attention at full context; `peak` is FLOP/s of all
    ranks together; `epoch` is the share of the data that a step takes, where that is known.  The time left is that of
    the steps since the first, validation and saving included.
    """

    def __init__(self, log: MetricLog, *, flops_per_token: float, peak: float, epoch: float | None = None):
        self.log, self.flops_per_token, self.peak, self.epoch = log, flops_per_token, peak, epoch
        self.began: tuple[int, float] | None = None         # the first step seen and when it ended

    def __call__(self, state: State, report: Report) -> None:
        rate, now = report.tokens / report.seconds, time.monotonic()
        self.began = self.began or (state.step, now)
        steps, seconds = state.step - self.began[0], now - self.began[1]
        left = (state.steps - state.step) * (seconds / steps if steps else report.seconds)
        self.log.log(state.step, **report.metrics, grad_norm=report.grad_norm, learning_rate=report.learning_rate,
                     tokens_per_second=rate, mfu=rate * self.flops_per_token / self.peak, memory_gb=held_gb(),
                     eta_seconds=left, num_tokens=state.tokens,
                     **({} if self.epoch is None else {"epoch": state.step * self.epoch}))


class LiveView:
    """A run on the console, from the rows of its log: use it as a context, and as one of the log's listeners."""

    def __init__(self, name: str, *, steps: int, out: Console = console):
        self.name, self.steps, self.out = name, steps, out
        self.averages: dict[str, tuple[float, int]] = {}    # metric -> (sum with fading memory, how many in it)
        self.row: dict[str, float | str] = {}               # of the last step
        self.measured = ""                                  # what the last validation found
        self.step, self.begun, self.shown = 0, time.monotonic(), -math.inf
        self.panel = Live(console=out, auto_refresh=False, transient=True, redirect_stdout=False)

    def __call__(self, step: int, values: dict[str, float | str]) -> None:
        """Show one row: a step's, which has a learning rate, or a validation's."""
        self.step, now = step, time.monotonic()
        if "learning_rate" not in values:
            self.measured = f"{self.name} {step}: " + "  ".join(in_words(values))
            if not self.out.is_terminal:
                say(f"  {self.measured}")
            return
        self.row = values | {name: self.average(name, values[name]) for name in AVERAGED if name in values}
        pause = REDRAWN if self.out.is_terminal else min(max(LINES[0], (now - self.begun) / 20), LINES[1])
        if now - self.shown >= pause or step == self.steps:
            self.shown = now
            if self.out.is_terminal:
                self.panel.update(self.drawn(), refresh=True)
            else:
                say(f"  {self.name} {step}/{self.steps}: {self.line}")

    @property
    def line(self) -> str:
        return "  ".join(in_words(self.row))

    def average(self, name: str, value: float) -> float:
        """The exponential average of a metric, free of the zero it began with (Kingma & Ba 2015, eq. 3)."""
        total, count = self.averages.get(name, (0.0, 0))
        if math.isfinite(value):
            total, count = MEMORY * total + (1 - MEMORY) * value, count + 1
            self.averages[name] = total, count
        return total / (1 - MEMORY ** count) if count else value

    def drawn(self) -> Panel:
        """The panel: how far, the numbers of the last steps, the last validation."""
        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(ratio=1)
        head.add_column(justify="right")
        head.add_row(ProgressBar(self.steps, self.step), Text(f"{self.step} of {self.steps}"))
        parts = [head, Text(f"{self.line}  (at most {most_gb():.2f} GB)")]
        parts += [Text(self.measured.partition(" ")[2], style="cyan")] if self.measured else []
        return Panel(Group(*parts), title=Text(self.name, style="bold"), title_align="left", border_style="dim")

    def __enter__(self) -> "LiveView":
        if self.out.is_terminal:
            self.panel.start()
        return self

    def __exit__(self, *_: object) -> None:
        """The panel goes, its last numbers stay."""
        self.panel.stop()
        if self.out.is_terminal:
            for line in filter(None, (self.line and f"{self.name} {self.step}/{self.steps}: {self.line}",
                                      self.measured)):
                say(f"  {line}")


def in_words(values: dict[str, float | str]) -> list[str]:
    """A row as a person reads it, the objective's own metrics first; a name is kept where no other words are known."""
    known = [words(values[name]) for name, words in WORDS.items() if name in values]
    rest = [f"{name} {shorten(value) if isinstance(value, int | float) else value}" for name, value in values.items()
            if name not in WORDS and name not in LEFT_OUT and not name.startswith("loss/")]
    return rest + known


AVERAGED = ("loss", "tokens_per_second", "mfu")             # one step says little of them
LEFT_OUT = ("num_tokens", "supervised_tokens", "supervised_share", "packing_efficiency")        # logged, not shown
WORDS = {
    "epoch": lambda passed: f"epoch {passed:.2f}",
    "learning_rate": lambda rate: f"lr {rate:.2e}",
    "grad_norm": lambda norm: f"grad {norm:.2f}",
    "tokens_per_second": lambda rate: f"{shorten(rate)} tok/s",
    "mfu": lambda share: f"MFU {share:.1%}",
    "memory_gb": lambda held: f"{held:.2f} GB",
    "eta_seconds": lambda seconds: f"ETA {duration(seconds)}",
}
