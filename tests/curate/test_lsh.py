"""Bands and buckets: the curve, the best split of a signature, and who shares a bucket."""

import numpy as np
import pytest

from bloomery.curate.lsh import band_keys, buckets, candidate_probability, edges, even_odds, optimal, threshold


def test_the_curve_is_that_of_fineweb():
    """FineWeb's 14 x 8 finds 56, 77, 92 and 99 of a hundred pairs at these similarities (their table)."""
    found = candidate_probability(np.array([0.7, 0.75, 0.8, 0.85, 0, 1]), 14, 8)
    assert found == pytest.approx([0.5645, 0.7717, 0.9235, 0.9884, 0, 1], abs=1e-4)
    assert threshold(14, 8) == pytest.approx(0.719, abs=1e-3)
    assert candidate_probability(even_odds(14, 8), 14, 8) == pytest.approx(0.5)


@pytest.mark.parametrize(("similarity", "permutations", "expected"), [       # as datasketch 2.0.0 chooses
    (0.5, 128, (25, 5)), (0.8, 128, (9, 13)), (0.7, 256, (25, 10)), (0.99, 16, (1, 16))])
def test_the_best_bands_are_those_datasketch_finds(similarity, permutations, expected):
    assert optimal(similarity, permutations) == expected


def test_missing_nothing_takes_more_bands_than_comparing_nothing_in_vain():
    careful, cheap = optimal(0.7, 100, false_negative=0.9, false_positive=0.1), optimal(0.7, 100, false_negative=0.1)
    assert careful[0] > cheap[0]
    with pytest.raises(ValueError, match="lies in"):
        optimal(1.5, 100)


def test_documents_that_agree_in_a_whole_band_share_a_bucket():
    signatures = np.array([[1, 2, 3, 4], [1, 2, 9, 9], [1, 7, 3, 4], [1, 2, 9, 9], [5, 5, 5, 5]], np.uint32)
    found = buckets(band_keys(signatures, 2, 2), np.array([True, True, True, True, True]))
    parts = [found.members[a:b].tolist() for a, b in zip(found.start, found.start[1:])]
    assert sorted(parts) == [[0, 1, 3], [0, 2], [1, 3]]
    assert found.of[4].tolist() == [-1, -1]
    assert edges(found, np.array([3, 0, 1, 2, 4])).tolist() == [[1, 0], [1, 3], [2, 0]]
    with pytest.raises(ValueError, match="need 6 numbers"):
        band_keys(signatures, 3, 2)


def test_who_is_not_usable_is_in_no_bucket():
    found = buckets(np.zeros((3, 4), np.uint64), np.array([False, True, False, False]))
    assert len(found.members) == 0
    assert edges(found, np.arange(4)).shape == (0, 2)
