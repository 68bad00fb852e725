"""Exact duplicates: the first stays, across batches, whatever the white space."""

from bloomery.core.records import Document
from bloomery.curate.exact import Exact
from bloomery.curate.step import batch_of


def test_the_first_of_equal_texts_stays_across_batches():
    step = Exact()
    texts = ["one two", "one  two\n", "One two", "one two three"]
    assert step.reasons(batch_of([Document("", text) for text in texts])) == [None, "exact_duplicate", None, None]
    assert step.reasons(batch_of([Document("", "\tone two"), Document("", "four")])) == ["exact_duplicate", None]


def test_each_run_forgets():
    batch = batch_of([Document("", "same")])
    assert Exact().reasons(batch) == Exact().reasons(batch) == [None]
