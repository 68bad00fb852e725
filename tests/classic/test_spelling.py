"""Spelling: candidates equal to brute force, costs as they are counted, contexts that decide, and Norvig's test set."""

import gzip
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.classic.edit_distance import osa
from bloomery.classic.spelling import (
    TYPICAL,
    ErrorCosts,
    Neighbours,
    Speller,
    closest,
    corrected,
    edits_of,
    words_of,
)

ROOT = Path(__file__).parents[2]
SPELLING = Path(os.environ.get("BLOOMERY_DATA", ROOT.parent / "shared" / "data")) / "spelling"
TEXT = """the piece of cake was good
a piece of bread and a piece of cheese
we want peace on earth and peace in our time
the government received a letter from the king
a letter from our government was received with pleasure
""" * 3
DICTIONARY = ["cat", "car", "cart", "care", "cards", "cast"]


def test_the_documents_example():
    """Errata 1.7: three words are nearest to `carr`; frequency decides, then the dictionary's order."""
    assert closest("carr", DICTIONARY) == ["car", "cart", "care"]
    assert closest("carr", DICTIONARY, frequency={"care": 9, "cart": 3})[:2] == ["care", "cart"]
    assert closest("zzzzzz", DICTIONARY, max_distance=2) == [] and closest("x", []) == []


@settings(max_examples=100)
@given(st.lists(st.text("abcd", min_size=1, max_size=10), min_size=1, max_size=20, unique=True),
       st.text("abcd", max_size=10), st.integers(0, 3))
def test_deletions_find_every_neighbour(words, asked, distance):
    expected = {(word, osa(word, asked)) for word in words if osa(word, asked) <= distance}
    assert set(Neighbours(words, distance).near(asked)) == expected


def test_where_an_edit_was_made():
    found = {(meant, typed): [(edit.kind, where) for edit, where in edits_of(meant, typed)] for meant, typed in [
        ("letter", "leter"), ("later", "latter"), ("cat", "bat"), ("seat", "saet"), ("cot", "cat"), ("cat", "cats"),
        ("cat", "scat"), ("cat", "cat"), ("hold", "bald")]}
    assert found == {
        ("letter", "leter"): [("delete", "double")], ("later", "latter"): [("insert", "double")],
        ("cat", "bat"): [("substitute", "first")], ("seat", "saet"): [("transpose", "")],
        ("cot", "cat"): [("substitute", "vowel")], ("cat", "cats"): [("insert", "")],
        ("cat", "scat"): [("insert", "first")], ("cat", "cat"): [],
        ("hold", "bald"): [("substitute", "first"), ("substitute", "vowel")]}


def test_costs_are_what_was_counted():
    """20 letters meant, 1 swap: -ln (1.5 / 21); nothing else was seen, and half a time is added to all."""
    learned = ErrorCosts.learned([("abcde", "abced"), ("abcde", "abcde"), ("vwxyz", "vwxyz"), ("vwxyz", "vwxyz")])
    assert learned.table["transpose", ""] == pytest.approx(2.6390573)
    assert learned.table["delete", ""] == pytest.approx(3.7376696)
    assert learned.table["insert", ""] == pytest.approx(3.7376696 + 2.3025851)         # one of ten letters
    assert learned.of("abcde", "abced") == learned.table["transpose", ""] and set(learned.table) == set(TYPICAL)


def test_a_word_is_corrected_by_frequency_and_error():
    speller = Speller({"the": 1000, "then": 100, "tea": 20, "letter": 10, "later": 10})
    assert speller.correct("teh") == "the" and speller.correct("leter") == "letter"
    assert speller.correct("tea") == "tea" and speller.correct("xyzzyx") == "xyzzyx"
    assert [c.distance for c in speller.candidates("thee")][:2] == [1, 1]
    assert speller.correct("tea's") == "tea's"


def test_neighbours_decide_between_equal_candidates():
    speller = Speller.taught([TEXT], costs=ErrorCosts(dict.fromkeys(TYPICAL, 5.0)))
    for line, wanted in (("a peece of cake", "a piece of cake"), ("we want peece on earth", "we want peace on earth")):
        assert corrected(line, speller.corrections(line)) == wanted
    without = Speller.taught([TEXT], context=False, costs=ErrorCosts(dict.fromkeys(TYPICAL, 5.0)))
    alone = [corrected(line, without.corrections(line)).split()[place] for line, place in
             (("a peece of cake", 1), ("we want peece on earth", 2))]
    assert len(set(alone)) == 1                             # without neighbours it is one word both times


def test_real_words_are_changed_only_when_asked():
    speller = Speller.taught([TEXT], costs=ErrorCosts(dict.fromkeys(TYPICAL, 1.0)))
    line = "a peace of cake"
    assert speller.corrections(line) == []
    assert corrected(line, speller.corrections(line, real_words=0.2)) == "a piece of cake"


def test_places_capitals_names_and_what_is_unknown():
    speller = Speller.taught([TEXT])
    text = "Teh goverment,\nGOVERMENT of Londn: qqqqqqqq!"
    found = speller.corrections(text)
    assert [(c.typed, c.word) for c in found] == [
        ("Teh", "The"), ("goverment", "government"), ("GOVERMENT", "GOVERNMENT"), ("qqqqqqqq", "")]
    assert all(text[c.start:c.end] == c.typed for c in found)
    assert corrected(text, found) == "The government,\nGOVERNMENT of Londn: qqqqqqqq!"
    assert [c.typed for c in speller.corrections("we saw Londn", names=True)] == ["saw", "Londn"]


def test_words_with_apostrophes_and_accents_are_words():
    assert words_of("Don’t re\u0301sume\u0301, l'été 42 x_y") == [
        "don't", "r\u00e9sum\u00e9", "l'\u00e9t\u00e9", "x", "y"]


def test_a_speller_without_words_is_refused():
    with pytest.raises(ValueError, match="needs words"):
        Speller({})


@pytest.mark.skipif(not SPELLING.is_dir(), reason=f"no public texts in {SPELLING}: set BLOOMERY_DATA")
def test_norvigs_test_set():
    """Three words of four, with no tuning on it: Norvig's own corrector has 74.8 % of these 270."""
    with gzip.open(SPELLING / "big.txt.gz", "rt", encoding="utf-8", errors="replace") as file:
        speller = Speller(Counter(words_of(file.read())))
    pairs = [(meant.strip(), typed) for line in (SPELLING / "spell-testset1.txt").read_text().splitlines()
             for meant, _, row in [line.partition(":")] for typed in row.split()]
    right = sum(speller.correct(typed) == meant for meant, typed in pairs)
    assert len(pairs) == 270 and right >= 0.78 * 270
