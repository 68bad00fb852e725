"""Self-consistency: sample several lines of reasoning, keep the answer most of them reach. Wang et al. 2022, section 2.

Only the vote is here.  What the answer of a completion is (the number after "####", a letter) is for the caller to say;
None is a completion without one.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Vote(NamedTuple):
    """`share` is of all completions, those without an answer too; `counts` are by answer, in the order first seen."""

    answer: Hashable | None
    share: float
    counts: dict[Hashable, int]


def majority(answers: Sequence[Hashable | None]) -> Vote:
    """The commonest answer, the first seen among equals; None when no completion has one."""
    if not answers:
        raise ValueError("no answers: nothing to vote on")
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return Vote(None, 0.0, {})
    best = max(counts, key=counts.__getitem__)              # max keeps the first of equals, a Counter the order seen
    return Vote(best, counts[best] / len(answers), dict(counts))
