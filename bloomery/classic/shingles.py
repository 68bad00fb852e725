"""How much two texts share: the runs of k words or characters that both have (Broder 1997).

    jaccard(A, B) = |A and B| / |A or B|
"""

from collections.abc import Set

UNITS = {"word": lambda text: text.lower().split(), "char": lambda text: list(text.lower())}


def shingles(text: str, k: int = 5, *, unit: str = "word") -> set[tuple[str, ...]]:
    """Every run of k words or characters; a text that is shorter is one shingle as a whole."""
    if k < 1 or unit not in UNITS:
        raise ValueError(f"k must be at least 1 and unit one of {', '.join(UNITS)}, got {k} and {unit}")
    parts = UNITS[unit](text)
    return {tuple(parts[start:start + k]) for start in range(max(len(parts) - k, 0) + 1)}


def jaccard(a: Set, b: Set) -> float:
    """From 0, nothing in common, to 1, the same; two empty sets are the same."""
    return len(a & b) / len(a | b) if a or b else 1.0
