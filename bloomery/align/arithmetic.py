"""Are two answers the same number, or the same expression?  Compared exactly, and never with `eval`.

Numbers are fractions: 1,250 = 1250.0, 50% = 0.5 = 1/2, \\frac{3}{4} = 0.75, 1 1/2 = 1.5.  A percentage also equals its
bare number, since data write "50" for "50%".

Expressions are parsed by a grammar of their own, in plain or LaTeX notation:

    sum := product (+- product)*     product := power (* / · implicit power)*     power := atom (^ power)?
    atom := number | name | function atom | \\frac{a}{b} | \\sqrt[n]{a} | ( sum ) | |sum| | -power

and are equal if they are as rational numbers, or, with names or roots in them, at random rational points: two different
polynomials of degree d agree at a random one of n points with a chance of at most d / n (Schwartz 1980).  Left out:
matrices, units, inequalities, and what needs assumptions about the sign of a name.
"""

import cmath
import math
import random
import re
from collections.abc import Callable, Iterator
from fractions import Fraction

NUMBER = re.compile(r"(?<![\d.])[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\d))?|\.\d+)"
                    r"(?:\s*/\s*\d+(?:\.\d+)?)?(?!\d)\s*%?")
MIXED = re.compile(r"(?<![\d./])([-+]?\d+)\s+(\d+)\s*/\s*(\d+)(?![\d./])")
FRAC = re.compile(r"\\[dt]?frac\s*\{\s*(-?[\d.]+)\s*\}\s*\{\s*(-?[\d.]+)\s*\}|\\[dt]?frac\s*(\d)\s*(\d)")
POWER_OF_TEN = re.compile(r"\s*(?:\\times|\\cdot|[*x])\s*10\s*\^\s*\{?([-+]?\d{1,3})\}?")
PLAIN = (("−", "-"), ("–", "-"), ("{,}", ","), (r"\,", ""), (r"\!", ""), (r"\;", ""), (r"\ ", " "), (r"\%", "%"),
         (r"\$", ""), ("$", ""), (r"\left", ""), (r"\right", ""), ("×", "*"), ("·", "*"), ("÷", "/"), ("π", r"\pi "))
LONGEST, DEEPEST, POINTS = 1000, 60, 6          # characters, brackets within brackets, random points
LARGEST_POWER, LARGEST_BITS = 256, 20_000       # of what is kept exact
NEAR = 1e-9                                     # relative, of values that are not rational


def plain(text: str) -> str:
    """LaTeX spacing, currency and other signs as plain ones."""
    for sign, meant in PLAIN:
        text = text.replace(sign, meant)
    return text


# --- numbers ----------------------------------------------------------------------------------------------------------

def last_number(text: str) -> tuple[Fraction, bool] | None:
    """The last number of a text, and whether it is a percentage; None without one."""
    text = FRAC.sub(lambda found: f" {found[1] or found[3]}/{found[2] or found[4]} ", plain(text))
    text = MIXED.sub(mixed, POWER_OF_TEN.sub(r"e\1", text))
    found = NUMBER.findall(text)
    return read(found[-1]) if found else None


def mixed(found: re.Match) -> str:
    """1 1/2 as 3/2."""
    whole, above, below = found[1], int(found[2]), int(found[3])
    return found[0] if not below or above >= below else \
        f"{'-' if whole[0] == '-' else ''}{abs(int(whole)) * below + above}/{below}"


def read(text: str) -> tuple[Fraction, bool]:
    """A number as `NUMBER` finds it; what is divided by 0 counts as its first part."""
    whole = "".join(text.split()).replace(",", "")
    above, _, below = whole.removesuffix("%").partition("/")
    divisor = Fraction(below) if below else Fraction(1)
    return Fraction(above) / (divisor or 1), whole.endswith("%")


def equal_numbers(ours: tuple[Fraction, bool], theirs: tuple[Fraction, bool]) -> bool:
    """Of one value; a percentage is its hundredth, or its bare number where only one of them has the sign."""
    (a, a_percent), (b, b_percent) = ours, theirs
    return a == b or a_percent and not b_percent and a / 100 == b or b_percent and not a_percent and b / 100 == a


# --- expressions ------------------------------------------------------------------------------------------------------

Value = Fraction | complex
Node = tuple                                    # (function of values, parts...) or ("number", v) or ("name", n)
TOKEN = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)|\\?([A-Za-z]+|%)|(\*\*|[-+*/^()\[\]{}|,=!_]))")
NAMED = {"pi": complex(math.pi), "e": complex(math.e), "i": 1j}
FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "asin": cmath.asin, "acos": cmath.acos, "atan": cmath.atan,
    "arcsin": cmath.asin, "arccos": cmath.acos, "arctan": cmath.atan, "sinh": cmath.sinh, "cosh": cmath.cosh,
    "tanh": cmath.tanh, "exp": cmath.exp, "ln": cmath.log, "log": cmath.log, "abs": lambda z: complex(abs(z))}
WORDS = {"cdot": "*", "times": "*", "div": "/", "dfrac": "frac", "tfrac": "frac"}


class NoExpression(ValueError):
    """What stands there is not of this grammar."""


class Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str):
        if len(text) > LONGEST:
            raise NoExpression("too long")
        self.tokens, self.at, self.depth = list(tokens(plain(text))), 0, 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.peek()
        if not token or wanted and token != wanted:
            raise NoExpression(f"{wanted or 'more'} expected, not {token or 'the end'}")
        self.at += 1
        return token

    def whole(self) -> Node:
        found = self.sum()
        if self.peek():
            raise NoExpression(f"{self.peek()} left over")
        return found

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise NoExpression("nested too deep")
        found = self.product()
        while self.peek() in ("+", "-"):
            sign = self.take()
            found = (add if sign == "+" else subtract, found, self.product())
        self.depth -= 1
        return found

    def product(self) -> Node:
        found = self.signed()
        while (token := self.peek()) in ("*", "/") or begins(token):
            if token in ("*", "/"):
                self.take()
            found = (divide if token == "/" else multiply, found, self.signed() if token in "*/" else self.power())
        return found

    def signed(self) -> Node:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        found = self.power()
        return (subtract, ("number", Fraction(0)), found) if negative else found

    def power(self) -> Node:
        """-x^2 is -(x^2), x^-1 has a sign of its own, x^y^z is x^(y^z)."""
        base = self.atom()
        while self.peek() in ("%", "!"):
            base = (divide, base, ("number", Fraction(100))) if self.take() == "%" else (factorial, base)
        if self.peek() in ("^", "**"):
            self.take()
            self.depth += 1
            if self.depth > DEEPEST:
                raise NoExpression("nested too deep")
            base = (raised, base, self.signed())
            self.depth -= 1
        return base

    def atom(self) -> Node:
        token = self.take()
        if token in ("(", "{", "["):
            return self.closed({"(": ")", "{": "}", "[": "]"}[token])
        if token == "|":
            return (absolute, self.closed("|"))
        if token[0].isdigit() or token[0] == ".":
            return ("number", Fraction(token))
        if token == "frac":
            return (divide, self.argument(), self.argument())
        if token == "sqrt":
            index = ("number", Fraction(2))
            if self.peek() == "[":
                self.take()
                index = self.closed("]")
            return (raised, self.argument(), (divide, ("number", Fraction(1)), index))
        if token in FUNCTIONS:
            return self.function(token)
        if token in NAMED:
            return ("number", NAMED[token])
        if token.isalpha():
            return ("name", token)
        raise NoExpression(f"{token} begins nothing")

    def closed(self, end: str) -> Node:
        found = self.sum()
        self.take(end)
        return found

    def argument(self) -> Node:
        """{a}, (a), or one digit or name without brackets, as in \\frac12."""
        token = self.peek()
        if len(token) > 1 and token.isdigit():                  # \frac12 is 1/2
            self.tokens[self.at] = token[1:]
            return ("number", Fraction(token[0]))
        return self.atom()

    def function(self, name: str) -> Node:
        """sin x, sin(x), sin^2 x, log_2 x."""
        inner: Callable[..., Value] = lambda value: FUNCTIONS[name](complex(value))
        base = None
        if self.peek() == "_":
            self.take()
            base = self.argument()
        exponent = None
        if self.peek() in ("^", "**"):
            self.take()
            exponent = self.argument()
        found: Node = (inner, self.power())
        if base is not None:
            found = (divide, found, (inner, base))
        return found if exponent is None else (raised, found, exponent)


def tokens(text: str) -> Iterator[str]:
    """Numbers, operators, and names: a run of letters that is no known word is a product of single ones."""
    at = 0
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.rstrip().rstrip("."))
    while at < len(text):
        found = TOKEN.match(text, at)
        if not found:
            raise NoExpression(f"unreadable: {text[at:at + 10]!r}")
        at, (number, word, sign) = found.end(), found.groups()
        if word:
            word = WORDS.get(word, word)
            known = word in FUNCTIONS or word in NAMED or word in ("frac", "sqrt", "%", "*", "/")
            yield from [word] if known else word
        else:
            yield number or sign


def begins(token: str) -> bool:
    """Whether a token begins a factor, so that what stands before is multiplied by it."""
    return bool(token) and (token[0].isalnum() or token[0] == "." or token in ("(", "{")) and token != "_"


def add(a: Value, b: Value) -> Value:
    return a + b if exact(a, b) else complex(a) + complex(b)


def subtract(a: Value, b: Value) -> Value:
    return a - b if exact(a, b) else complex(a) - complex(b)


def multiply(a: Value, b: Value) -> Value:
    return a * b if exact(a, b) else complex(a) * complex(b)


def divide(a: Value, b: Value) -> Value:
    return a / b if exact(a, b) else complex(a) / complex(b)


def raised(a: Value, b: Value) -> Value:
    """a ** b, exact where the exponent is a small whole number or the root is one."""
    if exact(a, b) and abs(b) <= LARGEST_POWER:
        if b.denominator == 1:
            return a ** int(b)
        if b.denominator == 2 and a >= 0:
            root = Fraction(math.isqrt(a.numerator), math.isqrt(a.denominator))
            if root * root == a:
                return root ** b.numerator
    return complex(a) ** complex(b)


def absolute(a: Value) -> Value:
    return abs(a) if isinstance(a, Fraction) else complex(abs(a))


def factorial(a: Value) -> Value:
    if not isinstance(a, Fraction) or a.denominator != 1 or not 0 <= a <= 100:
        raise NoExpression("a factorial of that")
    return Fraction(math.factorial(int(a)))


def exact(*values: Value) -> bool:
    """Whether all are fractions that are small enough to go on with exactly."""
    return all(isinstance(value, Fraction) and
               value.numerator.bit_length() + value.denominator.bit_length() < LARGEST_BITS for value in values)


def value(node: Node, names: dict[str, Fraction]) -> Value:
    """An expression at a point."""
    what, *parts = node
    if what == "number":
        return parts[0]
    if what == "name":
        return names[parts[0]]
    return what(*(value(part, names) for part in parts))


def names_in(node: Node) -> set[str]:
    if node[0] in ("number", "name"):
        return {node[1]} if node[0] == "name" else set()
    return set().union(*map(names_in, node[1:]))


def equal_expressions(ours: str, theirs: str) -> bool | None:
    """Whether two expressions are equal; None if one of them cannot be read.

    (1, 2) and [1, 2] are lists, compared in order, {1, 2} is a set; of x = 5 the right side counts.
    """
    try:
        return same_parts(*split(ours), *split(theirs))
    except (NoExpression, RecursionError):
        return None


def split(text: str) -> tuple[str, list[str]]:
    """What brackets stand around a list, and its members; a single expression has none."""
    text = plain(text).strip().rstrip(".").replace("\\{", "{").replace("\\}", "}")
    if text.count("=") == 1 and not re.search(r"[<>!]=", text):
        text = text.partition("=")[2].strip()
    text = re.sub(r"\\text\s*\{[^{}]*\}|\\mathrm\s*\{[^{}]*\}|\^\s*\{?\s*(?:\\circ|°)\s*\}?|°", "", text).strip()
    members = list(at_top(re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)))
    if len(members) == 1 and text[:1] + text[-1:] in ("()", "[]", "{}", "(]", "[)"):
        inner = list(at_top(text[1:-1]))
        if len(inner) > 1:
            return text[0] + text[-1], inner
    return "", members


def at_top(text: str) -> Iterator[str]:
    """Parts between the commas that stand in no bracket."""
    depth, start = 0, 0
    for at, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            yield text[start:at]
            start = at + 1
    yield text[start:]


def same_parts(bracket: str, ours: list[str], other: str, theirs: list[str]) -> bool:
    if len(ours) != len(theirs) or bracket != other:
        return False
    a, b = [Parser(text).whole() for text in ours], [Parser(text).whole() for text in theirs]
    if bracket not in ("{}", "") or len(a) == 1:
        return all(map(same, a, b))
    left = list(b)                                              # a set, or a bare list of solutions: in any order
    for node in a:
        match = next((at for at, one in enumerate(left) if same(node, one)), None)
        if match is None:
            return False
        del left[match]
    return True


def same(ours: Node, theirs: Node) -> bool:
    """Equal wherever both are defined, at every one of the random points; undefined at the same ones."""
    names = sorted(names_in(ours) | names_in(theirs))
    generator = random.Random("".join(names))
    compared = 0
    for _ in range(POINTS if names else 1):
        point = {name: Fraction(generator.randrange(100, 1000), generator.randrange(101, 400)) for name in names}
        a, b = at_point(ours, point), at_point(theirs, point)
        if (a is None) != (b is None):
            return False
        if a is not None:
            compared += 1
            rational = isinstance(a, Fraction) and isinstance(b, Fraction)
            if not (a == b if rational else close(a, b)):
                return False
    return compared > 0


def at_point(node: Node, point: dict[str, Fraction]) -> Value | None:
    """An expression's value, None where it has none that a double can hold."""
    try:
        found = value(node, point)
    except (ArithmeticError, ValueError, OverflowError):
        return None
    return found if isinstance(found, Fraction) or cmath.isfinite(found) else None


def close(a: Value, b: Value) -> bool:
    try:
        return cmath.isclose(complex(a), complex(b), rel_tol=NEAR, abs_tol=NEAR)
    except OverflowError:                                       # a fraction beyond any double, and one within
        return False
