"""What a run says while it works: one JSON line a row in `metrics.jsonl`, one progress line on the console.

Rows are monotonic in `step`, also across a resume: opening a log at step k drops the rows a crash left after k.
Progress goes to stderr, so that stdout stays the command's result.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console

T = TypeVar("T")
Listener = Callable[[int, dict[str, float | str]], object]      # is told every row: (step, values)
console = Console(stderr=True, highlight=False, quiet=os.environ.get("RANK", "0") != "0")    # one rank speaks


def say(text: str) -> None:
    """One line of progress for a person, on stderr; markup is not interpreted."""
    if console.is_terminal:
        console.print(text, markup=False)
    elif not console.quiet:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def shorten(value: float) -> str:
    """A number as people read it: 12345678 -> 12.3M, 0.000123 -> 1.23e-04."""
    if value == 0 or not abs(value) < float("inf"):
        return str(value)
    for scale, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= scale:
            return f"{value / (1e3 if unit == 'k' else scale):.3g}{unit}"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 5 h 10 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class MetricLog:
    """The metrics of one stage: `log(step, loss=...)` writes a row and, at most every two seconds, a console line.

    Every row is also told to the `listeners`, which then say what is to be said in place of that line.
    """

    def __init__(self, folder: Path, *, name: str, resume_step: int = 0, every: float = 2.0,
                 listeners: tuple[Listener, ...] = ()):
        self.path, self.name, self.every = Path(folder) / "metrics.jsonl", name, every
        self.listeners = listeners
        self._last_said = 0.0
        kept = [row for row in read_metrics(self.path) if row["step"] <= resume_step]
        if resume_step:
            kept.append({"step": resume_step, "event": "resumed"})
        self.path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")

    def log(self, step: int, *, quiet: bool = False, **values: float | str) -> None:
        """Write one row; floats are kept exact. `quiet` keeps it off the console."""
        self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")
        self._file.flush()
        for listener in self.listeners:
            listener(step, values)
        if not (quiet or self.listeners) and time.monotonic() - self._last_said >= self.every:
            self._last_said = time.monotonic()
            shown = "  ".join(f"{key} {shorten(v) if isinstance(v, (int, float)) else v}" for key, v in values.items())
            say(f"  {self.name} {step}: {shown}")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict]:
    """The rows of a `metrics.jsonl`; a last line cut by a crash is left out."""
    if not Path(path).exists():
        return []
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def progress(items: Iterable[T], *, name: str, total: int | None = None, every: float = 2.0) -> Iterator[T]:
    """Pass `items` through and say how far along we are whenever `every` seconds have gone by."""
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= every:
            last = now
            left = f", {(total - done) * (now - start) / done:.0f} s left" if total and done else ""
            say(f"  {name}: {done}{f' of {total}' if total else ''}{left}")
        yield item
