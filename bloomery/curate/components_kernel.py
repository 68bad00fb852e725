"""The loop of `components.py`."""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def root_of(parent, i):
    """The root above i; each node on the way is hung on its grandparent (path halving)."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True)
def roots(edges, count):
    parent = np.arange(count)
    for at in range(len(edges)):
        a, b = root_of(parent, edges[at, 0]), root_of(parent, edges[at, 1])
        parent[max(a, b)] = min(a, b)
    for i in range(count):
        parent[i] = root_of(parent, i)
    return parent
