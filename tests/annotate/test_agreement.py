"""Agreement: published tables to the digit, undefined where nothing varies, and what must not matter does not."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.annotate.agreement import cohen, fleiss, fleiss_of_counts, krippendorff, majority, pairwise

TABLE = ["1233214 12...".replace(" ", ""), "123322412 5.3".replace(" ", ""), ".33323422 51.".replace(" ", ""),
         "123324412 51.".replace(" ", "")]                          # Krippendorff 2011: 4 coders, 12 units
CODERS = [[None if label == "." else int(label) for label in row] for row in TABLE]
FLEISS = [(0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1), (7, 7, 0, 0, 0),
          (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7)]
LABELS = st.lists(st.lists(st.sampled_from([1, 2, 3, None]), min_size=5, max_size=5), min_size=2, max_size=4)


@pytest.mark.parametrize(("scale", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_own_example(scale, alpha):
    assert krippendorff(CODERS, scale) == pytest.approx(alpha, abs=5e-4)


def test_fleiss_own_example_and_cohens_table():
    assert fleiss_of_counts([Counter(dict(enumerate(row))) for row in FLEISS]) == pytest.approx(0.210, abs=5e-4)
    ours, theirs = "y" * 25 + "n" * 25, "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    assert cohen(list(ours), list(theirs)) == pytest.approx(0.4)


def test_where_nothing_varies_there_is_no_number():
    same = [["A"] * 4, ["A"] * 4]
    assert cohen(*same) is fleiss(same) is krippendorff(same) is None and pairwise(same) == 1
    assert pairwise([["A"], [None]]) is cohen(["A"], [None]) is krippendorff([["A"], [None]]) is None


def test_perfect_agreement_is_one_and_ties_are_nobodys():
    labels = [["A", "B", "A"]] * 3
    assert cohen(*labels[:2]) == fleiss(labels) == krippendorff(labels) == 1
    assert majority(["A", "B", "B"]) == "B" and majority(["A", "B"]) is majority([]) is majority([None]) is None


def test_fleiss_wants_every_label_and_lists_must_be_of_one_length():
    with pytest.raises(ValueError, match="as many labels"):
        fleiss([["A", "B"], ["A", None]])
    with pytest.raises(ValueError, match="every item"):
        pairwise([["A"], ["A", "B"]])
    with pytest.raises(ValueError, match="nominal, ordinal, interval"):
        krippendorff([["A"], ["A"]], "ratio")


@given(LABELS, st.randoms())
def test_order_names_and_lone_labels_change_nothing(labels, random):
    alpha = krippendorff(labels)
    places = list(range(5))
    random.shuffle(places)
    moved = [[row[at] for at in places] for row in random.sample(labels, len(labels))]
    renamed = [[{1: "x", 2: "y", 3: "z"}.get(label) for label in row] for row in labels]
    lone = [[*row, 1 if number == 0 else None] for number, row in enumerate(labels)]
    for other in (moved, renamed, lone):
        found = krippendorff(other)
        assert found is alpha is None or found == pytest.approx(alpha, abs=1e-9)
