"""How far people agree, beyond what chance would bring.

    kappa = (p_o - p_e) / (1 - p_e)            Cohen 1960 (two people), Fleiss 1971 (as many for every item)
    alpha = 1 - D_o / D_e                      Krippendorff 2011: any number of people, missing labels, any scale

with p_o, D_o the agreement and disagreement observed and p_e, D_e those of labels dealt out at random.  Labels are one
list for each annotator, an item at each place, None where that person gave none.  Where nothing varies chance explains
everything and the statistics are undefined: None, neither 1 nor a number that is none.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from itertools import combinations
from math import fsum

Label = Hashable | None
Labels = Sequence[Sequence[Label]]                  # (annotators, items)


def items(labels: Labels) -> list[list[Label]]:
    """What each item was called, without what is missing. `ValueError` if annotators saw different numbers of items."""
    if len({len(own) for own in labels}) != 1:
        raise ValueError(f"every annotator needs a label or None for every item, got {[len(own) for own in labels]}")
    return [[label for label in item if label is not None] for item in zip(*labels, strict=True)]


def majority(labels: Sequence[Label]) -> Label:
    """What most say of an item; None for a tie, which is for people to decide, and where nobody said anything."""
    counts = Counter(label for label in labels if label is not None).most_common(2)
    return None if not counts or len(counts) == 2 and counts[0][1] == counts[1][1] else counts[0][0]


def pairwise(labels: Labels) -> float | None:
    """The share of pairs of labels of one item that are equal; None without a pair."""
    pairs = [a == b for own in items(labels) for a, b in combinations(own, 2)]
    return sum(pairs) / len(pairs) if pairs else None


def cohen(ours: Sequence[Label], theirs: Sequence[Label]) -> float | None:
    """Kappa of two annotators, on the items both have labelled; None where it is undefined."""
    pairs = [own for own in items([ours, theirs]) if len(own) == 2]
    if not pairs:
        return None
    first, second = (Counter(own) for own in zip(*pairs, strict=True))
    expected = sum(count * second[label] for label, count in first.items()) / len(pairs)**2
    return beyond(sum(a == b for a, b in pairs) / len(pairs), expected)


def fleiss(labels: Labels) -> float | None:
    """Kappa of any number of annotators, as many for each item; `ValueError` where some labels are missing."""
    rows = items(labels)
    if len({len(own) for own in rows}) != 1:
        raise ValueError("Fleiss' kappa needs as many labels for every item: Krippendorff's alpha does not")
    return fleiss_of_counts([Counter(own) for own in rows])


def fleiss_of_counts(counts: Sequence[Counter]) -> float | None:
    """The same from how many annotators gave each item each label; None with fewer than two of them."""
    people = counts[0].total() if counts else 0
    if people < 2:
        return None
    observed = fsum((sum(n * n for n in own.values()) - people) / (people * (people - 1)) for own in counts)
    totals = sum(counts, Counter())
    expected = fsum((n / totals.total())**2 for n in totals.values())
    return beyond(observed / len(counts), expected)


def beyond(observed: float, expected: float) -> float | None:
    return (observed - expected) / (1 - expected) if 1 - expected > 1e-12 else None


def krippendorff(labels: Labels, scale: str = "nominal") -> float | None:
    """Alpha; `scale` says how far two labels are apart: nominal, ordinal (labels in their order) or interval.

    Each item with m >= 2 labels brings every ordered pair of them with weight 1 / (m - 1).
    """
    if scale not in DISTANCES:
        raise ValueError(f"scale must be one of {', '.join(DISTANCES)}, got {scale!r}")
    coincidences: Counter[tuple] = Counter()
    for own in items(labels):
        for a, row in Counter(own).items():
            for b, column in Counter(own).items():
                if len(own) > 1 and (pairs := row * (column - (a == b))):
                    coincidences[a, b] += pairs / (len(own) - 1)
    totals: Counter = Counter()
    for (a, _), weight in coincidences.items():
        totals[a] += weight
    count = fsum(totals.values())
    distance = DISTANCES[scale](totals)
    expected = fsum(totals[a] * totals[b] * distance(a, b) for a in totals for b in totals if a != b)
    observed = fsum(weight * distance(a, b) for (a, b), weight in coincidences.items() if a != b)
    return 1 - (count - 1) * observed / expected if expected > 0 else None


Distance = Callable[[Label, Label], float]


def nominal(totals: Counter) -> Distance:
    return lambda a, b: float(a != b)


def ordinal(totals: Counter) -> Distance:
    """How many labels were given between the two, half of the ends counted, squared."""
    ranks = sorted(totals)

    def distance(a: Label, b: Label) -> float:
        low, high = sorted((ranks.index(a), ranks.index(b)))
        return (fsum(totals[label] for label in ranks[low:high + 1]) - (totals[a] + totals[b]) / 2)**2

    return distance


def interval(totals: Counter) -> Distance:
    return lambda a, b: float(a - b)**2


DISTANCES: dict[str, Callable[[Counter], Distance]] = {"nominal": nominal, "ordinal": ordinal, "interval": interval}
