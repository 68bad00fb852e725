"""Toxic sentences are cut, toxic documents dropped, by words or by a classifier."""

import pytest

from bloomery.core.errors import ConfigError
from bloomery.core.records import Document
from bloomery.curate.classifier import Features, Judge
from bloomery.curate.edits import apply
from bloomery.curate.step import batch_of
from bloomery.curate.toxicity import Lexicon, Purge, Toxicity

TEXT = "Früh am Morgen. You are a grumbleton! The sea is calm. Nobody likes very bad apples here, they say."


@pytest.fixture
def lexicon(tmp_path):
    (tmp_path / "words.txt").write_text("Grumbleton\nvery bad apples  # a phrase\n")
    return str(tmp_path / "words.txt")


def batch(*texts):
    return batch_of([Document(str(i), text) for i, text in enumerate(texts)])


def test_sentences_with_a_listed_word_are_cut(lexicon):
    given = batch(TEXT, "grumbletons are another word.", "", "A grumbleton.")
    found = Purge(Toxicity(lexicon=lexicon, most=0.9)).examine(given)
    assert found.reasons == [None, None, None, "toxic_share"] and found.columns["toxicity"].tolist() == [1, 0, 0, 1]
    assert apply(given, found.edits).column("text").to_pylist()[:2] == \
        ["Früh am Morgen. The sea is calm.", "grumbletons are another word."]


def test_too_much_of_a_text_is_all_of_it(lexicon):
    found = Purge(Toxicity(lexicon=lexicon)).examine(batch(TEXT))
    assert found.reasons == ["toxic_share"] and 0.5 < found.columns["toxic_share"][0] < 1


def test_documents_are_dropped_when_asked(lexicon):
    step = Purge(Toxicity(lexicon=lexicon, unit="document"))
    found = step.examine(batch(TEXT, "calm"))
    assert found.reasons == ["toxicity", None] and found.edits is None and len(found.marks) == 1
    low, high = step.ranges["toxicity"]
    assert low < 0 and high < 0.4 < 1


def test_a_classifier_finds_what_no_list_has(tmp_path):
    rude, kind = ["you stupid fool", "shut up idiot", "what a stupid idiot"], ["thank you friend", "a calm day", "nice"]
    Judge.train(rude * 20 + kind * 20, ["1"] * 60 + ["0"] * 60, Features(bits=12, words=2, shape=0)).save(tmp_path)
    given = batch("Thank you friend. Shut up, you stupid idiot! A calm day.")
    found = Purge(Toxicity(model=str(tmp_path))).examine(given)
    assert apply(given, found.edits).column("text").to_pylist() == ["Thank you friend. A calm day."]
    assert found.columns["toxicity"][0] > 0.9 and found.reasons == [None]


def test_words_are_found_whole_and_in_any_case():
    listed = Lexicon(["bad", "Very Bad apples", "!!"])
    assert listed.found("so BAD.") and listed.found("very bad  apples") and not listed.found("badly, abad")
    assert not Lexicon([]).found("bad") and Lexicon(["very bad"]).found("not VERY-bad?")


def test_nothing_to_go_by_is_an_error():
    with pytest.raises(ConfigError, match="nothing says what is toxic"):
        Purge(Toxicity())
