"""PageRank: where somebody is who follows links at random and now and then starts anew.

    x = alpha (x P + (mass of x on nodes without links) t) + (1 - alpha) t          Brin and Page 1998; Page et al. 1998

P holds the links' weights, each row divided by its sum; t says where one starts, everywhere alike unless personalised.
Found by iterating from t: the error shrinks by alpha each time.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from bloomery.classic.sparse import library


def pagerank(links, *, alpha: float = 0.85, start: Sequence[float] | None = None, tolerance: float = 1e-10,
             most: int = 1000) -> np.ndarray:
    """The rank of each node, (N,), summing to 1; `links` (N, N) sparse holds the weight from row to column.

    `start` (N,) personalises: weights of where one starts, and where one goes on from a node without links.  Iterates
    until the L1 change is below `tolerance`.  Raises `ValueError` without nodes, for a negative weight, or where `most`
    rounds do not suffice, as with alpha = 1 on a graph of which the walk goes round in circles.
    """
    links = library().csr_array(links, dtype=float)
    size = links.shape[0]
    if size == 0 or links.shape[0] != links.shape[1]:
        raise ValueError(f"links must be a square matrix of at least one node, got {links.shape}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    if links.nnz and not (np.isfinite(links.data).all() and links.data.min() >= 0):
        raise ValueError("a link's weight must be finite and not negative")
    t = np.ones(size) if start is None else np.asarray(start, float)
    if t.shape != (size,) or not np.isfinite(t).all() or t.min() < 0 or not t.sum():
        raise ValueError(f"start must be {size} weights, none negative and not all zero")
    t, out = t / t.sum(), links.sum(axis=1)
    dangling = out == 0
    links.data /= np.repeat(out, np.diff(links.indptr)) + (links.data == 0)            # a row of zeros stays zeros
    x, back = t, links.T.tocsr()
    for _ in range(most):
        before = x
        x = alpha * (back @ x + x[dangling].sum() * t) + (1 - alpha) * t
        if np.abs(x - before).sum() < tolerance:
            return x / x.sum()
    raise ValueError(f"no rank after {most} rounds: the change is still {np.abs(x - before).sum():.1e}")


def graph(edges: Iterable[Sequence], *, nodes: Iterable[Hashable] = ()) -> tuple[list[Hashable], object]:
    """Names and the matrix of links of (from, to) or (from, to, weight); repeated edges add up.

    Nodes are numbered in the order in which they are named, those of `nodes` first.
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(nodes))}
    rows, columns, weights = [], [], []
    for source, target, *weight in edges:
        rows.append(names.setdefault(source, len(names)))
        columns.append(names.setdefault(target, len(names)))
        weights.append(weight[0] if weight else 1.0)
    return list(names), library().coo_array((weights, (rows, columns)), (len(names), len(names)), dtype=float).tocsr()


def ranked(scores: Mapping[Hashable, float]) -> dict[Hashable, float]:
    """Best first. Scores that agree to 12 places are equal, and then the lower name wins: rounding decides nothing."""
    return dict(sorted(scores.items(), key=lambda item: (-round(item[1], 12), item[0])))
