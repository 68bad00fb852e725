"""Exact duplicates: the first stays, across batches; repeated parts are cut, and what is blank repeats nothing."""

import pyarrow as pa
import pytest

from bloomery.core.errors import InputError
from bloomery.core.records import Document
from bloomery.curate.edits import apply
from bloomery.curate.exact import Addresses, Equality, Exact, Repeated, Repeats, Sentences
from bloomery.curate.step import batch_of, decide_alone


def batch(*texts, names=None):
    return batch_of([Document("", text, name) for text, name in zip(texts, names or [""] * len(texts))])


def gone(step, *batches):
    return [reason is not None for reason in decide_alone(step, batches).reasons]


def edited(step, *texts):
    findings = decide_alone(step, [batch(*texts)])
    return apply(batch(*texts), findings.edits).column("text").to_pylist(), findings


def test_the_first_of_equal_texts_stays_across_batches():
    found = decide_alone(Exact(), [batch("one two", "one  two\n", "One two"), batch("\tone two", "four")])
    assert found.reasons == [None, "exact_duplicate", None, "exact_duplicate", None]
    assert found.account["sizes"] == {"3": 1}
    assert [member["text"] for member in found.account["largest"][0]["members"]] == [
        "one two", "one  two\n", "\tone two"]


def test_each_run_forgets():
    step = Exact()
    assert gone(step, batch("same")) == gone(step, batch("same")) == [False]


@pytest.mark.parametrize(("normalise", "expected"), [
    ("none", [False, False, False, True]), ("space", [False, True, False, True]), ("ccnet", [False, True, True, True])])
def test_what_is_equal_can_be_said(normalise, expected):
    assert gone(Exact(Equality(normalise=normalise)), batch("Pay 12", "Pay  12", "pay: 99.", "Pay 12")) == expected


def test_a_trusted_source_and_a_better_text_stay():
    texts = batch("a", "a", "a", names=["web/x:1", "books/y:2", "books/y:3"])
    assert gone(Exact(Equality(sources=("books",))), texts) == [True, False, True]
    rated = texts.append_column("quality", pa.array([0.1, 0.2, 0.3]))
    assert gone(Exact(Equality(quality="quality")), rated) == [True, True, False]


def test_an_address_stays_once_and_no_address_is_nobodys():
    texts = batch("one", "two", "three", "four").append_column("url", pa.array(["u://a", "u://a", None, None]))
    found = decide_alone(Exact(Addresses()), [texts])
    assert found.reasons == [None, "url_duplicate", None, None]
    with pytest.raises(InputError, match="without an address"):
        Exact(Addresses()).gather(batch("one"))


def test_paragraphs_are_kept_where_they_first_stand():
    first = "Home\nThe river é runs 12 km.\n\nfooter!"
    texts, findings = edited(Repeated(), first, "home.\nOther\n\n\nFooter", "x\nx\n\nx")
    assert texts == [first, "Other\n\n\n", "x\n"]
    assert findings.reasons == [None] * 3
    assert findings.account == {"parts": 9, "parts_cut": 4}


def test_a_document_of_repeats_goes():
    _, findings = edited(Repeated(), "same\nlines", "Same\n\nlines!", "", " \n ")
    assert findings.reasons == [None, "repeated_paragraphs", None, None]
    _, findings = edited(Repeated(Repeats(min_words=3)), "a b\nc d", "a b\ne f", "e f")
    assert findings.reasons == [None, "repeated_paragraphs", "repeated_paragraphs"]


def test_three_sentences_in_a_row_are_cut_and_two_are_not():
    step = Repeated(Sentences(min_words=1))
    texts, _ = edited(step, "A b. C 3.5 d! E f? G h.", "Z. A b. C 3.5 d! E f? Not it.", "C 3.5 d! E f? Alone.")
    assert texts == ["A b. C 3.5 d! E f? G h.", "Z. Not it.", "C 3.5 d! E f? Alone."]
    texts, _ = edited(step, "一。二。三。四。", "五。一。二。三。")
    assert texts == ["一。二。三。四。", "五。"]
    _, findings = edited(Repeated(Sentences()), "A b. C d! E f?", "A b. C d! E f? G.")
    assert findings.reasons == [None, "repeated_sentences"]


def test_runs_do_not_cross_documents():
    texts, _ = edited(Repeated(Repeats(together=2)), "a\nb", "c\na", "b\nd", "a\nb")
    assert texts[:3] == ["a\nb", "c\na", "b\nd"]
    assert texts[3] == ""
