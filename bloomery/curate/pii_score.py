"""The pii stage: what the patterns for personal data find in labelled texts, kind by kind, and what they miss.

A row says what is personal in one of two ways.  `spans` are places: {"start": 8, "end": 15, "kind": "email"} in
characters, or [8, 15, "email"].  A find is right that shares a character with a span of its kind; a span is found that
shares one with a find of its kind (partial match of type and boundaries; SemEval 2013 task 9.1).  A `label` says only
whether anything in the text is: then a text counts, and each kind is judged by the texts it was found in.

Kinds that no pattern looks for (names, sums of money) are counted as missed, not left out.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import Field

from bloomery.classic.scores import Score
from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, rows, write_jsonl
from bloomery.core.metrics import progress, say
from bloomery.curate.pii import KindName, Span, personal

REPORT, MISTAKES = "pii.json", "mistakes.jsonl"
SHOWN = 200                                                     # of the mistakes
AROUND = 40                                                     # characters shown before and behind one
NOT = ("", "0", "no", "none", "false")                          # labels that say that nothing is personal


class Config(Settings):
    """Measure the patterns for personal data."""

    data: Input | list[Input] = Field(description="files of labelled rows")
    text: str = Field("text", description="column with the text")
    spans: str = Field("spans", description='column with what is personal: [{"start": 8, "end": 15, "kind": "email"}]')
    label: str | None = Field(None, description="column that says whether anything is, in place of spans")
    kinds: tuple[KindName, ...] = Field((), description="what is looked for; none named: every kind")
    private_ips: bool = Field(False, description="whether addresses that reach nobody (192.168.0.1) are looked for too")


@dataclass
class Counts:
    """Finds and what was to be found, by kind; "all" is everything together."""

    finds: Counter = field(default_factory=Counter)
    right: Counter = field(default_factory=Counter)             # finds that are
    given: Counter = field(default_factory=Counter)
    met: Counter = field(default_factory=Counter)               # of those given

    def add(self, kind: str, *, finds: int = 0, right: int = 0, given: int = 0, met: int = 0) -> None:
        for name in (kind, "all"):
            for counter, more in ((self.finds, finds), (self.right, right), (self.given, given), (self.met, met)):
                counter[name] += more

    def scores(self) -> dict[str, dict]:
        """Precision, recall, F1 and support; where finds and spans do not pair one to one F1 is that of the two."""
        found = {}
        for kind in sorted({*self.finds, *self.given}, key=lambda name: (name != "all", name)):
            precision, recall = Score.of(self.right[kind], self.finds[kind], 0).precision, \
                Score.of(self.met[kind], 0, self.given[kind]).recall
            f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
            found[kind] = asdict(Score(precision, recall, f1, self.given[kind])) | {"finds": self.finds[kind]}
        return found


def run(config: Config, out: Path) -> dict:
    """Look through every text, and write `pii.json` and `mistakes.jsonl`."""
    quarantine, counts, mistakes, texts = Quarantine(), Counts(), [], 0
    for text, given in progress(labelled(config, quarantine), name="looking for personal data"):
        texts += 1
        found = personal(text, config.kinds, private_ips=config.private_ips)
        wrong = compared(found, given, counts) if isinstance(given, list) else as_a_whole(found, given, counts)
        mistakes += [{"mistake": mistake, "kind": kind, "text": text[start:end],
                      "around": text[max(0, start - AROUND):end + AROUND]} for mistake, (kind, start, end) in wrong]
    quarantine.write(out)
    if not texts:
        raise InputError("no labelled text", where=str(config.data), why=f"{len(quarantine)} rows cannot be used",
                         hint="name the columns: text=, and spans= or label=")
    scores = counts.scores()
    write_jsonl(out / MISTAKES, mistakes[:SHOWN])
    write_atomic(out / REPORT, json.dumps({"texts": texts, "kinds": scores}, indent=1))
    for kind, score in scores.items():
        given = f"; {score['support']} given, {score['recall']:.1%} of them found" if score["support"] else ""
        say(f"  pii: {kind}: {score['finds']} found, {score['precision']:.1%} of them right{given}")
    return {"texts": texts, "quarantined": len(quarantine), "mistakes": len(mistakes)} | {
        f"{name}/{kind}": score[name] for kind, score in scores.items() for name in ("precision", "recall", "f1")}


def labelled(config: Config, quarantine: Quarantine) -> Iterator[tuple[str, list[Span] | bool]]:
    """Every text with what is personal in it; a row that does not say is set aside."""
    for path in [config.data] if isinstance(config.data, str) else config.data:
        for row, where in rows(path, quarantine):
            text, column = row.get(config.text), config.label or config.spans
            if not isinstance(text, str) or column not in row:
                missing = config.text if not isinstance(text, str) else column
                quarantine.add(where, f"no column {missing}: the row has {', '.join(row)}")
            elif config.label:
                yield text, str(row[column]).strip().lower() not in NOT
            elif isinstance(given := spans_in(row[column], len(text)), str):
                quarantine.add(where, given)
            else:
                yield text, given


def spans_in(value: object, length: int) -> list[Span] | str:
    """Spans as a row has them, or why they are none."""
    found = []
    for one in value if isinstance(value, list) else [value]:
        given = [one.get(name) for name in ("start", "end", "kind")] if isinstance(one, dict) else one
        if not isinstance(given, list) or list(map(type, given)) != [int, int, str]:
            return f'a span is {{"start": 8, "end": 15, "kind": "email"}}, got {json.dumps(one)[:60]}'
        start, end, kind = given
        if not 0 <= start < end <= length:
            return f"a span from {start} to {end} in a text of {length} characters"
        found.append((kind, start, end))
    return found


def compared(found: list[Span], given: list[Span], counts: Counts) -> list[tuple[str, Span]]:
    """Count finds against spans; finds that are wrong and spans that were missed."""
    wrong = []
    for mistake, ours, theirs in (("not personal", found, given), ("missed", given, found)):
        for span in ours:
            is_met = any(other[0] == span[0] and other[1] < span[2] and span[1] < other[2] for other in theirs)
            counts.add(span[0], **{"finds": 1, "right": is_met} if ours is found else {"given": 1, "met": is_met})
            if not is_met:
                wrong.append((mistake, span))
    return wrong


def as_a_whole(found: list[Span], is_personal: bool, counts: Counts) -> list[tuple[str, Span]]:
    """Count a text with a find against whether it was said to hold one; a kind that was found answers for its texts."""
    for kind in sorted({kind for kind, *_ in found}):
        counts.finds[kind] += 1
        counts.right[kind] += is_personal
    counts.finds["all"] += bool(found)
    counts.right["all"] += bool(found) and is_personal
    counts.given["all"] += is_personal
    counts.met["all"] += bool(found) and is_personal
    return [] if is_personal else [("not personal", span) for span in found]
