"""Shingles by hand, and what two texts share of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.classic.shingles import jaccard, shingles


def test_shingles_by_hand():
    assert shingles("A rose is  a rose", 2) == {("a", "rose"), ("rose", "is"), ("is", "a")}
    assert shingles("abcd", 3, unit="char") == {tuple("abc"), tuple("bcd")}
    assert shingles("too short", 5) == {("too", "short")} and shingles("", 3) == {()}
    assert jaccard(shingles("abcde", 3, unit="char"), shingles("abcdf", 3, unit="char")) == 0.5


@given(a=st.text("ab ", max_size=9), b=st.text("ab ", max_size=9), k=st.integers(1, 4),
       unit=st.sampled_from(["word", "char"]))
def test_sharing_is_mutual_and_complete_with_oneself(a, b, k, unit):
    one, other = shingles(a, k, unit=unit), shingles(b, k, unit=unit)
    assert jaccard(one, one) == 1 and 0 <= jaccard(one, other) == jaccard(other, one) <= 1


@pytest.mark.parametrize("k, unit", [(0, "word"), (2, "line")])
def test_what_is_no_shingle_is_refused(k, unit):
    with pytest.raises(ValueError, match="unit one of word, char"):
        shingles("a b", k, unit=unit)
