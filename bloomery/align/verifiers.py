"""Answers that can be checked: 1 where an answer is right, 0 where it is not.

A verifier takes what was said and the known answer.  What it looks at is the last thing said that can be meant: what
stands in the last \\boxed{...} or behind the last ####, and where there is neither the last number, or all of it.
"""

import re
from collections.abc import Callable
from decimal import Decimal

MARKED = re.compile(r"\\boxed\{([^{}]*)\}|####\s*([^\n]+)")
NUMBER = re.compile(r"(?<![\d.])[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?!\d)")


def marked(text: str) -> str:
    """What is marked as the answer, the last where there are several; without a mark the whole text."""
    found = MARKED.findall(text)
    return next(filter(None, found[-1]), "") if found else text


def number(said: str, known: str) -> float:
    """The last number of the answer is the last number that is known: 1,250 and 1250.0 are one."""
    ours, theirs = last_number(marked(said)), last_number(marked(known))
    if theirs is None:
        raise ValueError(f"the known answer has no number: {known[:80]!r}")
    return float(ours == theirs)


def last_number(text: str) -> Decimal | None:
    found = NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def exact(said: str, known: str) -> float:
    """The same words, whatever their case, the space between them, and a full stop at the end."""
    return float(words(marked(said)) == words(marked(known)))


def contains(said: str, known: str) -> float:
    """The known answer's words stand in what was said, as whole words."""
    return float(bool(re.search(rf"(?<!\w){re.escape(words(known))}(?!\w)", words(said))))


def words(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".")


VERIFIERS: dict[str, Callable[[str, str], float]] = {"exact": exact, "contains": contains, "number": number}
