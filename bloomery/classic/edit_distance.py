"""Edit distance: the cheapest way to turn one sequence into another, and which way that is.

Wagner & Fischer (1974), for a of length n and b of length m:

    d[i, j] = min(d[i-1, j] + delete, d[i, j-1] + insert, d[i-1, j-1] + (0 if a_i = b_j else substitute))

Optimal string alignment also swaps two neighbours that are not touched again; Damerau's distance lets them be touched:
"ca" is 3 from "abc" by the first, 2 by the second.  Strings are compared by code points (`text` composes them first);
any sequences of things that hash will do.  Unit costs take Myers' bit-parallel way, seven times as fast for words.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import Literal
from unicodedata import normalize

Symbols = Sequence[Hashable]
Pairwise = float | Callable[[Hashable, Hashable], float]


@dataclass(frozen=True)
class Costs:
    """What an operation costs, all >= 0. `substitute` and `transpose` may be functions of the two symbols."""

    insert: float = 1
    delete: float = 1
    substitute: Pairwise = 1
    transpose: Pairwise | None = None       # None: neighbours are not swapped

    def __post_init__(self) -> None:
        for name in ("insert", "delete", "substitute", "transpose"):
            if isinstance(value := getattr(self, name), int | float) and not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")


@dataclass(frozen=True)
class Edit:
    """One step of an alignment; `before` and `after` are pieces of a and b, empty where nothing stands against."""

    kind: Literal["keep", "insert", "delete", "substitute", "transpose"]
    before: Symbols
    after: Symbols
    cost: float


def text(string: str) -> str:
    """A string with its accents composed (NFC), so that an accented letter is one symbol."""
    return normalize("NFC", string)


def cost(price: Pairwise, a: Hashable, b: Hashable) -> float:
    return price(a, b) if callable(price) else price


def table(a: Symbols, b: Symbols, costs: Costs) -> list[list[float]]:
    """d of all prefixes, (n+1) x (m+1); with neighbours swapped where `costs.transpose` says what that costs."""
    d = [list(accumulate(repeat(costs.insert, len(b)), initial=0))]
    for i, x in enumerate(a, start=1):
        above, row = d[-1], [d[-1][0] + costs.delete]
        for j, y in enumerate(b, start=1):
            best = above[j - 1] if x == y else above[j - 1] + cost(costs.substitute, x, y)
            best = min(best, above[j] + costs.delete, row[-1] + costs.insert)
            if costs.transpose is not None and i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                best = min(best, d[i - 2][j - 2] + cost(costs.transpose, y, x))
            row.append(best)
        d.append(row)
    return d


def alignment(a: Symbols, b: Symbols, costs: Costs = Costs()) -> list[Edit]:
    """The steps of one cheapest way from a to b, from left to right.

    Of equally cheap last steps it takes the first of: keep, substitute, transpose, delete, insert.
    """
    d, i, j, steps = table(a, b, costs), len(a), len(b), []
    while i or j:
        for kind, back, forth, step in choices(a, b, i, j, costs):
            if d[i - back][j - forth] + step == d[i][j]:
                steps.append(Edit(kind, a[i - back:i], b[j - forth:j], step))
                i, j = i - back, j - forth
                break
    return steps[::-1]


def choices(a: Symbols, b: Symbols, i: int, j: int, costs: Costs) -> list[tuple[str, int, int, float]]:
    """What may have been the last step at d[i, j]: its kind, how far it goes in a and in b, its cost."""
    found: list[tuple[str, int, int, float]] = []
    if i and j and a[i - 1] == b[j - 1]:
        found.append(("keep", 1, 1, 0))
    elif i and j:
        found.append(("substitute", 1, 1, cost(costs.substitute, a[i - 1], b[j - 1])))
    if costs.transpose is not None and i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
        found.append(("transpose", 2, 2, cost(costs.transpose, a[i - 2], a[i - 1])))
    if i:
        found.append(("delete", 1, 0, costs.delete))
    if j:
        found.append(("insert", 0, 1, costs.insert))
    return found


def weighted(a: Symbols, b: Symbols, costs: Costs) -> float:
    """The least cost of turning a into b."""
    return table(a, b, costs)[-1][-1]


def indel(a: Symbols, b: Symbols) -> int:
    """Insertions and deletions only: n + m - 2 times the longest common subsequence."""
    return int(weighted(a, b, Costs(substitute=2)))


def levenshtein(a: Symbols, b: Symbols) -> int:
    """Insertions, deletions and substitutions, 1 each (Levenshtein 1966)."""
    return bit_parallel(a, b, transpose=False)


def osa(a: Symbols, b: Symbols) -> int:
    """Levenshtein's, and neighbours swapped for 1, no symbol edited twice: optimal string alignment."""
    return bit_parallel(a, b, transpose=True)


def normalised(a: Symbols, b: Symbols) -> float:
    """Levenshtein's distance over the longer length: 0 for equal sequences, 1 for those with nothing in common."""
    return levenshtein(a, b) / max(len(a), len(b), 1)


def bit_parallel(a: Symbols, b: Symbols, *, transpose: bool) -> int:
    """A whole column of the table a step, as bits that say where it rises or falls by one (Myers 1999; Hyyro 2003)."""
    if not a:
        return len(b)
    where: dict[Hashable, int] = {}                         # bit i: a[i] is this symbol
    for i, x in enumerate(a):
        where[x] = where.get(x, 0) | 1 << i
    every, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, zero, before, distance = every, 0, 0, 0, len(a)       # up, down: d[i, j] - d[i-1, j] is +1, -1
    for y in b:
        here = where.get(y, 0)
        swapped = (((~zero & here) << 1) & before) if transpose else 0
        zero = ((((here & up) + up) ^ up) | here | down | swapped) & every      # no step on the diagonal
        right, left = (down | ~(zero | up)) & every, zero & up
        distance += bool(right & last) - bool(left & last)
        right, left = right << 1 | 1, left << 1
        up, down, before = (left | ~(zero | right)) & every, zero & right & every, here
    return distance


def damerau(a: Symbols, b: Symbols, costs: Costs = Costs(transpose=1)) -> float:
    """Damerau's distance without restriction: what is swapped may be edited further. Lowrance & Wagner (1975).

    Their condition holds the costs: 2 transpose >= insert + delete.
    """
    swap = costs.transpose
    if not isinstance(swap, int | float) or 2 * swap < costs.insert + costs.delete:
        raise ValueError("transpose must be a number of at least (insert + delete) / 2")
    d, seen = table(a[:0], b, costs), {}                    # seen: the last row where a symbol of a stood
    for i, x in enumerate(a, start=1):
        row, match = [d[-1][0] + costs.delete], 0                  # match: the last column of this row where b agreed
        for j, y in enumerate(b, start=1):
            best = d[-1][j - 1] if x == y else d[-1][j - 1] + cost(costs.substitute, x, y)
            best = min(best, d[-1][j] + costs.delete, row[-1] + costs.insert)
            if (k := seen.get(y, 0)) and match:
                between = (i - k - 1) * costs.delete + (j - match - 1) * costs.insert
                best = min(best, d[k - 1][match - 1] + between + swap)
            match = j if x == y else match
            row.append(best)
        d.append(row)
        seen[x] = i
    return d[-1][-1]


DISTANCES = {"levenshtein": levenshtein, "osa": osa, "damerau": damerau, "indel": indel}
