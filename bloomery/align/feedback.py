"""The feedback stage: preferences that an assistant labels, by principles, in both orders.

    p(y_1 better) = mean over principles of (softmax(l_12)[A] + softmax(l_21)[B]) / 2

with l the log-probabilities of the two letters after the question, y_1 shown first or second.  One who only likes what
stands first says 0.5.  RLAIF: Bai et al. 2022, section 4.1, Lee et al. 2023, section 2.  With `reason` the judge thinks
aloud before it says a letter, and its labels are held between 0.4 and 0.6, which it is otherwise far too sure of
(Bai et al. 2022, section 4.1).  The share that `reward` and `dpo` learn from is p itself, a soft label.

What cannot be read is no label: a comparison of which no principle gave one in both orders is counted and left out, and
so is one that ends at exactly 0.5.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from pydantic import Field

from bloomery.align.assistants import Assistant, Dialogue, opened
from bloomery.align.principles import Principle, PrincipledConfig, as_rows, read_principles
from bloomery.align.written import in_chunks
from bloomery.core.config import Input
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, rows, write_jsonl
from bloomery.core.intervals import wilson
from bloomery.core.metrics import say
from bloomery.core.records import Message, Preference
from bloomery.data.dialects import messages
from bloomery.data.formats import message_rows, preference_row, preferences
from bloomery.generate.judge import OPTIONS, Verdict, share
from bloomery.train.precision import machine

QUESTION = ("Here are a conversation and two answers to it.\n\n{prompt}\n\nAnswer A: {first}\n\nAnswer B: {second}\n\n"
            "{prefer}")
PART = re.compile(r"\{(prompt|first|second|prefer)\}")
SAY, THINK = "Say A or B.", "Think about it in a few sentences."
CONSISTENT = 0.6                # of verdicts that do not depend on the order: below, a judge is warned of
CLAMP = (0.4, 0.6)              # of labels after reasoning


class Config(PrincipledConfig):
    """Label which of two answers is better."""

    data: Input = Field(description="pairs (prompt, chosen, rejected), rows of prompt and answers, or candidates.jsonl")
    average: int = Field(0, ge=0, description="principles each comparison is judged by; 0: all")
    reason: bool = Field(False, description="let the judge think aloud first; its labels are held in 0.4 to 0.6")
    max_tokens: int = Field(256, gt=0, description="longest of these thoughts")
    soft: bool = Field(True, description="keep p as the share of votes; else the winner gets all")
    least_gap: float = Field(0.0, ge=0, lt=0.5, description="a label is at least this far from 0.5")


@dataclass(frozen=True)
class Comparison:
    """Two answers to a prompt; `human` says whether people preferred the first, None where nobody said."""

    id: str
    prompt: Dialogue
    first: str
    second: str
    human: bool | None = None


@dataclass(frozen=True)
class Label:
    """How likely the first answer is the better one, by each principle: shown first and second, None where unread."""

    id: str
    shown: dict[str, tuple[float | None, float | None]]

    @property
    def verdicts(self) -> list[Verdict]:
        return [Verdict(*pair) for pair in self.shown.values() if None not in pair]

    @property
    def p(self) -> float | None:
        """Averaged over what could be read in both orders; None where nothing could."""
        return fmean(one.p for one in self.verdicts) if self.verdicts else None


# --- what is compared -------------------------------------------------------------------------------------------------

def comparisons(path: str, quarantine: Quarantine) -> list[Comparison]:
    """Human pairs, or all neighbours among the answers to a prompt."""
    pairs = Quarantine()
    try:
        found = [Comparison(one.id, one.prompt, one.chosen, one.rejected, True) for one in preferences(path, pairs)]
    except InputError as error:
        found = [one for row, where in rows(path, quarantine) for one in of_row(row, where, quarantine)]
        if not found:
            raise error from None
        return found
    quarantine.entries += pairs.entries
    quarantine.reasons.update(pairs.reasons)
    return found


def of_row(row: dict, where: str, quarantine: Quarantine) -> list[Comparison]:
    """The comparisons of a row with `answers`, or with `candidates` as drawn in rounds: each with the next one."""
    prompt = messages(row.get("prompt"), "user")
    answers = row.get("answers") or [one.get("text") for one in row.get("candidates") or () if isinstance(one, dict)]
    if isinstance(prompt, str) or not all(isinstance(text, str) for text in answers):
        quarantine.add(where, prompt if isinstance(prompt, str) else "an answer that is not a text")
        return []
    texts = list(dict.fromkeys(text for text in answers if text.strip()))
    if len(texts) < 2:
        quarantine.add(where, "fewer than two different answers")
    name = str(row.get("id") or where)
    return [Comparison(f"{name}#{at}" if len(texts) > 2 else name, prompt, one, other)
            for at, (one, other) in enumerate(zip(texts, texts[1:], strict=False))]


# --- labels -----------------------------------------------------------------------------------------------------------

def asked_by(config: Config, principles: list[Principle], place: int) -> list[Principle]:
    """The principles a comparison is judged by: all, or the next few in a circle, so that each is used as often."""
    count = config.average or len(principles)
    return [principles[(place * count + step) % len(principles)] for step in range(min(count, len(principles)))]


def question(one: Comparison, principle: Principle, *, swapped: bool, ending: str) -> Dialogue:
    said = "\n\n".join(f"{message.role}: {message.content}" for message in one.prompt)
    first, second = (one.second, one.first) if swapped else (one.first, one.second)
    parts = {"prompt": said, "first": first, "second": second, "prefer": f"{principle.prefer} {ending}"}
    return (Message("user", PART.sub(lambda found: parts[found[1]], QUESTION)),)    # once: answers are not looked at


def labelled(config: Config, assistant: Assistant, part: Sequence[Comparison], principles: list[Principle],
             start: int) -> list[Label]:
    """Labels of a chunk of comparisons, which is asked as one."""
    asked = [(row, principle, swapped) for row in range(len(part))
             for principle in asked_by(config, principles, start + row) for swapped in (False, True)]
    dialogues = [question(part[row], principle, swapped=swapped, ending=THINK if config.reason else SAY)
                 for row, principle, swapped in asked]
    if config.reason:
        own = [(config.seed << 40) + (start << 20) + number for number in range(len(dialogues))]
        thoughts = assistant.replies(dialogues, max_tokens=config.max_tokens, temperature=1.0, seeds=own)
        dialogues = [(*dialogue, Message("assistant", thought.text or "..."), Message("user", f"So which one? {SAY}"))
                     for dialogue, thought in zip(dialogues, thoughts, strict=True)]
    read_out = assistant.letters(dialogues, OPTIONS)
    shown: list[dict[str, tuple[float | None, float | None]]] = [{} for _ in part]
    for at in range(0, len(asked), 2):
        row, principle, _ = asked[at]
        shown[row][principle.name] = both_orders(read_out[at], read_out[at + 1], reason=config.reason)
    return [Label(one.id, own) for one, own in zip(part, shown, strict=True)]


def both_orders(first: list[float] | None, second: list[float] | None, *,
                reason: bool) -> tuple[float | None, float | None]:
    """How likely the first answer is the better one, from the letters in either order; None for an order unread."""
    pair = (None if first is None else share(*first), None if second is None else share(*reversed(second)))
    return tuple(None if p is None else min(max(p, CLAMP[0]), CLAMP[1]) if reason else p for p in pair)


def preference(one: Comparison, label: Label, config: Config) -> Preference | str:
    """The pair as it is learned from; a string is why there is none."""
    p = label.p
    if p is None:
        return "unparseable"
    if p == 0.5 or abs(p - 0.5) < config.least_gap:
        return "undecided"
    chosen, rejected = (one.first, one.second) if p > 0.5 else (one.second, one.first)
    return Preference(one.prompt, chosen, rejected, kind="feedback", id=one.id,
                      share=max(p, 1 - p) if config.soft else 1.0)


def figures(found: Sequence[tuple[Comparison, Label]]) -> dict:
    """How often the order made no difference, how often people agree, and what could not be read."""
    verdicts = [one for _, label in found for one in label.verdicts]
    asked = sum(len(label.shown) for _, label in found)
    told = {"comparisons": len(found), "questions": 2 * asked,
            "unparseable": sum(p is None for _, label in found for pair in label.shown.values() for p in pair)}
    if verdicts:
        told |= {"order_consistency": fmean(one.consistent for one in verdicts),
                 "first_shown": fmean((one.shown_first + 1 - one.shown_second) / 2 for one in verdicts),
                 "certainty": fmean(abs(one.p - 0.5) * 2 for one in verdicts)}
    names = dict.fromkeys(name for _, label in found for name in label.shown)
    told["consistency_by_principle"] = {
        name: fmean(values) for name in names if (values := [
            Verdict(*label.shown[name]).consistent for _, label in found
            if name in label.shown and None not in label.shown[name]])}
    judged = [(label.p > 0.5) == one.human for one, label in found
              if one.human is not None and label.p not in (None, 0.5)]
    if judged:
        low, high = wilson(sum(judged), len(judged))
        told |= {"agreement": fmean(judged), "agreement_low": low, "agreement_high": high}
    return told


def run(config: Config, out: Path) -> dict:
    """`preferences.jsonl` with soft labels, and what was said by each principle in `labels.jsonl`."""
    principles, quarantine = read_principles(config.principles, "prefer"), Quarantine()
    found = comparisons(config.data, quarantine)
    quarantine.write(out)
    compute, device = machine(config)
    assistant = opened(config, compute=compute, device=device)
    path = out / "labels.jsonl"

    def make(part: Sequence[Comparison], start: int) -> list[dict]:
        return [asdict(label) | {"p": label.p, "prompt": message_rows(one.prompt)} for one, label in
                zip(part, labelled(config, assistant, part, principles, start), strict=True)]

    done = in_chunks(path, found, make, name="comparing answers")
    labels = [Label(row["id"], {name: tuple(pair) for name, pair in row["shown"].items()}) for row in done]
    pairs = [preference(one, label, config) for one, label in zip(found, labels, strict=True)]
    dropped = Counter(f"dropped/{pair}" for pair in pairs if isinstance(pair, str))
    kept = [pair for pair in pairs if isinstance(pair, Preference)]
    if not kept:
        raise InputError("no comparison has a label", where=str(path),
                         why=", ".join(f"{times} {name.partition('/')[2]}" for name, times in dropped.items()),
                         hint="ask a model that chats and can say A or B")
    write_jsonl(out / "preferences.jsonl", map(preference_row, kept))
    write_jsonl(out / "principles.jsonl", as_rows(principles))
    told = figures(list(zip(found, labels, strict=True)))
    say(f"  feedback: {len(kept)} of {len(found)} comparisons labelled; the order made no difference in "
        f"{told['order_consistency']:.0%}")
    if told["order_consistency"] < CONSISTENT:
        say(f"  warning: this judge goes by which answer stands first (it says A with {told['first_shown']:.0%}): "
            "its labels are close to chance; take a better one")
    return told | dict(dropped) | {"preferences": len(kept), "quarantined": len(quarantine)}
