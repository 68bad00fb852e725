"""The curation stage: documents in, a corpus and an account of every document that is not in it.

Every document read is either in `documents.parquet` or in `dropped.parquet` with its step and reason; every row that
was no document is in `quarantine.jsonl`.  `statistics.parquet` has what was measured of all documents, `curation.json`
the counts, `histograms.json` what other limits would keep, `samples.json` documents to look at, `throughput.json` how
long it took, which alone differs between runs.

Input is cut into jobs, steps into passes (`sift.py`); jobs run on threads or on Ray, steps that need all documents
decide between two passes.  Output depends on neither, nor on batches: killed and run again, it is the same to the byte.
"""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from bloomery.core.artifacts import fingerprint, peak_memory_gb, write_atomic
from bloomery.core.config import Free, Input, Settings, essential, nearest
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import progress, say
from bloomery.curate import account, output
from bloomery.curate.account import TOKEN_BYTES, Ledger
from bloomery.curate.c4 import C4, LineRules
from bloomery.curate.classifier import Classify, Quality
from bloomery.curate.contamination import Decontaminated, Decontamination
from bloomery.curate.decisions import decide
from bloomery.curate.distribution import histograms, mix
from bloomery.curate.exact import Addresses, Equality, Exact, Repeated, Repeats, Sentences
from bloomery.curate.fineweb import FineWeb, fineweb_statistics
from bloomery.curate.heuristics import Generated, Gopher, Heuristic, generated_statistics, quality_statistics
from bloomery.curate.jobs import Job, plan
from bloomery.curate.language import Identify, Language
from bloomery.curate.minhash import MinHash, NearDuplicates
from bloomery.curate.perplexity import Perplexity, PerplexityGate
from bloomery.curate.pii import Pii, Replace
from bloomery.curate.presets import with_preset
from bloomery.curate.reading import BATCH_BYTES
from bloomery.curate.refinedweb import LineEdits, RefinedWeb
from bloomery.curate.repetition import Repetition, repetition_statistics
from bloomery.curate.sift import Pass, Steps, Work, built, decision_folder, part_folder, passes, sift
from bloomery.curate.step import GlobalStep, Step
from bloomery.curate.substring import Passages, Substring
from bloomery.curate.toxicity import Purge, Toxicity
from bloomery.curate.url import Blocklist, Url
from bloomery.curate.workers import ENGINES

PARTS = ".parts"                    # where work in progress is
MEMORY = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)B?")
SHARES = 128                        # batches that would fit in what a worker may use: it holds one in several forms


class Config(Settings):
    """Clean, filter and deduplicate documents; what is dropped is kept beside them with its reason."""

    source: Input | list[Input] = Field(description="files or folders with a `text` column, or python:stdlib")
    preset: Literal["gopher", "c4", "fineweb", "refinedweb", "dolma", "dclm"] | None = Field(
        None, description="a published recipe that fills in the steps and options that are not given")
    steps: tuple[str, ...] = Field(("exact", "generated", "gopher", "repetition"),
                                   description="what documents go through, in this order; each has its section below")
    max_bad: float = Field(1.0, ge=0, le=1, description="share of rows that may be unusable before it is an error")
    profile: bool = Field(False, description="also measure what was dropped with the dear steps")
    engine: Annotated[Literal["threads", "serial", "ray"], Free()] = Field("threads", description="what does the work")
    workers: Annotated[int, Free()] = Field(0, ge=0, description="how many at once; 0: one a core")
    memory: Annotated[str, Free()] = Field("4GB", description="what steps should stay below; the rest goes to disk")
    # options of steps, a table each
    exact: Equality = Equality()
    exact_url: Addresses = Addresses()
    paragraphs: Repeats = Repeats()
    sentences: Sentences = Sentences()
    minhash: MinHash = MinHash()
    substring: Substring = Substring()
    perplexity: Perplexity = Perplexity()
    decontamination: Decontamination = Decontamination()
    generated: Generated = Generated()
    gopher: Gopher = Gopher()
    repetition: Repetition = Repetition()
    c4: C4 = C4()
    fineweb: FineWeb = FineWeb()
    refinedweb: RefinedWeb = RefinedWeb()
    url: Url = Url()
    language: Language = Language()
    quality: Quality = Quality()
    toxicity: Toxicity = Toxicity()
    pii: Pii = Pii()

    @model_validator(mode="after")
    def filled_in(self) -> "Config":
        """A preset's values where none were given: last, since only JSON as it is read may have arrays for tuples."""
        if self.preset:
            filled = with_preset(self.model_dump(exclude_unset=True)) | {"preset": None}
            self.__dict__ |= {name: value for name, value in type(self).model_validate(filled) if name != "preset"}
        return self

    @field_validator("steps")
    @classmethod
    def known_and_named_once(cls, steps: tuple[str, ...]) -> tuple[str, ...]:
        for name in steps:
            if name not in STEPS:
                near = nearest(name, list(STEPS))
                raise ValueError(f"no step {name}; " + (f"did you mean {near}?" if near else
                                                        f"there are {', '.join(sorted(STEPS))}"))
        if len(set(steps)) < len(steps):
            raise ValueError("a step is named twice")
        return steps

    @field_validator("memory")
    @classmethod
    def is_a_size(cls, memory: str) -> str:
        size_of(memory)
        return memory


def size_of(memory: str) -> int:
    """Bytes of "4GB", "500 MB", "2G"."""
    found = MEMORY.fullmatch(memory.strip().upper())
    if not found:
        raise ValueError(f"not a size: {memory}; write 4GB, or 500MB")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2] or " "))


def run(config: Config, out: Path) -> dict:
    """Curate `source` into `documents.parquet`; `InputError` when nothing is read or nothing is left."""
    start, sources = monotonic(), [config.source] if isinstance(config.source, str) else config.source
    quarantine, ledger = Quarantine(), Ledger()
    jobs = plan(sources, quarantine)
    folder = claim(out / PARTS, config, jobs)
    steps, told = built(build, as_text(config)), {}
    ways = passes(config.steps, steps)
    for passing in ways:
        accounts = one_pass(config, folder, passing, len(ways), jobs)
        for found in accounts:
            ledger.merge(found)
        if not passing.index:
            sides = set_aside(sources, accounts, quarantine, out, config.max_bad)
        if passing.gathers:
            parts = [part_folder(folder, passing.index, job.number) for job in jobs]
            told[passing.gathers] = decide(steps[passing.gathers], decision_folder(folder, passing.index), parts,
                                           [found["left"] for found in accounts], size_of(config.memory))
    metrics = write(config, out, steps, [[part_folder(folder, passing.index, job.number) for job in jobs]
                                         for passing in ways], ledger, quarantine, {"told": told, **sides})
    write_throughput(out, config, ledger, monotonic() - start)
    shutil.rmtree(folder)
    if not metrics["documents_kept"]:
        raise nothing_left(sources, out, ledger)
    return metrics


def as_text(config: Config) -> str:
    return json.dumps(config.model_dump(mode="json"))       # pydantic's own JSON has no infinity


def build(text: str) -> Steps:
    """The steps of a configuration, by name."""
    config = Config.model_validate_json(text)
    return {name: STEPS[name](config) for name in config.steps}


def work_off(text: str) -> dict:
    """One job, in whatever thread or process."""
    return sift(Work.from_json(text), build)


def claim(folder: Path, config: Config, jobs: list[Job]) -> Path:
    """The folder of parts, empty unless what lies in it was made from the same configuration and the same jobs."""
    key = fingerprint([essential(config), [job.as_json() for job in jobs],
                       [os.stat(piece.path).st_size if Path(piece.path).exists() else 0
                        for job in jobs for piece in job.pieces]])
    mark = folder / "made_for.json"
    if not mark.exists() or json.loads(mark.read_text(encoding="utf-8")) != key:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_atomic(mark, json.dumps(key))
    return folder


def one_pass(config: Config, folder: Path, passing: Pass, count: int, jobs: list[Job]) -> list[dict]:
    """Every job through one pass; their accounts in order."""
    workers = config.workers or len(os.sched_getaffinity(0))
    batch = min(BATCH_BYTES, max(size_of(config.memory) // (SHARES * workers), 1 << 18))
    works = [Work(str(folder), as_text(config), passing, job, batch, config.profile).as_json() for job in jobs]
    names = ", ".join(filter(None, (passing.decided, *passing.local, passing.gathers))) or "read"
    return list(progress(ENGINES[config.engine](work_off, works, workers), total=len(jobs),
                         name=f"curate, pass {passing.index + 1} of {count} ({names}), parts"))


def set_aside(sources: list[str], accounts: list[dict], quarantine: Quarantine, out: Path, max_bad: float) -> dict:
    """Take together what was no document; `InputError` for a source without any, or for too much of it."""
    good, read = Counter(), 0
    for found in accounts:
        quarantine.entries += found["quarantine"][:max(quarantine.keep - len(quarantine.entries), 0)]
        quarantine.reasons.update(found["quarantined"])
        good.update(found["good"])
    read = sum(good.values())
    quarantine.write(out)
    for source in sources:
        if not good[source]:
            first = next((found["first_bad"][source] for found in accounts if source in found["first_bad"]), None)
            raise unusable(source, first, quarantine)
    if len(quarantine) > max_bad * (read + len(quarantine)):
        worst, many = quarantine.reasons.most_common(1)[0]
        raise InputError("too many rows are unusable", where=str(out / "quarantine.jsonl"),
                         why=f"{len(quarantine)} of {read + len(quarantine)} rows, {many} of them {worst}",
                         hint=f"mend the input, or raise max_bad (now {max_bad})")
    passed, encodings = (sum((Counter(found[name]) for found in accounts), Counter())
                         for name in ("passed", "encodings"))
    return {"passed_over": dict(sorted(passed.items())), "encodings": dict(sorted(encodings.items()))}


def unusable(source: str, first: tuple[str, str, list[str]] | None, quarantine: Quarantine) -> InputError:
    hint = "each row needs a column `text` (and `source`)"
    if first:
        where, reason, columns = first
        return InputError("no row can be used", where=where, why=f"{reason}; the columns are {', '.join(columns)}",
                          hint=hint)
    damage = "".join(f"{len(quarantine)} rows or files are damaged: {entry['where']}: {entry['why']}"
                     for entry in quarantine.entries[-1:])
    return InputError("no row can be read", where=source, why=damage or "it is empty", hint=hint)


def write(config: Config, out: Path, steps: Steps, parts: list[list[Path]], ledger: Ledger, quarantine: Quarantine,
          told: dict) -> dict:
    """Write the corpus and its account, and say what each step dropped."""
    ranges = {f"{name}.{rule}": limits for name in config.steps
              for rule, limits in getattr(steps[name], "ranges", {}).items()}
    output.write_documents(parts[-1], out / "documents.parquet")
    output.write_dropped(parts, out / "dropped.parquet")
    output.write_statistics(parts, out / "statistics.parquet", ranges, [
        {"name": name, "global": hasattr(steps[name], "decide")} for name in config.steps])
    entries = account.funnel(ledger, config.steps)
    for entry in entries:
        entry |= {"found": told["told"][entry["step"]]} if told["told"].get(entry["step"]) else {}
    (read, bytes_read), (kept, bytes_kept) = account.totals(ledger, "read"), account.totals(ledger, "kept")
    alarms = account.alarms(ledger, config.steps)
    write_atomic(out / "curation.json", json.dumps({
        "read": read, "bytes_read": bytes_read, "tokens_read": bytes_read // TOKEN_BYTES,
        "kept": kept, "bytes_kept": bytes_kept, "tokens_kept": bytes_kept // TOKEN_BYTES,
        "quarantined": len(quarantine), "quarantine_reasons": dict(sorted(quarantine.reasons.items())),
        "passed_over": told["passed_over"], "encodings": told["encodings"], "steps": entries, "alarms": alarms,
        "rules": {name: [str(value) if abs(value) == float("inf") else value for value in limits]
                  for name, limits in ranges.items()},
        "sources": account.by_source(ledger),
        "mix": mix(out / "statistics.parquet", out / "documents.parquet")}, indent=1, ensure_ascii=False))
    write_atomic(out / "histograms.json", json.dumps(histograms(out / "statistics.parquet", ranges)))
    write_atomic(out / "samples.json", json.dumps(ledger.shown(), indent=1, ensure_ascii=False))
    counts = report(entries, read, bytes_read, len(quarantine), alarms)
    return {"documents_read": read, "documents_kept": kept, "bytes_read": bytes_read, "bytes_kept": bytes_kept,
            "quarantined": len(quarantine), **{f"dropped/{reason}": number for reason, number in counts.items()}}


def report(entries: list[dict], read: int, bytes_read: int, bad: int, alarms: list[dict]) -> dict[str, int]:
    """Say what each rule dropped; documents by reason."""
    counts: Counter = Counter()
    for line in account.table(entries, (read, bytes_read), bad):
        say(line)
    for entry in entries:
        counts.update({reason: lost["documents"] for reason, lost in entry["reasons"].items()})
    for alarm in alarms[:10]:
        say(f"  look at {alarm['source']}: {alarm['step']} removed {alarm['share']:.0%} of it, "
            f"{alarm['documents']} documents")
    return dict(counts)


def write_throughput(out: Path, config: Config, ledger: Ledger, seconds: float) -> None:
    """How long it took, by step over all workers, and the most memory this process held."""
    _, size = account.totals(ledger, "read")
    write_atomic(out / "throughput.json", json.dumps({
        "seconds": round(seconds, 3), "megabytes_a_second": round(size / 1e6 / max(seconds, 1e-9), 3),
        "worker_seconds": {name: round(value, 3) for name, value in ledger.seconds.items()},
        "engine": config.engine, "peak_memory_gb": round(peak_memory_gb(), 3)}, indent=1))


def nothing_left(sources: list[str], out: Path, ledger: Ledger) -> InputError:
    lost: Counter = Counter()
    for (step, reason, _), number in account.counted(ledger, "dropped", "documents").items():
        lost[step, reason] += number
    step, rule = lost.most_common(1)[0][0]
    rules = getattr(Config.model_fields[step].annotation, "model_fields", {}) if step in Config.model_fields else {}
    mend = f"relax or leave out the rule {step}.{rule}" if rule in rules else f"leave out {step}"
    return InputError("curation dropped every document", where=", ".join(sources),
                      why=", ".join(f"{reason} {number}" for (_, reason), number in lost.items()),
                      hint=f"{mend}; see what it dropped with: bloomery show {out}")


STEPS: dict[str, Callable[[Any], Step | GlobalStep]] = {
    "c4": lambda config: LineRules(config.c4),
    "decontamination": lambda config: Decontaminated(config.decontamination),
    "exact": lambda config: Exact(config.exact),
    "exact_url": lambda config: Exact(config.exact_url),
    "fineweb": lambda config: Heuristic(fineweb_statistics, config.fineweb),
    "generated": lambda config: Heuristic(generated_statistics, config.generated),
    "gopher": lambda config: Heuristic(quality_statistics, config.gopher),
    "language": lambda config: Identify(config.language),
    "minhash": lambda config: NearDuplicates(config.minhash),
    "paragraphs": lambda config: Repeated(config.paragraphs),
    "perplexity": lambda config: PerplexityGate(config.perplexity),
    "pii": lambda config: Replace(config.pii),
    "quality": lambda config: Classify(config.quality),
    "refinedweb": lambda config: LineEdits(config.refinedweb),
    "repetition": lambda config: Heuristic(repetition_statistics, config.repetition),
    "sentences": lambda config: Repeated(config.sentences),
    "substring": lambda config: Passages(config.substring),
    "toxicity": lambda config: Purge(config.toxicity),
    "url": lambda config: Blocklist(config.url),
}
