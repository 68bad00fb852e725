"""Training curves from the rows of `metrics.jsonl`.

A chart here is plain numbers, placed but not coloured: the page draws it with plotly.js, so that one report follows
light and dark, and every number drawn is also in `report.json`.  Left out: live charts.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from bloomery.core.errors import BloomeryError

POINTS = 600                        # per curve: about one per two pixels, and 20 kB of page
SMOOTHED = 30                       # fewer values than this are clear without an average
AXES = ("step", "tokens", "minutes")

HELD_OUT = "Held-out text"

# title, unit, ((metric, name on the chart), ...); names as in TRL's trainers. The first name takes the accent colour.
CHARTS = (
    ("Loss", "nats", (("loss", "training"), ("val_loss", "validation"), ("eval_loss", "evaluation"))),
    (HELD_OUT, "bits per byte", (("val_bpb", "model"),)),
    ("Text it was trained on before", "bits per byte", (("base_bpb", "model"),)),
    ("Held-out accuracy", "share", (("val_accuracy", "this task"), ("before_accuracy", "the task before"))),
    ("Reward margin", "chosen minus rejected", (("rewards/margins", "margin"),)),
    ("Pairs ranked right", "share of the batch", (("rewards/accuracies", "accuracy"),)),
    ("Answer log-probability", "nats", (("logps/chosen", "chosen"), ("logps/rejected", "rejected"))),
    ("Implicit reward", "beta × log-ratio", (("rewards/chosen", "chosen"), ("rewards/rejected", "rejected"))),
    ("Reward", "mean", (("reward", "training"), ("val_reward", "held out"), ("val_gold", "gold"))),
    ("Distance from the reference", "KL, nats", (("kl", "KL"),)),
    ("Learning rate", "", (("learning_rate", "learning rate"),)),
    ("Gradient norm", "before clipping", (("grad_norm", "gradient norm"),)),
    ("Speed", "tokens per second", (("tokens_per_second", "speed"),)),
    ("Share of the machine's peak", "MFU", (("mfu", "MFU"),)),
    ("Memory", "GB", (("memory_gb", "memory"),)),
)
LOOKS = ("first", "second", "third")
EXACT = {"learning_rate", "val_loss", "val_bpb", "eval_loss", "base_bpb", "base_loss"}    # free of noise: no average
AXIS_KEYS = {"step", "time", "num_tokens", "event", "eta_seconds"}              # no curves of their own


@dataclass(frozen=True)
class Log:
    """The rows of one stage, where each stands on every axis, and where the run was resumed."""

    rows: list[dict]
    places: list[dict[str, float | None]]
    resumes: list[dict[str, float | None]]

    def values(self, key: str) -> list[tuple[dict, float | None]]:
        """(place, value) of every row that has `key`; a value that is not finite becomes None, a gap in the curve."""
        return [(place, row[key] if finite(row[key]) else None)
                for row, place in zip(self.rows, self.places, strict=True) if is_number(row.get(key))]

    def names(self) -> list[str]:
        """The metrics there are curves of, in the order they first appear."""
        return [k for k in {k: 0 for row in self.rows for k in row if is_number(row[k])} if k not in AXIS_KEYS]


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def finite(value: object) -> bool:
    return is_number(value) and math.isfinite(value)


def read_log(rows: list[dict]) -> Log:
    """Place rows on three axes: step, tokens trained on, minutes at work.

    `num_tokens` counts from the start as in TRL; where it falls it was a count per row and is summed.  Minutes leave
    out the pause before a resume: a night between two halves of a run says nothing about its speed.
    """
    rows = [row for row in rows if isinstance(row, dict) and finite(row.get("step"))]
    counts = [row["num_tokens"] for row in rows if finite(row.get("num_tokens"))]
    per_row = any(b < a for a, b in pairwise(counts))
    kept, places, resumes = [], [], []
    tokens, seconds, clock = (0 if counts else None), None, None
    for row in rows:
        if row.get("event") == "resumed":
            resumes.append(at(row["step"], tokens, seconds))
            clock = None
            continue
        if finite(row.get("num_tokens")):
            tokens = tokens + row["num_tokens"] if per_row else row["num_tokens"]
        if finite(row.get("time")):
            seconds = (seconds or 0.0) + (max(0.0, row["time"] - clock) if clock is not None else 0.0)
            clock = row["time"]
        kept.append(row)
        places.append(at(row["step"], tokens, seconds))
    return Log(kept, places, resumes)


def at(step: float, tokens: float | None, seconds: float | None) -> dict[str, float | None]:
    return {"step": step, "tokens": tokens, "minutes": None if seconds is None else rounded(seconds / 60)}


def rounded(value: float | None) -> float | None:
    """Six digits: more than a pixel shows, half the bytes of a float."""
    return None if value is None else float(f"{value:.6g}")


def ema(values: list[float | None], span: float) -> list[float | None]:
    """Exponential moving average, its start corrected as in Adam (Kingma and Ba 2015, section 3); gaps stay gaps."""
    keep, total, weight, smooth = 1 - 2 / (span + 1), 0.0, 0.0, []
    for value in values:
        if value is None:
            smooth.append(None)
            continue
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        smooth.append(total / weight)
    return smooth


def thin(values: list[float | None], points: int = POINTS) -> list[int]:
    """Indices of about `points` values that keep every spike: the least and most of each stretch, and a gap in it."""
    if len(values) <= points:
        return list(range(len(values)))
    stretches, kept = max(1, points // 2), {0, len(values) - 1}
    for i in range(stretches):
        stretch = range(i * len(values) // stretches, (i + 1) * len(values) // stretches)
        known = [j for j in stretch if values[j] is not None]
        gaps = [j for j in stretch if values[j] is None]
        kept.update(gaps[:1])
        if known:
            kept.update((min(known, key=values.__getitem__), max(known, key=values.__getitem__)))
    return sorted(kept)


def curve(pairs: list[tuple[dict, float | None]], name: str, look: str, smooth: bool) -> list[dict]:
    """One metric as drawn: its values, and where there are many of them a moving average in front of them."""
    values = [value for _, value in pairs]
    if len(pairs) < SMOOTHED:
        lines = [(name, "points", values)]
    elif smooth:
        lines = [(f"{name}, each step", "raw", values), (name, "line", ema(values, max(5.0, len(values) / 60)))]
    else:
        lines = [(name, "line", values)]
    drawn = []
    for label, role, y in lines:
        kept = thin(y)
        x = {axis: [pairs[i][0][axis] for i in kept] for axis in AXES if pairs[0][0][axis] is not None}
        drawn.append({"name": label, "role": role, "look": look, "x": x, "y": [rounded(y[i]) for i in kept]})
    return drawn


def training_charts(log: Log, marks: dict[str, float]) -> list[dict]:
    """Every chart of one training stage, the well-known ones first, all others behind (`more`).

    `marks` are level lines on the chart of bits per byte: what other compressors need for the same text.
    """
    charts, known = [], {key for _, _, metrics in CHARTS for key, _ in metrics}
    others = [(key, "", ((key, key),)) for key in log.names() if key not in known]
    for title, unit, metrics in (*CHARTS, *others):
        curves = [(look, key, name, log.values(key)) for look, (key, name) in zip(LOOKS, metrics)]
        curves = [c for c in curves if c[3]]
        if curves:
            level = {k: rounded(v) for k, v in marks.items()} if title == HELD_OUT else {}
            charts.append({"title": title, "unit": unit, "marks": level, "more": metrics[0][0] not in known,
                           "count": sum(len(pairs) for *_, pairs in curves),
                           "gaps": sum(value is None for *_, pairs in curves for _, value in pairs),
                           "series": [line for look, key, name, pairs in curves
                                      for line in curve(pairs, name, look, smooth=key not in EXACT)]})
    return charts


def plotly_javascript() -> str:
    """The whole of plotly.js, to stand once in the page."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise BloomeryError("the report needs plotly", why="its charts are drawn by plotly.js, which is not installed",
                            hint="pip install 'bloomery[report]'") from None
    return get_plotlyjs().replace("\r\n", "\n")
