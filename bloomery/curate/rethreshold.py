"""What other thresholds would have kept, from the statistics of a curation, without reading a text.

Local rules are decided again, exactly.  A document that newly reaches a step which never saw it (one that needs all
documents, or a dear one) is undecided; and where a step that needs all documents had another input, what it decided may
change too: the answer says so.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from bloomery.core.config import nearest, read_assignment
from bloomery.core.errors import ConfigError, InputError

Range = tuple[float | None, float | None]


def rethreshold(folder: Path, limits: dict[str, Range]) -> dict:
    """Counts of documents kept, dropped by "step.reason" and undecided by step, under other `limits` of rules.

    `limits` is {"gopher.word_count": (20, None)}; None is no limit.  `InputError` for a rule that is not there.
    """
    path = Path(folder) / "statistics.parquet"
    if not path.is_file():
        raise InputError("no statistics of documents here", where=str(folder), hint="give a curate stage's output")
    metadata = parquet.read_schema(path).metadata
    rules, steps = json.loads(metadata[b"rules"]), json.loads(metadata[b"steps"])
    for name in limits:
        if name not in rules:
            near = nearest(name, list(rules))
            raise InputError(f"no rule {name}", where=str(folder),
                             hint=f"did you mean {near}?" if near else f"there are {', '.join(rules)}")
    rules |= limits
    file = parquet.ParquetFile(path)
    count = file.metadata.num_rows
    verdict, undecided, same = np.full(count, "", object), np.zeros(count, bool), True
    for step in steps:
        own = {rule: rules[rule] for rule in rules if rule.startswith(f"{step['name']}.")}
        found, seen = verdicts(file, step["name"], own)
        alive = (verdict == "") & ~undecided
        same = same and not (step["global"] and (alive != seen).any())
        verdict = np.where(alive & (found != ""), found, verdict)
        verdict = np.where(alive & ~seen, step["name"], verdict)
        undecided |= alive & ~seen
    dropped, open_to = Counter(verdict[(verdict != "") & ~undecided].tolist()), Counter(verdict[undecided].tolist())
    return {"read": count, "kept": int((verdict == "").sum()), "dropped": dict(sorted(dropped.items())),
            "undecided": dict(sorted(open_to.items())), "exact": same and not undecided.any()}


def in_words(found: dict) -> str:
    """The answer as lines of text."""
    lines = [f"{found['kept']} of {found['read']} documents kept" if found["exact"] else
             f"{found['kept']} of {found['read']} documents surely kept; what needs all documents may decide otherwise"]
    lines += [f"  {count:>9}  dropped for {name}" for name, count in found["dropped"].items()]
    lines += [f"  {count:>9}  would reach {name}, which has not seen them"
              for name, count in found["undecided"].items()]
    return "\n".join(lines) + "\n"


def read_limits(given: Iterable[str]) -> dict[str, Range]:
    """`gopher.word_count=20,1000` as limits by rule; `none` or nothing is no limit."""
    limits = {}
    for text in given:
        keys, value = read_assignment(text)
        parts = [part.strip() for part in value.strip("[]() ").split(",")]
        try:
            low, high = (None if part in ("", "none", "inf", "-inf") else float(part) for part in parts)
        except ValueError:
            raise ConfigError(f"not two limits: {text}", hint="write rule=lowest,highest, as in "
                              "gopher.word_count=20,none") from None
        limits[".".join(keys)] = low, high
    return limits


def verdicts(file: parquet.ParquetFile, step: str, limits: dict[str, Range]) -> tuple[np.ndarray, np.ndarray]:
    """What a step says of every document under the limits of its rules ("" keeps), and which documents it saw."""
    if f"{step}.reason" not in file.schema_arrow.names:                             # no document ever reached it
        return np.full(file.metadata.num_rows, "", object), np.zeros(file.metadata.num_rows, bool)
    given = file.read([f"{step}.reason"]).column(0)
    seen, found = pc.is_valid(given).to_numpy(), pc.fill_null(given, "").to_numpy().copy()
    if not limits:
        dropped = found != ""
        found[dropped] = f"{step}." + found[dropped]
        return found, seen
    found[:] = ""
    for rule, (low, high) in reversed(limits.items()):                  # the first rule has the last word
        values = pc.fill_null(pc.cast(file.read([rule]).column(0), pa.float64()), np.nan).to_numpy()
        outside = np.zeros(len(values), bool) if low is None else values < low
        found[outside if high is None else outside | (values > high)] = rule
    return found, seen
