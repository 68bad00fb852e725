"""Worlds that answer back: what a policy says goes in, what it reads next comes out, until the episode ends.

    asked = world.reset(problem)            the messages the policy begins with
    reply = world.step(said)                what its turn so far gets; None where there is nothing to add

A reply is either `text` that goes on inside the same turn, or `messages` after which the next turn begins.  A world is
asked where a turn ends and wherever one of its `stops` was said.  It may pay, on the way or at the end; what it pays is
added to what the answer is worth.  Everything a world adds is read and never learned: the policy did not say it.
"""

import ast
import operator
import re
import runpy
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from bloomery.core.errors import InputError
from bloomery.core.records import Message, Problem

CLASS = "Environment"                   # what a file of one's own must define
LARGEST = 64                            # operands of a power: a tool must not work for hours


@dataclass(frozen=True)
class Reply:
    """What a world has to say, and to pay."""

    text: str = ""                          # goes on in the same turn
    messages: tuple[Message, ...] = ()      # end the turn; the policy then speaks again
    reward: float = 0.0


class Environment(Protocol):
    """One episode. A fresh one is made for each."""

    stops: tuple[str, ...]              # strings at which a turn is interrupted

    def reset(self, problem: Problem) -> tuple[Message, ...]: ...

    def step(self, said: str) -> Reply | None: ...


class Calculator:
    """A tool inside the answer: `<<48/2=` is completed to `<<48/2=24>>`, the annotations of GSM8K (Cobbe et al. 2021).

    What it cannot compute it completes with `?`.
    """

    stops = ("=",)
    call = re.compile(r"<<([^<>=]*)=$")

    def reset(self, problem: Problem) -> tuple[Message, ...]:
        return problem.prompt

    def step(self, said: str) -> Reply | None:
        found = self.call.search(said)
        return Reply(text=f"{computed(found[1])}>>") if found else Reply() if said.endswith(self.stops) else None


def computed(expression: str) -> str:
    """The value of an arithmetic expression, exactly, as people write it; "?" where there is none."""
    try:
        value = evaluated(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return "?"
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"


def evaluated(node: ast.expr) -> Fraction:
    """Numbers, + - * / ** and brackets; `ValueError` for all else."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return Fraction(str(value))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -evaluated(inner)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base, power = evaluated(left), evaluated(right)
            if power.denominator != 1 or max(abs(base), abs(power)) > LARGEST:
                raise ValueError("too large a power")
            return base ** int(power)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in SIGNS:
            return SIGNS[type(sign)](evaluated(left), evaluated(right))
    raise ValueError("not arithmetic")


def opened(name: str) -> type[Environment]:
    """The world of that name, or the class `Environment` of a Python file."""
    if name in ENVIRONMENTS:
        return ENVIRONMENTS[name]
    try:
        own = runpy.run_path(name).get(CLASS)
    except OSError as error:
        raise InputError("no such environment", where=name, why=str(error),
                         hint=f"one of {', '.join(ENVIRONMENTS)}, or a Python file with a class {CLASS}") from error
    if not all(hasattr(own, method) for method in ("reset", "step", "stops")):
        raise InputError("no environment in this file", where=name,
                         why=f"it defines no class {CLASS} with stops, reset(problem) and step(said)",
                         hint="see bloomery/align/environment.py for the three of them")
    return own


SIGNS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
ENVIRONMENTS: dict[str, type[Environment]] = {"calculator": Calculator}
