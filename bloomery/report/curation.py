"""The chapter about a curation: what went and why, what other limits would keep, and documents to judge the rules by.

Numbers come from `curation.json`, `histograms.json` and `throughput.json`, texts from `samples.json`; beside them stand
what a tokenizer costs whom and how a run drew its domains, where stages wrote that.  Left out: documents by address or
by search over all of them, which `bloomery show` and any reader of Parquet do.
"""

from collections.abc import Iterable
from difflib import SequenceMatcher
from math import log
from pathlib import Path

from bloomery.core.metrics import shorten
from bloomery.report import findings
from bloomery.report.samples import read_json

PER_RULE = 20                   # documents of each rule; samples.json has more
TOLD = 12                       # rows of a list that is only told
TITLES = {"length": "Length, bytes from", "language": "Language", "domain": "Domains", "bucket": "Perplexity"}
TOKEN_BYTES = 4                 # bytes a token where nobody has counted
KINDS = {"dropped": "Dropped", "borderline": "Only just kept", "edited": "Edited"}
Piece = tuple[str, str]         # how it is shown ("", "mark", "del", "ins"), and the text


def chapter(stage: dict) -> dict | None:
    """The numbers of one curation; None for other stages."""
    record = read_json(stage["folder"] / "curation.json")
    if not record:
        return None
    bars, idle = waterfall(record)
    histograms = read_json(stage["folder"] / "histograms.json") or {}
    rules = {name: [None if limit in ("inf", "-inf") else limit for limit in limits]
             for name, limits in record.get("rules", {}).items()}
    return {"stage": stage["label"], "folder": Path(stage["folder"]).name, "bars": bars, "idle": idle,
            **{key: record[key] for key in ("read", "bytes_read", "kept", "bytes_kept")},
            "tokens_read": record.get("tokens_read", record["bytes_read"] // TOKEN_BYTES),
            "tokens_kept": record.get("tokens_kept", record["bytes_kept"] // TOKEN_BYTES),
            "quarantined": record.get("quarantined", 0), "sources": sources(record),
            "mix": [mixed(name, counts) for name, counts in record.get("mix", {}).items()],
            "read_as": [listed(title, record.get(key) or {}) for key, title in (
                ("passed_over", "Passed over"), ("encodings", "Encodings"), ("quarantine_reasons", "Quarantined"))
                if record.get(key)],
            "duplicates": duplicates(record), "work": work(stage["folder"], record),
            "statistics": [{"name": name, "limits": rules.get(name), **found} for name, found in histograms.items()]}


def waterfall(record: dict) -> tuple[list[dict], list[str]]:
    """What was read, what each reason took away, what is left; and the steps that took nothing.

    What the reasons do not explain is a bar of its own: quarantined rows, bytes that edits took out of kept documents.
    """
    read, kept = (record["read"], record["bytes_read"]), (record["kept"], record["bytes_kept"])
    left, bars, idle = read, [], []

    def take(name: str, step: str, amount: tuple[int, int]) -> None:
        nonlocal left
        if any(amount):
            of_left = amount[0] / left[0] if left[0] else 0.0
            left = (left[0] - amount[0], left[1] - amount[1])
            bars.append({"name": name, "step": step, "documents": amount[0], "bytes": amount[1],
                         "tokens": amount[1] // TOKEN_BYTES, "of_left": round(of_left, 6),
                         "of_all": round(amount[0] / (read[0] or 1), 6),
                         "documents_left": left[0], "bytes_left": left[1]})

    removed = sum(r["documents"] for step in record["steps"] for r in step["reasons"].values())
    if record.get("quarantined") and read[0] - removed - kept[0] == record["quarantined"]:
        first = record["steps"][0] if record["steps"] else None
        gone = sum(r["bytes"] for r in first["reasons"].values()) if first else 0
        take("quarantined", "reading", (record["quarantined"],
                                        max(0, read[1] - (first["bytes_left"] + gone if first else kept[1]))))
    for step in record["steps"]:
        before = len(bars)
        for reason, amount in step["reasons"].items():
            take(reason, step["step"], (amount["documents"], amount["bytes"]))
        take("edited in place", step["step"], (left[0] - step["documents_left"], left[1] - step["bytes_left"]))
        idle += [step["step"]] if len(bars) == before else []
    take("not explained", "", (left[0] - kept[0], left[1] - kept[1]))
    return bars, idle


def sources(record: dict) -> list[dict]:
    """Every source before and after, its share of the mixture, and the steps that took more than half of it."""
    alarms: dict[str, list[str]] = {}
    for alarm in record.get("alarms", []):
        alarms.setdefault(alarm["source"], []).append(f"{alarm['step']} took {100 * alarm['share']:.0f} %")
    return [{"name": name, **counts, "alarms": alarms.get(name, []),
             "share_read": counts["bytes_read"] / (record["bytes_read"] or 1),
             "share_kept": counts["bytes_kept"] / (record["bytes_kept"] or 1)}
            for name, counts in record.get("sources", {}).items()]


def mixed(name: str, counts: dict[str, list]) -> dict:
    """Documents by a label, before and after; where only what is kept is known, that."""
    most = max((max(read or 0, kept) for read, kept in counts.values()), default=0) or 1
    shown = [(shorten(int(value)) if name == "length" else value, read, kept)
             for value, (read, kept) in counts.items()]
    return {"title": TITLES.get(name, name.capitalize()), "both": all(read is not None for _, read, _ in shown),
            "rows": [{"name": value, "read": read, "kept": kept, "read_share": (read or 0) / most,
                      "kept_share": kept / most} for value, read, kept in shown]}


def listed(title: str, counts: dict[str, int]) -> dict:
    """The most frequent of things that are only counted, as bars."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    bars = [(name, count, f"{count:,}") for name, count in ordered[:TOLD]]
    rest = sum(count for _, count in ordered[TOLD:])
    return findings.tile(title, "", "", bars, f"and {rest:,} others" if rest else "", first=-1)


def duplicates(record: dict) -> list[dict]:
    """How large the clusters are that steps have found; bars are logarithms."""
    told = [(step["step"], step["found"]) for step in record["steps"] if step.get("found", {}).get("clusters")]
    sizes = {step: [(f"{size} alike", log(1 + count), f"{count:,}") for size, count in found["sizes"].items()]
             for step, found in told}
    notes = {step: "bars are logarithms" + (f"; {len(bars) - TOLD} larger sizes are in report.json" * (
        len(bars) > TOLD)) for step, bars in sizes.items()}
    return [{**findings.tile(step, f"{found['clusters']:,}", "clusters", sizes[step][:TOLD], notes[step], first=-1),
             "counts": found["sizes"]} for step, found in told]


def work(folder: Path, record: dict) -> dict | None:
    """Seconds by step, over all workers."""
    found = read_json(folder / "throughput.json")
    if not found:
        return None
    seconds = [(name, value, findings.duration(value)) for name, value in found["worker_seconds"].items()]
    rate = record["read"] / max(found["seconds"], 1e-9)
    note = f"{found['megabytes_a_second']:.3g} MB and {shorten(rate)} documents a second, {found['engine']}, " \
           f"peak memory {found['peak_memory_gb']:.2g} GB; bars are seconds of all workers together"
    return findings.tile("Work", findings.duration(found["seconds"]), "", seconds, note, first=-1)


# --- texts --------------------------------------------------------------------------------------------------------

def documents(folder: Path) -> list[dict]:
    """Samples by kind and rule: dropped (the rule that took most first), borderline and edited documents."""
    shown, record = read_json(folder / "samples.json") or {}, read_json(folder / "curation.json") or {"steps": []}
    totals = {("dropped", f"{step['step']}.{reason}"): lost["documents"]
              for step in record["steps"] for reason, lost in step["reasons"].items()}
    totals |= {("edited", step["step"]): step["edited"]["documents"] for step in record["steps"] if "edited" in step}
    groups = [{"kind": kind, "rule": rule, "total": totals.get((kind, rule)),
               "limits": record.get("rules", {}).get(rule), "documents": [document(one) for one in found[:PER_RULE]]}
              for kind in KINDS for rule, found in shown.get(kind, {}).items()]
    return sorted(groups, key=lambda group: (list(KINDS).index(group["kind"]), -(group["total"] or 0), group["rule"]))


def document(sample: dict) -> dict:
    return {"id": str(sample["id"]), "source": str(sample["source"]), "value": sample.get("value"),
            "pieces": pieces(sample["text"], sample["spans"], sample.get("becomes"))}


def pieces(text: str, spans: Iterable[list[int]], becomes: list[str] | None = None) -> list[Piece]:
    """A text cut at its spans, which are marked, or shown with what they become."""
    found, behind = [], 0
    spans = list(spans)
    for (start, stop), new in sorted(zip(spans, becomes or [""] * len(spans))):
        if start >= behind:
            found += [("", text[behind:start]), ("mark" if becomes is None else "del", text[start:stop]), ("ins", new)]
            behind = stop
    return [(look, part) for look, part in [*found, ("", text[behind:])] if part]


def clusters(folder: Path) -> list[dict]:
    """The largest clusters of each step that looked for duplicates, those first whose members differ."""
    found = [{"step": step["step"], "documents": one["documents"], "begin": one.get("begin", 0),
              "members": side_by_side(one["members"])}
             for step in (read_json(folder / "curation.json") or {"steps": []})["steps"]
             for one in step.get("found", {}).get("largest", [])]
    return sorted(found, key=lambda one: (all(len(m["pieces"]) < 2 for m in one["members"]), -one["documents"]))


def side_by_side(members: list[dict]) -> list[dict]:
    """Members of a cluster; what differs from the first is marked, what they lack of it struck out."""
    first = members[0]["text"]
    return [{"source": str(one["source"]), "id": str(one.get("id", "")),
             "pieces": compared(first, one["text"]) if place else [("", first)]} for place, one in enumerate(members)]


def compared(old: str, new: str) -> list[Piece]:
    """A text by its words against another."""
    a, b = old.split(" "), new.split(" ")
    found: list[Piece] = []
    for what, a1, a2, b1, b2 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        gone, come = "".join(word + " " for word in a[a1:a2]), "".join(word + " " for word in b[b1:b2])
        found += [("", come)] if what == "equal" else [("del", gone), ("mark", come)]
    return [(look, part) for look, part in found if part]


def clipped(parts: list[Piece], limit: int) -> list[Piece]:
    """Pieces of at most `limit` characters in all, and how many more there are."""
    found, left = [], limit
    for look, part in parts:
        if left > 0:
            found.append((look, part[:left]))
        left -= len(part)
    return found + ([("", f"… ({-left:,} more characters)")] if left < 0 else [])


TEXTS = {"documents": documents, "clusters": clusters}


# --- what comes after ---------------------------------------------------------------------------------------------

def mixture(stage: dict) -> dict | None:
    """How a training run drew its domains: what was planned, and what came of it."""
    drawn, planned, epochs = (plain(stage["metrics"], kind) for kind in ("samples", "planned", "epochs"))
    if len(drawn) < 2:
        return None
    total = sum(drawn.values()) or 1
    return {"stage": stage["label"], "rows": [
        {"name": name, "samples": count, "realised": count / total, "planned": planned.get(name),
         "epochs": epochs.get(name)} for name, count in drawn.items()]}


def plain(metrics: dict, kind: str) -> dict[str, float]:
    """Metrics `kind/NAME` by name."""
    return {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith(f"{kind}/")}


def fertility(stage: dict) -> dict | None:
    """What a tokenizer costs each domain and language."""
    found = read_json(stage["folder"] / "fertility.json")
    rows = [{"name": name, **numbers} for name, numbers in found.items() if isinstance(numbers, dict)] if found else []
    return {"stage": stage["label"], "rows": rows} if rows else None


NUMBERS = {"curation": chapter, "mixtures": mixture, "fertility": fertility}
