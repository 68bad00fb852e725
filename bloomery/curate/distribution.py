"""How documents lie over what was measured of them, and what other limits would do.

For a rule with limits its *pool* is what is kept and what this rule alone dropped: other limits keep exactly those of
the pool that lie between them.  So two sorted lists say what any limits would keep, as far as later steps agree, which
have not seen what this rule dropped: `then` names them, and `rethreshold.py` counts them.
"""

from math import isfinite
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

Ranges = dict[str, tuple[float, float]]                     # "step.rule": low, high
BINS = 200
DECADES = 50                    # times the least a greatest value is, for bins to widen with the values
DIGITS = 4                      # of a limit that is offered
FAR = 4                         # times beyond the values, from where a limit does not stretch what is drawn
NAMES = ("id", "source", "dropped")
MOST = 15                       # values of a label that are counted apart
DOMAIN = r"^[a-zA-Z][\w+.-]*://(?:[^/?#@]*@)?(?:www\.)?(?P<host>[^/?#:]+)"


def histograms(path: Path, ranges: Ranges) -> dict[str, dict]:
    """Every number in the statistics: how the documents lie, and of those with limits what others would keep."""
    file = parquet.ParquetFile(path)
    dropped = file.read(["dropped"]).column(0)
    kept, faults = pc.is_null(dropped).to_numpy(), np.zeros(len(dropped), np.int64)
    judges = [name.removesuffix(".reason") for name in file.schema_arrow.names if name.endswith(".reason")]
    for step in judges:
        if not any(rule.startswith(f"{step}.") for rule in ranges):
            faults += pc.not_equal(pc.fill_null(column(file, f"{step}.reason"), ""), "").to_numpy()
    limited = {name: limits for name, limits in ranges.items() if name in file.schema_arrow.names}
    for name, limits in limited.items():
        faults += outside(numbers(file, name), limits)
    found = {}
    for name in measured(file.schema_arrow):
        values, limits = numbers(file, name), limited.get(name, (-np.inf, np.inf))
        if not (shown := histogram(values[np.isfinite(values)], limits)):
            continue
        found[name] = shown
        if name in limited:
            alone = (faults == 1) & outside(values, limits) & ~kept
            found[name] |= what_if(shown, values[kept | alone], limits) | {"then": [
                step for step in judges if (alone & pc.is_null(column(file, f"{step}.reason")).to_numpy()).any()]}
    return found


def measured(schema: pa.Schema) -> list[str]:
    """The columns of numbers that steps have measured."""
    return [field.name for field in schema if field.name not in (*NAMES, "bytes")
            and (pa.types.is_integer(field.type) or pa.types.is_floating(field.type))]


def column(file: parquet.ParquetFile, name: str) -> pa.ChunkedArray:
    return file.read([name]).column(0)


def numbers(file: parquet.ParquetFile, name: str) -> np.ndarray:
    """A column as floats, NaN where a step has not looked."""
    return pc.fill_null(pc.cast(column(file, name), pa.float64(), safe=False), np.nan).to_numpy()


def outside(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (values < limits[0]) | (values > limits[1])


def histogram(values: np.ndarray, limits: tuple[float, float] = (-np.inf, np.inf), bins: int = BINS) -> dict:
    """Counts in bins between the 0.1 % and 99.9 % quantiles, stretched to the limits, and how many lie outside.

    Bins are equally wide, or of equal ratios where values are positive and far apart; few whole numbers have one each.
    """
    if not len(values):
        return {}
    low, high = np.quantile(values, (0.001, 0.999))
    far = FAR * max(abs(low), abs(high), 1e-9)
    near = [limit for limit in limits if isfinite(limit) and abs(limit) <= far]
    low, high = min([low, *near]), max([high, *near])
    log = low > 0 and high / low > DECADES
    if (values == np.rint(values)).all() and high - low < bins:
        edges = np.arange(np.floor(low), np.ceil(high) + 2)
    elif log:
        edges = np.geomspace(low, high, bins + 1)
    else:
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    counts, _ = np.histogram(values, edges)
    return {"low": float(edges[0]), "high": float(edges[-1]), "log": bool(log and len(edges) == bins + 1),
            "below": int((values < edges[0]).sum()), "above": int((values > edges[-1]).sum()),
            "counts": counts.tolist()}


def what_if(shown: dict, pool: np.ndarray, limits: tuple[float, float]) -> dict:
    """How many of the pool lie below and above each limit that is offered: round numbers near the bins, and those set.
    """
    space = np.geomspace if shown["log"] else np.linspace
    edges = space(shown["low"], shown["high"], len(shown["counts"]) + 1)
    stops = np.unique([float(f"{edge:.{DIGITS}g}") for edge in edges] + [limit for limit in limits if isfinite(limit)])
    pool = np.sort(pool[~np.isnan(pool)])
    return {"stops": stops.tolist(), "pool": len(pool), "fewer": np.searchsorted(pool, stops, "left").tolist(),
            "more": (len(pool) - np.searchsorted(pool, stops, "right")).tolist()}


def mix(statistics: Path, documents: Path) -> dict[str, dict[str, list[int | None]]]:
    """Documents read and kept by each value of a label, by length (the power of two of bytes), and by domain, of which
    only what is kept is known."""
    file = parquet.ParquetFile(statistics)
    kept, found = pc.is_null(column(file, "dropped")), {}
    for field in file.schema_arrow:
        if pa.types.is_string(field.type) and field.name not in NAMES and "." not in field.name:
            found[field.name] = by_value(column(file, field.name), kept)
    if len(kept):
        sizes = np.frexp(np.maximum(column(file, "bytes").to_numpy(), 1))[1] - 1
        found["length"] = {str(2**int(size)): counts for size in np.unique(sizes)
                           for counts in [[int((sizes == size).sum()), int((kept.to_numpy() & (sizes == size)).sum())]]}
    if "url" in parquet.read_schema(documents).names:
        urls = parquet.read_table(documents, columns=["url"]).column(0)
        hosts = pc.struct_field(pc.extract_regex(urls, DOMAIN), "host")
        found["domain"] = {name: [None, number] for name, (_, number) in by_value(hosts, None).items()}
    return {name: counts for name, counts in found.items() if counts}


def by_value(values: pa.ChunkedArray, kept: pa.ChunkedArray | None) -> dict[str, list[int]]:
    """How many have each value, of all and of those kept; the most frequent, the rest together."""
    counts = {name: [number, 0] for name, number in counted(values)}
    for name, number in counted(values if kept is None else values.filter(kept)):
        counts[name][1] = number
    names = sorted(counts, key=lambda name: (-counts[name][0], name))
    rest = [sum(counts[name][place] for name in names[MOST:]) for place in (0, 1)]
    return {name: counts[name] for name in names[:MOST]} | ({"others": rest} if len(names) > MOST else {})


def counted(values: pa.ChunkedArray) -> list[tuple[str, int]]:
    return [(entry["values"], entry["counts"]) for entry in values.drop_null().value_counts().to_pylist()]
