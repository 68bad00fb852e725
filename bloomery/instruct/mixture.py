"""A mixture of instruction data: how often each task is drawn, in which order, and with or without its reasoning.

    p_k = w_k min(N_k, cap)^(1/tau) / sum_j w_j min(N_j, cap)^(1/tau)         first the cap, then the temperature

w_k is the weight of task k's source (Raffel et al. 2020, section 3.5.2; the cap is FLAN's mixing rate maximum, Wei et
al. 2022, section 2.4: it limits what a size counts for and deletes nothing, which is what `examples_per_task` is for).

Like the order of pretraining data (`data/stream.py`) everything is a function: sample i of a run belongs to the task
whose turn it is; its place among the task's examples follows from (seed, epoch of the task, position); whether it shows
its reasoning from (seed, epoch, example).  Nothing is saved for a resume.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field

from bloomery.core.config import Input, Settings
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import say
from bloomery.core.records import Conversation, unit_hash
from bloomery.data.contamination import contamination
from bloomery.data.formats import conversations
from bloomery.data.mixture import taken, temperature_shares, turns
from bloomery.data.stream import mix, permute
from bloomery.instruct.paraphrases import STEPS

MARKER = "The answer is "                   # what stands before an answer that follows its reasoning
CHAIN = "/chain"                            # ends the id of the form that shows the reasoning
SHOWN = 12                                  # tasks named on the console


class SourceConfig(Settings):
    """One source of a mixture."""

    data: Input = Field(description="a file, folder or output of conversations")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ")
    task: str = Field("", description="one task's name for all its rows, whatever they call theirs")
    ends: str = Field("", description="what is taken off the end of every answer, as <|endoftext|>")
    weight: float = Field(1.0, gt=0, description="how many times as often its tasks are drawn as their sizes say")


class MixtureConfig(Settings):
    """What is drawn from where, and how often."""

    sources: dict[str, SourceConfig] = Field({}, description="name = source; a row's task is called source/task")
    temperature: float = Field(1.0, gt=0, description="1 draws tasks by size, a high one all alike")
    cap: int | None = Field(None, gt=0, description="a task counts for at most this size when rates are set")
    examples_per_task: int | None = Field(None, gt=0, description="examples kept of a task, chosen by hash")
    curriculum: Literal["none", "quality_first", "quality_often"] = Field(
        "none", description="what a row's weight does: scale its loss, put it earlier in an epoch, draw it more often")
    cot_ratio: float | None = Field(0.5, ge=0, le=1, description="how often an answer that has a reasoning shows it; "
                                                                 "none: the chat template decides")
    evaluation: list[Input] = Field([], description="evaluation files; what shares 13 words with them is left out")

    @property
    def scales_loss(self) -> bool:
        """Whether a conversation's weight is a weight of its loss: where it is not already what orders the data."""
        return self.curriculum == "none"


# --- the examples -------------------------------------------------------------------------------------------------

def pooled(config: MixtureConfig, quarantine: Quarantine, *, seed: int) -> list[Conversation]:
    """All conversations of all sources, each in every form it may be drawn in; what overlaps is quarantined."""
    known = contamination(config.evaluation, quarantine)
    found: dict[str, list[Conversation]] = defaultdict(list)
    for name, source in config.sources.items():
        if "/" in name:
            raise InputError("a source's name holds a slash", where=name, hint="tasks are called source/task")
        for record in conversations(source.data, quarantine, columns=source.columns):
            own = source.task or record.task
            task = f"{name}/{own}" if own not in ("", name) else name
            turns = tuple(replace(turn, content=turn.content.removesuffix(source.ends))
                          if turn.role == "assistant" else turn for turn in record.messages)
            if reason := known.of_conversation(record):
                quarantine.add(record.id, reason)
            elif not all(turn.spoken.strip() for turn in turns):
                quarantine.add(record.id, f"an empty answer before {source.ends}")
            else:
                found[task].append(replace(record, task=task, messages=turns))
    if not found:
        raise InputError("no conversation is left in the mixture", where=", ".join(config.sources),
                         why=f"{len(quarantine)} rows were set aside", hint="see quarantine.jsonl for the reasons")
    kept = [sorted(own, key=lambda row: unit_hash(row.id, f"kept {seed}"))[:config.examples_per_task]
            if config.examples_per_task and len(own) > config.examples_per_task else own for own in found.values()]
    return [form for own in kept for record in own for form in forms(record, config.cot_ratio, seed)]


def forms(record: Conversation, ratio: float | None, seed: int) -> list[Conversation]:
    """The direct form and, where the last answer has a reasoning, the one that shows it and is asked to."""
    *before, answer = record.messages
    if ratio is None or not answer.thinking or not any(turn.role == "user" for turn in before):
        return [record]
    last = max(i for i, turn in enumerate(before) if turn.role == "user")
    step = STEPS[int(unit_hash(record.id, f"step {seed}") * len(STEPS))]
    asked = [replace(turn, content=f"{turn.content}\n{step}") if i == last else turn for i, turn in enumerate(before)]
    told = replace(answer, content=f"{answer.thinking}\n{MARKER}{answer.content}", thinking="")
    direct = replace(record, messages=(*before, replace(answer, thinking="")))
    return [direct, replace(record, messages=(*asked, told), id=record.id + CHAIN)]


# --- their order --------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Task:
    """The examples of one task, the best first: where each form stands among the conversations, -1 where it is not."""

    name: str
    key: int                        # of its own order, the same whatever other tasks there are
    direct: np.ndarray              # (n,) int64
    chain: np.ndarray               # (n,) int64
    quality: np.ndarray             # (n,) float64, falling


class Mixture:
    """Which conversation each sample of a run is.  `InputError` when there are none or none that weighs anything."""

    def __init__(self, pool: Sequence[Conversation], config: MixtureConfig, *, seed: int):
        self.config, self.seed = config, seed
        self.tasks = tasks_of(pool)
        if not self.tasks:
            raise InputError("a mixture of nothing", why="no conversation is left", hint="name a source with examples")
        if config.curriculum == "quality_often":
            for task in self.tasks:
                if not task.quality.sum() > 0:
                    raise InputError("no example of a task can be drawn", where=task.name, why="all weights are 0")
        rates = temperature_shares([len(task.direct) for task in self.tasks], temperature=config.temperature,
                                   cap=config.cap)
        rates = rates * [config.sources[source].weight if source in config.sources else 1.0
                         for source in (task.name.partition("/")[0] for task in self.tasks)]
        self.rates = rates / rates.sum()

    @property
    def shares(self) -> dict[str, float]:
        """The share of each task in the samples of a run."""
        return {task.name: share for task, share in zip(self.tasks, self.rates.tolist(), strict=True)}

    def samples(self, step: int, size: int) -> np.ndarray:
        """The conversations of step `step`, (size,) int64 indices into the pool."""
        return self.between(step * size, (step + 1) * size)

    def between(self, first: int, last: int) -> np.ndarray:
        """Samples first..last-1 of a run, (last - first,) int64."""
        turn, place = turns(self.rates, first, last)
        out = np.empty(last - first, np.int64)
        for index in np.unique(turn):
            out[turn == index] = self.visit(self.tasks[index], place[turn == index])
        return out

    def visit(self, task: Task, place: np.ndarray) -> np.ndarray:
        """What a task gives at these places of its own order: its example, and in which form."""
        epoch, position = np.divmod(place, len(task.direct))
        out = np.empty(len(place), np.int64)
        for e in np.unique(epoch).tolist():
            here, key = epoch == e, (self.seed + task.key) * 1_000_003 + e
            member = ORDERS[self.config.curriculum](task, position[here], key)
            draws = uniform(member, key)
            chain = reasoned(draws, task.chain[member] >= 0, self.config.cot_ratio or 0) | (task.direct[member] < 0)
            out[here] = np.where(chain, task.chain[member], task.direct[member])
        return out

    def drawn(self, samples: int) -> dict[str, tuple[int, float]]:
        """How many of the first `samples` samples each task gave, and how many epochs of it they are."""
        counts = taken(self.rates, samples).tolist()
        return {task.name: (count, count / len(task.direct)) for task, count in zip(self.tasks, counts, strict=True)}

    def describe(self) -> None:
        """Say the tasks, their sizes and their shares, the largest first."""
        ranked = sorted(zip(self.rates.tolist(), self.tasks, strict=True), key=lambda pair: -pair[0])
        named = ", ".join(f"{task.name} {share:.1%} of {len(task.direct)}" for share, task in ranked[:SHOWN])
        more = f" and {len(ranked) - SHOWN} more" if len(ranked) > SHOWN else ""
        say(f"  mixture of {len(ranked)} tasks: {named}{more}")


def tasks_of(pool: Sequence[Conversation]) -> list[Task]:
    """The pool by task; the chain of an example follows its direct form, and either may have been dropped."""
    found: dict[str, list[list[int]]] = defaultdict(list)
    for index, record in enumerate(pool):
        direct = pool[index - 1] if index else None
        if direct and (direct.task, direct.id + CHAIN) == (record.task, record.id):
            found[record.task][-1][1] = index
        else:
            found[record.task].append([-1, index] if record.id.endswith(CHAIN) else [index, -1])
    tasks = []
    for name, examples in found.items():
        pairs = np.array(examples, np.int64)                                            # (n, 2)
        quality = np.array([pool[index].weight for index in pairs.max(axis=1)], np.float64)
        best = np.argsort(-quality, kind="stable")
        tasks.append(Task(name, int(unit_hash(name, "task") * 2**40), pairs[best, 0], pairs[best, 1], quality[best]))
    return tasks


def mixed(pool: Sequence[Conversation], config: MixtureConfig, *, seed: int, epoch: int = 0) -> list[Conversation]:
    """As many samples as there are examples, as drawn in that epoch of the mixture: a function of (seed, epoch)."""
    mixture = Mixture(pool, config, seed=seed)
    size = sum(len(task.direct) for task in mixture.tasks)
    return [pool[index] for index in mixture.samples(epoch, size)]


def reasoned(draws: np.ndarray, has_rationale: np.ndarray, ratio: float) -> np.ndarray:
    """Which examples show their reasoning: where a uniform draw is below `ratio` and there is one. Bool, as given."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must be from 0 to 1, got {ratio}")
    return (np.asarray(draws) < ratio) & np.asarray(has_rationale, bool)


def uniform(values: np.ndarray, key: int) -> np.ndarray:
    """A number in [0, 1) for each value and key."""
    return (mix(values.astype(np.uint64), np.uint64(key % 2**64)) >> np.uint64(11)).astype(np.float64) / 2**53


def shuffled(task: Task, position: np.ndarray, key: int) -> np.ndarray:
    """Every example once an epoch, in an order of the epoch's own."""
    return permute(position, len(task.direct), key)


def quality_first(task: Task, position: np.ndarray, key: int) -> np.ndarray:
    """Every example once an epoch, the best first, those of one quality in an order of the epoch's own."""
    first = np.searchsorted(-task.quality, -task.quality[position], "left")
    last = np.searchsorted(-task.quality, -task.quality[position], "right")
    out = np.empty(len(position), np.int64)
    for start, end in {(int(a), int(b)) for a, b in zip(first, last, strict=True)}:
        here = first == start
        out[here] = start + permute(position[here] - start, end - start, key + start)
    return out


def quality_often(task: Task, position: np.ndarray, key: int) -> np.ndarray:
    """n draws an epoch in proportion to quality, each example the whole number below or above what it is due.

    Systematic resampling (Kitagawa 1996): evenly spaced points, with one random start, on the line of summed qualities.
    Equal qualities give every example once.
    """
    n, line = len(task.direct), np.cumsum(task.quality)
    start = uniform(np.array([n]), key)
    points = (permute(position, n, key) + start) / n * line[-1]
    return np.minimum(np.searchsorted(line, points, "right"), np.flatnonzero(task.quality)[-1])


ORDERS = {"none": shuffled, "quality_first": quality_first, "quality_often": quality_often}
