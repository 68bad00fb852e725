"""Bins are valid, complete, deterministic and nearly full."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.data.packing import best_fit, best_fit_decreasing, concat_chunk

LENGTHS = st.lists(st.integers(1, 50), max_size=120)


def slow_best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """The definition: longest first, each into the fullest bin that still holds it."""
    bins: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        free = [capacity - sum(lengths[i] for i in group) for group in bins]
        fitting = [(room, number) for number, room in enumerate(free) if room >= lengths[index]]
        if fitting:
            bins[min(fitting)[1]].append(index)
        else:
            bins.append([index])
    return bins


@given(lengths=LENGTHS, capacity=st.integers(50, 120))
def test_it_is_best_fit_decreasing(lengths, capacity):
    bins = best_fit_decreasing(lengths, capacity)
    assert bins == slow_best_fit(lengths, capacity)
    assert sorted(i for group in bins for i in group) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in group) <= capacity for group in bins)


def test_a_length_beyond_the_capacity_is_refused():
    with pytest.raises(ValueError, match="length of 9 does not fit a capacity of 8"):
        best_fit_decreasing([3, 9], 8)


def test_a_hundred_thousand_documents_fill_their_rows():
    lengths = np.random.default_rng(0).lognormal(6, 1, 100_000).astype(np.int64).clip(1, 2048)
    order, bounds = best_fit(lengths, 2048)
    filled = np.add.reduceat(lengths[order], bounds[:-1])
    assert np.array_equal(np.sort(order), np.arange(100_000)) and filled.max() <= 2048
    assert filled.mean() / 2048 > 0.995


def test_no_lengths_no_bins():
    assert best_fit_decreasing([], 8) == []


@given(documents=st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=10), context=st.integers(1, 9))
def test_chunks_are_the_joined_documents(documents, context):
    flat = [token for document in documents for token in [*document, 0]]
    chunks = concat_chunk(documents, context, 0, drop_last=False)
    assert [token for chunk in chunks for token in chunk] == flat
    assert all(len(chunk) == context for chunk in chunks[:-1])
    assert concat_chunk(documents, context, 0) == [chunk for chunk in chunks if len(chunk) == context]
