"""Union-find: named by the least member, whatever the order of edges."""

import numpy as np
import pytest

from bloomery.curate.components import clusters, components


def test_components_are_those_of_scipy_and_bear_their_least_member():
    sparse = pytest.importorskip("scipy.sparse")
    generator = np.random.default_rng(0)
    edges = generator.integers(0, 500, (300, 2))
    root = components(edges, 500)
    graph = sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(500, 500))
    _, label = sparse.csgraph.connected_components(graph, directed=False)
    assert len(np.unique(np.stack((root, label)), axis=1).T) == len(np.unique(label)) == len(np.unique(root))
    assert all(root[i] == np.flatnonzero(root == root[i])[0] for i in range(500))
    assert (components(edges[::-1, ::-1], 500) == root).all()


def test_clusters_are_told_the_largest_first():
    assert [part.tolist() for part in clusters(np.array([0, 1, 1, 0, 4, 1]))] == [[1, 2, 5], [0, 3]]
    assert components(np.zeros((0, 2)), 3).tolist() == [0, 1, 2]
    assert clusters(np.zeros(0, int)) == []


def test_an_edge_to_nowhere_is_refused():
    with pytest.raises(ValueError, match="nodes 0 to 2"):
        components(np.array([[0, 3]]), 3)
