"""The `report` stage: finished stages in, one page out that needs no network and no server.

`report.html` holds its style, its script, plotly.js and all data; its content security policy lets it load nothing and
run only the scripts written here, whatever a document in it says.  `report.json` holds every number shown.
"""

import hashlib
import json
from base64 import b64encode
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from pydantic import Field

from bloomery.core.artifacts import Artifact, open_artifact, write_atomic
from bloomery.core.config import Input, Settings
from bloomery.core.errors import ConfigError
from bloomery.core.metrics import read_metrics, shorten
from bloomery.report import curation, findings, samples, tasks
from bloomery.report.cards import card
from bloomery.report.charts import finite, is_number, plotly_javascript, read_log, training_charts
from bloomery.report.comparison import comparisons
from bloomery.report.graph import graph, in_order

PAGE = Path(__file__).parent / "page"
STYLES, SCRIPTS = ("page.css", "curation.css", "tasks.css"), ("page.js", "curation.js")
MOST_BYTES = 8_000_000              # of the page; plotly.js is 4.8 million of them
TEXT_LIMITS = (4000, 1500, 500, 150)    # characters of one sample: the first that keeps the page below MOST_BYTES
SHOWN = ("stage", "verb", "hash", "version", "attempts", "peak_memory_gb")


class Config(Settings):
    """One page about finished stages."""

    runs: list[Input] = Field(description="folders of finished stages, in any order")
    title: str = Field("", description="what stands at the top of the page")


def run(config: Config, out: Path) -> dict:
    """Write `report.html` and `report.json`; metrics `bytes` and `pages`."""
    if not config.runs:
        raise ConfigError("a report of nothing", where="report.runs", hint='name finished stages: runs = ["@pretrain"]')
    stages = read_stages([open_artifact(Path(folder)) for folder in config.runs])
    told = {name: [found for s in stages if (found := read(s))]
            for name, read in (curation.NUMBERS | tasks.NUMBERS).items()}
    numbers = flat_metrics(stages)
    kept = next(((c["kept"], c["read"]) for c in told["curation"]), None)
    sentence, tiles = findings.headline(numbers, kept, len(stages), sum(s["seconds"] for s in stages))
    marks = {name: value for name, value in ((label.removeprefix("a "), findings.find(numbers, key))
                                             for key, label in findings.RIVALS) if value is not None}
    content = clean({"title": config.title or "A bloomery report", "sentence": sentence, "tiles": tiles,
                     "stages": [{key: value for key, value in stage.items() if key != "folder"} for stage in stages],
                     **told, "training": comparisons(stages) + [t for t in (training(s, marks) for s in stages) if t],
                     "cards": [{"stage": s["label"], **found} for s in stages if (found := card(s["folder"]))]})
    texts = {name: [(s["label"], found) for s in stages if (found := read(s["folder"]))]
             for name, read in (curation.TEXTS | tasks.TEXTS | samples.TEXTS).items()}
    for limit in TEXT_LIMITS:
        page = render(content, texts, limit)
        if len(page) <= MOST_BYTES:
            break
    write_atomic(out / "report.json", encode(json.dumps(content, indent=1, ensure_ascii=False)))
    write_atomic(out / "report.html", page)
    return {"bytes": len(page), "pages": 1}


def read_stages(artifacts: list[Artifact]) -> list[dict]:
    """Stages so that each follows what it reads; a folder given twice counts once.

    Two stages of one name, from two recipes, are told apart by their hashes.
    """
    by_id = {f"{a.record['stage']}-{a.hash}": a for a in artifacts}
    parents = {node: [f"{name}-{key}" for name, key in (a.record.get("parents") or {}).items()]
               for node, a in by_id.items()}
    names = [a.record["stage"] for a in by_id.values()]
    stages = []
    for node in in_order({node: [p for p in reads if p in by_id] for node, reads in parents.items()}):
        record = by_id[node].record
        name = record["stage"]
        stages.append({"id": node, "label": name if names.count(name) == 1 else f"{name} {record['hash'][:4]}",
                       "folder": by_id[node].folder, "reads": parents[node], "parents": record.get("parents") or {},
                       "metrics": flat(record.get("metrics") or {}), "groups": groups(record.get("metrics") or {}),
                       "config": flat(record.get("config") or {}), "seconds": record.get("seconds") or 0.0,
                       **{key: record.get(key) for key in SHOWN}})
    return stages


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    """Nested dicts as one, names joined with dots."""
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def groups(metrics: dict) -> list[dict]:
    """Metrics that are a number per kind, as bars; shares are drawn out of one."""
    found = []
    for name, values in metrics.items():
        kinds = values.items() if isinstance(values, dict) else ()
        bars = [(str(kind), value, number(value)) for kind, value in kinds if finite(value)]
        if len(bars) > 1:
            shares = all(0 <= value <= 1 for _, value, _ in bars)
            found.append(findings.tile(name, "", "", bars, "", first=-1, most=1.0 if shares else 0.0))
    return found


def flat_metrics(stages: list[dict]) -> dict[str, object]:
    """All numbers of the run under their own names; the evaluation's come first and win."""
    found: dict[str, object] = {}
    for stage in sorted(stages, key=lambda stage: stage["verb"] != "evaluate"):
        found = {**found, **{key: value for key, value in stage["metrics"].items() if key not in found}}
    return found


def training(stage: dict, marks: dict[str, float]) -> dict | None:
    """Charts and sentences of one stage that logged its steps; None for the others.

    Only pretraining is measured on the text the other compressors read, so only its chart shows their `marks`.
    """
    log = read_log(read_metrics(stage["folder"] / "metrics.jsonl"))
    charts = training_charts(log, marks if stage["verb"] == "pretrain" else {})
    return {"stage": stage["label"], "verb": stage["verb"], "charts": charts, "resumes": log.resumes,
            "words": findings.training_words(log)} if charts else None


def clean(value: object) -> object:
    """JSON without NaN and infinity, which browsers and strict readers refuse: they become the words for them."""
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    return str(value) if is_number(value) and not finite(value) else value


def lineage(stages: list[dict], *, across: bool) -> dict:
    """The graph of the stages, and of parents that were not given, which are drawn faintly."""
    parents = {s["id"]: s["reads"] for s in stages}
    names = {s["id"]: {"name": s["stage"], "line": findings.duration(s["seconds"]), "verb": s["verb"], "known": True}
             for s in stages}
    for stage in stages:
        for node, name in zip(stage["reads"], stage["parents"]):
            names.setdefault(node, {"name": name, "line": "not in this report", "verb": "", "known": False})
    return graph(names, {node: parents.get(node, []) for node in names}, across=across)


def render(content: dict, texts: dict, limit: int) -> bytes:
    """The page as UTF-8; `limit` is how many characters of a sampled text are shown."""
    environment = Environment(loader=FileSystemLoader(PAGE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "size": size, "short": shorten, "duration": findings.duration,
                            "clip": lambda text: clip(text, limit),
                            "clipped": lambda pieces: curation.clipped(pieces, limit),
                            "line": lambda text: " ".join(text[:400].split())[:160],
                            "json": lambda value: json.dumps(value, ensure_ascii=False)}
    scripts = [plotly_javascript(), files(SCRIPTS)]
    graphs = [(name, lineage(content["stages"], across=name == "across")) for name in ("across", "down")]
    html = environment.get_template("page.html").render(
        **content, **texts, graphs=graphs, kinds=curation.KINDS, kinds_of_task=tasks.NAMES,
        style=Markup(files(STYLES)), scripts=[Markup(s) for s in scripts],
        hashes=[b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts],
        data=Markup(json.dumps({key: content[key] for key in ("training", "curation")},
                               separators=(",", ":")).replace("<", "\\u003c")))
    return encode(html)


def files(names: tuple[str, ...]) -> str:
    """Parts of the page, one after another."""
    return "".join((PAGE / name).read_text(encoding="utf-8") for name in names)


def encode(text: str) -> bytes:
    """UTF-8, also of text with lone surrogates, which JSON can carry and UTF-8 cannot."""
    return text.encode("utf-8", "replace")


def number(value: object) -> str:
    """A value as people read it in a table: thousands apart, five digits of a fraction."""
    if isinstance(value, bool) or not is_number(value):
        return "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.5g}" if abs(value) < 1e5 else f"{value:,.0f}"


def size(count: float) -> str:
    """Bytes as people read them, in powers of ten."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(count) >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"


def clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"
