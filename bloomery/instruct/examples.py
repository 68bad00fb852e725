"""Conversations as examples to train on: rendered with their weights, cut to the context, packed into steps.

The mask comes from rendering (`text/chat.py`); data in which nothing would be trained is an error before any step.
"""

from array import array
from collections.abc import Callable, Sequence

import numpy as np

from bloomery.core.errors import InputError
from bloomery.core.records import Conversation
from bloomery.data.batch import sequence
from bloomery.data.stream import Stream, samples
from bloomery.data.tasks import Example, micro_batches
from bloomery.text.chat import Renderer, fit

HELD_OUT = ("validation", "test")       # splits that are not trained on


def by_split(data: Sequence[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
    """The rows to train on, and those of a validation split; all are trained on where the data has one split only."""
    if len({row.split for row in data}) < 2:
        return list(data), []
    return [row for row in data if row.split not in HELD_OUT], [row for row in data if row.split == "validation"]


def rendered_runs(data: Sequence[Conversation], renderer: Renderer, context: int, *, where: str,
                  truncation: str = "drop", weighted: bool = True) -> tuple[list[Example], dict]:
    """Conversations as examples, with counts of what was dropped and the share of trained tokens.

    `truncation` is the policy for one longer than the context (`text/chat.py`); its own weight multiplies its loss if
    `weighted`.  `InputError` when nothing is left to train on.
    """
    examples, too_long, truncated = [], 0, 0
    for row, conversation in enumerate(data):
        try:
            whole = renderer.conversation(conversation.messages, tools=conversation.tools)
            kept = fit(whole, context + 1, truncation)
        except InputError as error:
            raise InputError(error.what, where=f"{where}: {conversation.id}", why=error.why, hint=error.hint) from error
        if kept is None:
            too_long += 1
            continue
        truncated += len(kept.ids) < len(whole.ids)
        run = sequence(kept.ids, [conversation.weight * w for w in kept.weights] if weighted else kept.weights)
        if any(run.weights):                                    # arrays: 16 bytes a token, lists of numbers take 52
            examples.append(Example(array("i", run.ids), array("i", run.targets), array("d", run.weights),
                                    task=conversation.task, row=row))
    nothing = len(data) - too_long - len(examples)
    if not examples:
        raise InputError("nothing to train on", where=where,
                         why=f"of {len(data)} conversations {too_long} are longer than the context of {context} tokens "
                             f"and {nothing} have no assistant turn", hint="look at the rows with: bloomery show data")
    tokens, trained = sum(len(e.ids) for e in examples), sum(np.count_nonzero(e.weights) for e in examples)
    return examples, {"examples": len(examples), "dropped_examples": too_long + nothing, "dropped/too_long": too_long,
                      "dropped/no_assistant_turn": nothing, "truncated_examples": truncated,
                      "supervised_tokens": int(trained), "supervised_share": trained / tokens}


def packed(runs: list[Example], *, examples: int, micro_tokens: int, seed: int,
           order: Callable[[int], Sequence[int]] | None = None, tasks: bool = True) -> Stream:
    """Each step `examples` runs in the order of `samples`, best-fit into micro-batches of at most `micro_tokens`.

    Another `order` is a function from the step to the numbers of its runs.
    """
    order = order or (lambda step: samples(step, examples, len(runs), seed))
    return lambda step: micro_batches([runs[i] for i in order(step)], micro_tokens, tasks=tasks)
