"""Held-out tasks: what fine-tuning has taught is measured on tasks it has not seen, without and with examples.

Held-out examples of tasks that were trained say how well those were learned; only whole tasks kept away say whether a
model follows instructions (Wei et al. 2022, section 2.2).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

import numpy as np

from bloomery.core.errors import InputError
from bloomery.core.records import Conversation, unit_hash
from bloomery.data.stream import permute
from bloomery.instruct.mixture import CHAIN


def parted(pool: Sequence[Conversation],
           names: Sequence[str]) -> tuple[list[Conversation], dict[str, list[Conversation]]]:
    """What is left to train on, and the held-out tasks in their direct form; names may hold * and ?.

    `InputError` for a name that is no task's, and when nothing is left.
    """
    tasks = dict.fromkeys(record.task for record in pool)
    for name in names:
        if not any(fnmatchcase(task, name) for task in tasks):
            near = get_close_matches(name, tasks, n=3, cutoff=0) or ["none"]
            raise InputError("no such task to hold out", where=name, hint=f"there are {', '.join(near)}")
    held_out = {task for task in tasks if any(fnmatchcase(task, name) for name in names)}
    training = [record for record in pool if record.task not in held_out]
    if not training:
        raise InputError("every task is held out", where=", ".join(names), hint="leave one to train on")
    measured = defaultdict(list)
    for record in pool:
        if record.task in held_out and not record.id.endswith(CHAIN):
            measured[record.task].append(record)
    return training, dict(measured)


def few_shot(examples: Sequence[Conversation], shots: int, *, seed: int = 0,
             limit: int | None = None) -> list[Conversation]:
    """Each of the first `limit` examples after `shots` others of the list, drawn by hash, as turns that weigh 0.

    As many as there are where there are fewer; what an example's own system turn says stays first.
    """
    if shots < 0:
        raise ValueError(f"shots must be 0 or more, got {shots}")
    made, places = [], np.arange(min(shots + 1, len(examples)))
    for asked, record in enumerate(examples[:limit]):
        drawn = permute(places, len(examples), int(unit_hash(record.id, f"shots {seed}") * 2**53)).tolist()
        others = [examples[i] for i in drawn if i != asked][:shots]
        shown = [replace(turn, weight=0.0) if turn.role == "assistant" else turn
                 for other in others for turn in other.messages if turn.role != "system"]
        system = [turn for turn in record.messages if turn.role == "system"]
        own = [turn for turn in record.messages if turn.role != "system"]
        made.append(replace(record, messages=(*system, *shown, *own)))
    return made
