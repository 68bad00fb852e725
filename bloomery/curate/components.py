"""Connected components: what belongs together when being a duplicate is passed on.

Union-find on one array with path halving (Tarjan & van Leeuwen 1984).  The smaller number becomes the root, so that the
result depends on the edges alone and not on their order: a component is named by its least member.
"""

import numpy as np

from bloomery.core.kernels import needed


def components(edges: np.ndarray, count: int) -> np.ndarray:
    """(N,) the least member of the component of each of `count` nodes, from edges (M, 2)."""
    edges = np.ascontiguousarray(edges, np.int64).reshape(-1, 2)
    if len(edges) and not (edges.min() >= 0 and edges.max() < count):
        raise ValueError(f"edges join nodes 0 to {count - 1}, got {edges.min()} to {edges.max()}")
    return needed("curate/components").roots(edges, count)


def clusters(root: np.ndarray) -> list[np.ndarray]:
    """The members of every cluster of two or more, the largest first, of equals the one with the least root."""
    order = np.argsort(root, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(root[order])) + 1) if len(order) else []
    return sorted((part for part in parts if len(part) > 1), key=lambda part: (-len(part), int(root[part[0]])))
