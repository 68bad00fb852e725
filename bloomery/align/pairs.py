"""Pairs and rated answers as token ids: what is used, what is not and why, and what is known before training.

The prompt is found by construction: it is what both answers were given to (`data/formats.py`), rendered once.  An item
is a prompt with its answers, so that every algorithm reads the same forest; KTO's second answer belongs to another
prompt, by which it measures how far the policy has moved in general.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Literal, TypeVar

from pydantic import Field

from bloomery.core.config import Settings
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.core.records import Preference, Rating
from bloomery.data.answers import tokens
from bloomery.text.chat import Renderer

BALANCED = (1.0, 4 / 3)         # of weighted desirable to undesirable answers: Ethayarajh et al. 2024, eq. 9


@dataclass(frozen=True)
class Pair:
    """A preference as token ids; `margin` is by how much the chosen answer is better, `share` its share of votes."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    margin: float = 0.0
    share: float = 1.0

    @property
    def answers(self) -> list[list[int]]:
        return [self.chosen, self.rejected]

    @property
    def tokens(self) -> int:
        return tokens(self.prompt, self.answers)


@dataclass(frozen=True)
class Rated:
    """A rated answer as token ids, and an answer to another prompt."""

    prompt: list[int]
    completion: list[int]
    mismatched: list[int]
    desirable: bool

    @property
    def answers(self) -> list[list[int]]:
        return [self.completion, self.mismatched]

    @property
    def tokens(self) -> int:
        return tokens(self.prompt, self.answers)


Item = TypeVar("Item", Pair, Rated)
Items = Sequence[Pair] | Sequence[Rated]


class UnusableConfig(Settings):
    """What becomes of data that cannot be used as it is; what is dropped or cut is always counted."""

    too_long: Literal["drop", "cut_prompt", "cut_answers", "error"] = Field(
        "drop", description="a prompt and answer beyond the context: drop it, or cut the prompt's beginning or the "
                            "answers' ends (a cut answer has no turn-end)")
    equal_answers: Literal["drop", "error"] = Field("drop", description="two answers of which neither is better")
    empty_answers: Literal["drop", "error"] = Field("drop", description="an answer without a word")


DROP = UnusableConfig()


# --- from records -------------------------------------------------------------------------------------------------

def render_pairs(data: list[Preference], renderer: Renderer, context: int, *, where: str,
                 policy: UnusableConfig = DROP) -> tuple[list[Pair], dict[str, int]]:
    """Preferences as ids, and counts of what was dropped or cut. `InputError` if nothing is left, or as `policy` says.

    Answers of other words may be equal as ids.
    """
    pairs, counts = [], Counter()
    for row in data:
        prompt, answers = renderer.prompt(row.prompt), [renderer.answer(row.chosen), renderer.answer(row.rejected)]
        if fitted := fit(prompt, answers, context, policy, counts, where=row.id or where):
            pairs.append(Pair(*fitted, margin=row.margin or 0.0, share=row.share))
    return kept(pairs, "pairs", counts, len(data), context, where)


def render_ratings(data: list[Rating], renderer: Renderer, context: int, *, where: str,
                   policy: UnusableConfig = DROP) -> tuple[list[Rated], dict[str, int]]:
    """Ratings as ids, each with the answer of the next one that has another prompt; counts as `render_pairs` does.

    The mismatched answer is cut where its new prompt leaves too little room: it is measured, never learned.
    """
    fitted, counts = [], Counter()
    for row in data:
        prompt, answer = renderer.prompt(row.prompt), renderer.answer(row.completion)
        if parts := fit(prompt, [answer], context, policy, counts, where=row.id or where):
            fitted.append((*parts, row.desirable))
    if fitted and all(prompt == fitted[0][0] for prompt, *_ in fitted):
        raise InputError("every rated answer is to the same prompt", where=where,
                         why="KTO measures the policy's drift by answers to other prompts",
                         hint="rate answers to two prompts at least")
    items = []
    for place, (prompt, answer, desirable) in enumerate(fitted):
        after = (fitted[(place + step) % len(fitted)] for step in range(1, len(fitted)))
        other = next(found for theirs, found, _ in after if theirs != prompt)
        items.append(Rated(prompt, answer, other[:max(context - len(prompt), 1)], desirable))
    return kept(items, "ratings", counts, len(data), context, where)


def as_ratings(pairs: list[Preference]) -> list[Rating]:
    """The chosen answers as desirable, the rejected as not: what KTO learns from pairs."""
    return [Rating(pair.prompt, text, desirable, pair.id) for pair in pairs
            for text, desirable in ((pair.chosen, True), (pair.rejected, False))]


def fit(prompt: list[int], answers: list[list[int]], context: int, policy: UnusableConfig, counts: Counter, *,
        where: str) -> tuple[list[int], ...] | None:
    """The prompt and its answers within the context, None where they are dropped; both are counted."""
    def drop(reason: str, rule: str) -> None:
        if rule == "error":
            raise InputError(f"a row has {reason.replace('_', ' ')}", where=where, why=f"{reason}=error was asked for",
                             hint=f"mend the row, or {reason}=drop")
        counts[f"dropped/{reason}"] += 1

    over = len(prompt) + max(map(len, answers)) - context
    if over > 0 and policy.too_long == "cut_prompt" and over < len(prompt):
        counts["cut/prompts"] += 1
        prompt = prompt[over:]
    elif over > 0 and policy.too_long == "cut_answers" and len(prompt) < context:
        counts["cut/answers"] += sum(len(prompt) + len(answer) > context for answer in answers)
        answers = [answer[:context - len(prompt)] for answer in answers]
    elif over > 0:
        return drop("too_long", policy.too_long)
    if any(len(answer) < 2 for answer in answers):
        return drop("empty_answers", policy.empty_answers)
    if len(answers) == 2 and answers[0] == answers[1]:
        return drop("equal_answers", policy.equal_answers)
    return prompt, *answers


def kept(items: list[Item], name: str, counts: Counter, total: int, context: int,
         where: str) -> tuple[list[Item], dict[str, int]]:
    """Items and all counts. `InputError` when no item is left, with the reasons."""
    reasons = ("too_long", "equal_answers", "empty_answers")
    if not items:
        why = ", ".join(f"{counts[f'dropped/{reason}']} have {reason.replace('_', ' ')}" for reason in reasons[1:])
        raise InputError("no preference pair is left" if name == "pairs" else "no rating is left", where=where,
                         why=f"of {total} rows {counts['dropped/too_long']} are longer than the context of {context} "
                             f"tokens, {why}", hint="look at the rows with: bloomery show data")
    return items, {name: len(items), **{f"dropped/{reason}": counts[f"dropped/{reason}"] for reason in reasons},
                   **{name: count for name, count in counts.items() if name.startswith("cut/")}}


def refuse(quarantine: Quarantine, policy: UnusableConfig) -> None:
    """`InputError` for rows that reading has set aside and the policy does not want dropped."""
    for reason, option in (("empty answer", "empty_answers"), ("equal answers", "equal_answers")):
        if quarantine.reasons[reason] and getattr(policy, option) == "error":
            first = next(entry["where"] for entry in quarantine.entries if entry["why"].startswith(reason))
            raise InputError(f"{quarantine.reasons[reason]} rows have {option.replace('_', ' ')}", where=first,
                             why=f"{option}=error was asked for", hint=f"mend the rows, or {option}=drop")


# --- what is known before training --------------------------------------------------------------------------------

def lengths(items: Items) -> dict[str, float]:
    """Tokens of prompts and answers: medians and the longest, and how often the better answer is the longer one."""
    paired = isinstance(items[0], Pair)
    groups = {"prompt": [len(item.prompt) for item in items],
              "chosen": [len(item.answers[0]) for item in items if paired or item.desirable],
              "rejected": [len(item.answers[1 if paired else 0]) for item in items if paired or not item.desirable]}
    found = {f"tokens/{name}_{what}": float(of(sizes)) for name, sizes in groups.items() if sizes
             for what, of in (("median", median), ("max", max))}
    if paired:
        found["tokens/chosen_longer"] = mean(len(item.chosen) > len(item.rejected) for item in items)
    return found


def described(items: Items) -> str:
    """`lengths` in words, for people to see before training."""
    found = lengths(items)
    sizes = ", ".join(f"{name} {found[f'tokens/{name}_median']:.0f} (longest {found[f'tokens/{name}_max']:.0f})"
                      for name in ("prompt", "chosen", "rejected") if f"tokens/{name}_median" in found)
    longer = found.get("tokens/chosen_longer")
    return f"median tokens: {sizes}" + ("" if longer is None else f"; the chosen answer is the longer in {longer:.0%}")


def shared_prompts(items: Items, held_out: Items) -> int:
    """How many held-out items have a prompt that is trained on: of those a good score may be remembered."""
    trained = {tuple(item.prompt) for item in items}
    return sum(tuple(item.prompt) in trained for item in held_out)


def imbalance(items: Sequence[Rated], desirable_weight: float, undesirable_weight: float) -> str | None:
    """What is wrong with the weights of KTO's two classes, or None; one class alone is legal."""
    wanted = sum(item.desirable for item in items)
    unwanted = len(items) - wanted
    if not wanted or not unwanted:
        return None
    ratio = desirable_weight * wanted / (undesirable_weight * unwanted)
    if BALANCED[0] - 1e-6 <= ratio <= BALANCED[1] + 1e-6:
        return None
    weight = undesirable_weight * unwanted / wanted
    return f"{wanted} desirable and {unwanted} undesirable answers weigh {ratio:.2f} to 1; the paper keeps that " \
           f"between 1 and 1.33: desirable_weight={weight:.3g} to {weight * 4 / 3:.3g}"
