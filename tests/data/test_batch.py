"""Batches: every position has one target, positions follow paths, and what nobody trains is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bloomery.data.batch import Run, forest, rectangle, sequence


def test_a_sequence_predicts_its_next_tokens_where_they_are_trained():
    assert sequence([5, 6, 7, 8], [True, False, True, True]) == Run([5, 6, 7], [6, 7, 8], [0.0, 1.0, 1.0])


def test_a_forest_by_hand():
    batch = forest([Run([1, 2], [2, 3], [0.0, 0.0]), Run([3, 4], [4, 9], [1.0, 1.0], 0), Run([3], [7], [2.0], 0),
                    Run([4, 5, 6], [5, 6, 7], [1.0, 0.0, 1.0])])
    assert batch.ids.tolist() == [1, 2, 3, 4, 3, 4, 5, 6] and batch.targets.tolist() == [2, 3, 4, 9, 7, 5, 6, 7]
    assert batch.positions.tolist() == [0, 1, 2, 3, 2, 0, 1, 2]
    assert batch.segments.start.tolist() == [0, 2, 4, 5, 8] and batch.segments.parent.tolist() == [-1, 0, 0, -1]
    assert batch.count == 6.0 and batch.ids.dtype == torch.int64


@given(shape=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 10**6)), min_size=1, max_size=20))
def test_positions_go_on_where_the_parent_ends(shape):
    """Any forest: run i hangs below an earlier run or none."""
    parents = [pick % (i + 1) - 1 for i, (_, pick) in enumerate(shape)]
    runs = [Run(list(range(n)), [0] * n, [1.0] * n, p) for (n, _), p in zip(shape, parents, strict=True)]
    if not any(n for n, _ in shape):
        return
    batch, starts = forest(runs), {}
    for i, ((first, end), parent) in enumerate(zip(batch.segments.runs, parents, strict=True)):
        starts[i] = starts[parent] + shape[parent][0] if parent >= 0 else 0
        assert batch.positions[first:end].tolist() == list(range(starts[i], starts[i] + end - first))
        assert sum(shape[a][0] for a in batch.segments.chains[i]) == starts[i]


def test_a_count_may_be_given():
    assert forest([Run([1], [2], [1.0])], count=7.0).count == 7.0


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="no target tokens"):
        forest([Run([1, 2], [2, 3], [0.0, 0.0])])


def test_a_rectangle_is_a_forest_of_equal_roots():
    rows = torch.arange(12).view(3, 4)
    one, other = rectangle(rows), forest([sequence(row, [True] * 4) for row in rows.tolist()])
    for name in ("ids", "targets", "weights", "positions"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.equal(one.segments.start, other.segments.start) and one.count == other.count == 9
