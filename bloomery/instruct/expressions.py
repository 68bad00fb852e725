"""Small Python expressions and their values: a task whose answers are known because the interpreter computes them.

Templates are drawn in turn, so that each kind is about equally frequent until its space is used up; what a template
makes depends only on the seed and the count of its draws.  No expression occurs twice, no value has a `repr` above
`LONGEST` characters, and nothing is used whose `repr` depends on the process (sets, addresses).
"""

from collections.abc import Callable
from random import Random
from typing import TypeVar

T = TypeVar("T")

LONGEST = 40
PATIENCE = 40                       # draws in a row that give nothing new before a template counts as used up

WORDS = (
    "apple", "banana", "bread", "bridge", "candle", "carpet", "cherry", "cloud", "copper", "coral", "cotton",
    "desert", "dragon", "eagle", "ember", "feather", "fire", "forest", "garden", "ginger", "glass", "grape",
    "harbor", "honey", "island", "ivory", "jacket", "jungle", "kettle", "lemon", "level", "maple", "marble",
    "meadow", "melon", "mirror", "moon", "orange", "paper", "pepper", "planet", "pocket", "rabbit", "river",
    "rocket", "saddle", "salt", "shadow", "silver", "spring", "stone", "summer", "sun", "table", "tiger", "tulip",
    "valley", "velvet", "water", "willow", "window", "winter", "yellow",
)


def word(rng: Random) -> str:
    return rng.choice(WORDS)


def words(rng: Random, low: int = 2, high: int = 3) -> list[str]:
    return rng.sample(WORDS, rng.randint(low, high))


def numbers(rng: Random, low: int = 3, high: int = 5) -> list[int]:
    return [rng.randint(0, 20) for _ in range(rng.randint(low, high))]


def letter(rng: Random, text: str) -> str:
    """A letter that is in the text three times out of four."""
    return rng.choice(text) if rng.random() < 0.75 else rng.choice("abcdefghijklmnopqrstuvwxyz")


def cut(rng: Random, length: int) -> str:
    """A slice of something of that length."""
    at = rng.randint(1, length - 1)
    return rng.choice((f"[:{at}]", f"[{at}:]", f"[-{at}:]", f"[{rng.randint(0, at)}:{at + 1}]"))


def replaced(rng: Random) -> str:
    text = word(rng)
    old = rng.choice(text)
    return f"{text!r}.replace({old!r}, {rng.choice('aeiou'.replace(old, ''))!r})"


def indexed(rng: Random) -> str:
    values = rng.choice((numbers, words))(rng)
    return f"{values}[{rng.randint(-len(values), len(values) - 1)}]"


def looked_up(rng: Random) -> str:
    keys = words(rng)
    table = {key: rng.randint(0, 20) for key in keys}
    return rng.choice((f"{table}[{rng.choice(keys)!r}]", f"{table}.get({word(rng)!r}, 0)"))


def member(rng: Random) -> str:
    values, negation = numbers(rng), rng.choice(("in", "not in"))
    return f"{rng.choice([*values, rng.randint(0, 20)])} {negation} {values}"


def boolean(rng: Random) -> str:
    a, b, c = (rng.randint(0, 20) for _ in range(3))
    return rng.choice((f"{a} < {b} and {b} < {c}", f"{a} > {b} or {b} > {c}", f"{a} == {b} or {a} < {c}",
                       f"not {a} < {b}"))


def starts(rng: Random) -> str:
    text, (method, end) = word(rng), rng.choice((("startswith", 0), ("endswith", -1)))
    return f"{text!r}.{method}({rng.choice((text[end], letter(rng, text)))!r})"


def parted(rng: Random) -> str:
    mark = rng.choice("-, /")
    return f"{mark.join(words(rng))!r}.split({mark!r})"


def on(draw: Callable[[Random], T], form: Callable[[Random, T], str]) -> Callable[[Random], str]:
    """A template that names what it drew more than once."""
    return lambda rng: form(rng, draw(rng))


def of_word(method: str) -> Callable[[Random], str]:
    return lambda rng: f"{word(rng)!r}.{method}()"


TEMPLATES: dict[str, Callable[[Random], str]] = {
    "add": lambda rng: f"{rng.randint(0, 50)} + {rng.randint(0, 50)}",
    "subtract": lambda rng: f"{rng.randint(0, 50)} - {rng.randint(0, 50)}",
    "multiply": lambda rng: f"{rng.randint(0, 12)} * {rng.randint(0, 12)}",
    "divide": lambda rng: f"{rng.randint(0, 60)} {rng.choice(('//', '%'))} {rng.randint(2, 9)}",
    "compare": lambda rng: f"{rng.randint(0, 50)} {rng.choice(('<', '>', '==', '<=', '>='))} {rng.randint(0, 50)}",
    "boolean": boolean,
    "member": member,
    "length": lambda rng: f"len({rng.choice((word, numbers, words))(rng)!r})",
    "upper": of_word("upper"),
    "title": lambda rng: f"{' '.join(words(rng, 1, 2))!r}.title()",
    "reverse": lambda rng: f"{rng.choice((word, numbers))(rng)!r}[::-1]",
    "slice_word": on(word, lambda rng, text: f"{text!r}{cut(rng, len(text))}"),
    "slice_list": on(numbers, lambda rng, values: f"{values}{cut(rng, len(values))}"),
    "index": indexed,
    "repeat": lambda rng: f"{word(rng)[:rng.randint(1, 4)]!r} * {rng.randint(2, 4)}",
    "concatenate": lambda rng: " + ".join(map(repr, words(rng, 2, 2))),
    "replace": replaced,
    "count": on(word, lambda rng, text: f"{text!r}.count({letter(rng, text)!r})"),
    "find": on(word, lambda rng, text: f"{text!r}.find({letter(rng, text)!r})"),
    "starts": starts,
    "join": lambda rng: f"{rng.choice('-+_,/')!r}.join({words(rng)})",
    "split": parted,
    "sort": lambda rng: f"sorted({rng.choice((numbers, words))(rng)})",
    "sum": lambda rng: f"sum({numbers(rng, 2, 4)})",
    "extreme": lambda rng: f"{rng.choice(('max', 'min'))}({numbers(rng)})",
    "dictionary": looked_up,
}


def expressions(count: int, seed: int) -> list[tuple[str, str]]:
    """Up to `count` distinct (expression, `repr` of its value); fewer when every template is used up."""
    found: dict[str, str] = {}
    generators = {name: Random(f"{seed} {name}") for name in TEMPLATES}
    while generators and len(found) < count:
        for name, rng in list(generators.items()):
            drawn = (TEMPLATES[name](rng) for _ in range(PATIENCE))
            fresh = next((text for text in drawn if text not in found and len(value(text)) <= LONGEST), None)
            if fresh is None:
                del generators[name]
            else:
                found[fresh] = value(fresh)
    return list(found.items())[:count]


def value(expression: str) -> str:
    """The `repr` of what an expression of ours evaluates to."""
    return repr(eval(expression))
