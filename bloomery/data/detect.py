"""Which format a row is in, told by its columns and never by the name of its file.

A format is the columns it needs.  Of those whose columns are all there the one that needs most is meant: `prompt,
chosen, rejected` and not `chosen, rejected`.  Two that are equally good are an error that says how to choose, and so
are columns that no format has.  `columns` maps their names to ours, `{"question": "prompt", "reply": "completion"}`;
what it names counts first.  The formats are those of TRL, LLaMA-Factory, verl and open-instruct.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from bloomery.core.config import nearest
from bloomery.core.errors import InputError
from bloomery.core.metrics import say
from bloomery.data.dialects import Turns, exchange, instruction, turns_of


@dataclass(frozen=True)
class Format:
    """`dialogue` reads the turns: all of a conversation or a rating, a prompt's of the others."""

    name: str
    needs: tuple[str, ...]
    dialogue: Callable[[dict], Turns | str] = lambda row: ()
    also: tuple[str, ...] = ()                              # columns it reads where they are there


class Detector:
    """Finds the format of each row of one kind, once for each set of columns, and says what it found."""

    def __init__(self, kind: str, columns: Mapping[str, str], path: Path):
        self.kind, self.columns, self.path = kind, dict(columns), path
        self.known: dict[frozenset[str], Format | None] = {}
        self.said: set[str] = set()
        self.seen: set[str] = set()                         # columns that any row had
        self.strange: dict[str, tuple[str, list[str]]] = {} # files no row of which is known yet: its first, its columns
        self.fine: set[str] = set()
        targets = list(columns.values())
        for theirs, ours in columns.items():
            if ours not in COLUMNS:
                near = nearest(ours, sorted(COLUMNS))
                raise InputError(f"no format has a column {ours}", where=f"columns.{theirs}",
                                 hint=f"did you mean {near}?" if near else f"one of {', '.join(sorted(COLUMNS))}")
            if targets.count(ours) > 1:
                raise InputError(f"two columns are mapped to {ours}", where=f"columns.{theirs}", hint="keep one")

    def renamed(self, row: dict) -> dict:
        """The row with our names, without what is None: Arrow fills a row with the columns of the others."""
        kept = {name: value for name, value in row.items() if value is not None}
        self.seen.update(row)
        if not self.columns:
            return kept
        mapped = {ours: kept[theirs] for theirs, ours in self.columns.items() if theirs in kept}
        return {name: value for name, value in kept.items() if name not in self.columns and name not in mapped} | mapped

    def format_of(self, row: dict, where: str) -> Format | None:
        """The format of a renamed row, or None; `InputError` if it might as well be another."""
        names = frozenset(row)
        if names not in self.known:
            found = candidates(self.kind, names, self.columns.values())
            if len(found) > 1:
                raise self.ambiguous(found, row, where)
            self.known[names] = found[0] if found else None
            self.speak(names)
        file = where.rpartition(":")[0]
        if self.known[names]:
            self.fine.add(file)
        else:
            self.strange.setdefault(file, (where, list(row)))
        return self.known[names]

    def finish(self) -> None:
        """`InputError` for the first file of which no row was known, and for a mapped column that no row had."""
        for where, names in (first for file, first in self.strange.items() if file not in self.fine):
            raise InputError("a file in no known format", where=where, hint=self.advice(names),
                             why=f"the columns are {', '.join(names)}")
        if absent := self.absent():
            raise InputError(f"no row has the column {absent[0]}", where=f"columns.{absent[0]}",
                             why=f"{self.path} has {', '.join(sorted(self.seen))}", hint="name one of these")

    def absent(self) -> list[str]:
        return [theirs for theirs in self.columns if theirs not in self.seen]

    def speak(self, names: frozenset[str]) -> None:
        """One line on what a format was known by, and on columns that nothing reads."""
        form = self.known[names]
        if form and form.name not in self.said:
            self.said.add(form.name)
            spare = sorted(names - {*form.needs, *form.also, *CARRIED}) if self.kind != "problems" else []
            say(f"{self.path}: {self.kind}, {form.name} format by the columns {', '.join(form.needs)}" +
                f"; not read: {', '.join(spare)}" * bool(spare))

    def ambiguous(self, found: list[Format], row: dict, where: str) -> InputError:
        shared = set.intersection(*(set(form.needs) for form in found))
        ways = (" ".join(f"columns.{name}={name}" for name in form.needs if name not in shared) for form in found)
        return InputError("the columns fit more than one format", where=where,
                          why=f"{' or '.join(form.name for form in found)}; the columns are {', '.join(row)}",
                          hint=f"say which is meant: {', or '.join(ways)}")

    def advice(self, names: list[str]) -> str:
        """What to do about columns that no format of this kind has: the mapping that would help, or another stage."""
        mapping = next(filter(None, (guessed(form, names) for form in FORMATS[self.kind])), "columns.THEIRS=OURS")
        other = next((f"; or are they {kind}, for {verbs}?" for kind, verbs in READ_BY.items()
                      if kind != self.kind and candidates(kind, frozenset(names))), "")
        absent = f"no row has the mapped column {', '.join(self.absent())}; " if names and self.absent() else ""
        return f"{absent}{self.kind} have {self.expected()}; name yours with {mapping}{other}"

    def expected(self) -> str:
        return " or ".join(listed(form.needs) for form in FORMATS[self.kind])


def candidates(kind: str, names: frozenset[str], chosen: Collection[str] = ()) -> list[Format]:
    """The formats whose columns are all there, without those that need fewer of the same; `chosen` columns first.

    A pair's prompt is no conversation, though it has the columns of one.
    """
    rivals = FORMATS["preferences"] if kind == "conversations" else ()
    found = [form for form in (*FORMATS[kind], *rivals) if names.issuperset(form.needs)]
    most = max((len(set(form.needs).intersection(chosen)) for form in found), default=0)
    found = [form for form in found if len(set(form.needs).intersection(chosen)) == most]
    return [form for form in found if form in FORMATS[kind] and
            not any(set(form.needs) < set(other.needs) for other in found)]


def listed(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def guessed(form: Format, names: list[str]) -> str:
    """The mapping that makes a format of these columns, by what they are usually called; "" if one is missing."""
    pairs = [(next((name for name in names if name == ours or name.lower() in SYNONYMS.get(ours, ())), ""), ours)
             for ours in form.needs]
    return " ".join(f"columns.{theirs}={ours}" for theirs, ours in pairs) if all(theirs for theirs, _ in pairs) else ""


ASIDE = ("system",)
INSTRUCTION = ("input", "context", "history", *ASIDE)
DIALOGUES = (
    Format("messages", ("messages",), turns_of("messages"), ASIDE),
    Format("prompt-completion", ("prompt", "completion"), exchange("prompt", "completion"), ASIDE),
    Format("ShareGPT", ("conversations",), turns_of("conversations"), ASIDE),
    Format("Alpaca", ("instruction", "output"), instruction("output"), INSTRUCTION),
    Format("Dolly", ("instruction", "response"), instruction("response"), INSTRUCTION))
FORMATS = {
    "documents": (Format("text", ("text",)),),
    "conversations": DIALOGUES,
    "preferences": (
        Format("preference", ("prompt", "chosen", "rejected"), exchange("prompt"), ASIDE),
        Format("implicit-prompt preference", ("chosen", "rejected"), also=ASIDE),
        Format("ShareGPT preference", ("conversations", "chosen", "rejected"), turns_of("conversations"), ASIDE),
        Format("Alpaca preference", ("instruction", "chosen", "rejected"), instruction(), INSTRUCTION)),
    "rankings": (
        Format("ranking", ("prompt", "answers", "ranks"), exchange("prompt"), ASIDE),
        Format("scored answers", ("prompt", "answers", "scores"), exchange("prompt"), ASIDE)),
    "ratings": tuple(Format(f"{form.name}-and-{label}", (*form.needs, label), form.dialogue, form.also)
                     for form, label in product(DIALOGUES, ("label", "kto_tag"))),
    "problems": (
        Format("prompt-only", ("prompt",), exchange("prompt"), ASIDE),
        Format("verl", ("data_source", "prompt", "reward_model"), exchange("prompt"), ASIDE),
        Format("RLVR", ("messages", "ground_truth"), turns_of("messages"), ASIDE)),
    "step ratings": (Format("stepwise", ("prompt", "completions", "labels")),)}
CARRIED = ("task", "kind", "id", "weight", "split", "source", "tools", "margin", "share", "votes")
COLUMNS = {name for forms in FORMATS.values() for form in forms for name in (*form.needs, *form.also)} | {
    *CARRIED, "ground_truth", "solution", "answer"}
READ_BY = {"step ratings": "a process reward model", "preferences": "reward, dpo and its kin", "ratings": "kto",
           "rankings": "reward", "conversations": "sft", "documents": "curate, tokenizer and shards",
           "problems": "grpo and its kin"}
SYNONYMS = {"prompt": {"question", "query", "problem", "request", "instruction", "input"},
            "completion": {"answer", "response", "reply", "output", "target", "solution", "code"},
            "messages": {"dialogue", "dialog", "conversation", "chat"}, "text": {"content", "document", "body"},
            "chosen": {"preferred", "accepted", "better", "winner", "good"},
            "rejected": {"dispreferred", "worse", "loser", "bad"},
            "label": {"desirable", "thumbs_up", "rating"}}
