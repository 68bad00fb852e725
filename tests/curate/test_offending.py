"""The places a rule holds against a text: what its number counts, and nothing of a text that is innocent."""

import json

import pytest

from bloomery.core.files import write_jsonl
from bloomery.curate.account import excerpt
from bloomery.curate.offending import LOOKED, MOST, PLACES, offending
from bloomery.curate.run import STEPS, Config, run

TEXT = "one two three four five\nover here\n\none two three four five\n# of ...\n- a point.\nlorem ipsum {\n12 34\n"


@pytest.mark.parametrize(("rule", "places"), [
    ("gopher.symbol_ratio", ["#", "..."]), ("gopher.bullet_lines", ["-"]), ("gopher.ellipsis_lines", ["..."]),
    ("alphabetic_words", ["#", "...", "-", "{", "12", "34"]), ("digit_ratio", ["12", "34"]),
    ("repetition.duplicate_lines", ["one two three four five"]), ("duplicate_5_gram", ["one two three four five"]),
    ("duplicate_6_gram", []), ("top_2_gram", ["one two", "one two"]), ("duplicate_paragraphs", []),
    ("c4.curly_bracket", ["{"]), ("lorem_ipsum", ["lorem ipsum"]), ("word_count", []), ("no_such_rule", []),
    ("fineweb.ended_lines", ["five", "here", "five", "{", "34"]), ("newlines_a_word", ["over here", "# of ...",
                                                                   "- a point.", "lorem ipsum {", "12 34"])])
def test_what_a_rule_points_at(rule, places):
    assert [TEXT[start:stop] for start, stop in offending(rule, TEXT)] == places


@pytest.mark.parametrize("rule", PLACES)
def test_places_ascend_and_are_few(rule):
    text = TEXT * 3000
    found = offending(rule, text)
    assert len(found) <= MOST and all(0 <= start < stop <= LOOKED for start, stop in found)
    assert all(one[1] <= other[0] for one, other in zip(found, found[1:]))
    assert offending(rule, "") == []


def test_a_repeated_paragraph():
    assert [start for start, _ in offending("duplicate_paragraphs", "a b\nc\n\nd\n\na b\nc\n")] == [10]


def test_rules_with_places_are_rules_there_are():
    config = Config(source="x")
    known = {rule for name in ("gopher", "repetition", "generated", "c4", "fineweb")
             for rule in STEPS[name](config).ranges} | {f"top_{n}_gram" for n in (2, 3, 4)} | {
                 f"duplicate_{n}_gram" for n in range(5, 11)}
    assert set(PLACES) <= known


def test_samples_show_them(tmp_path):
    prose = "naïve words with the end of a line that we have to be with and " * 8
    write_jsonl(tmp_path / "a.jsonl", [{"text": prose + " ".join(["1234"] * 60)}, {"text": prose}])
    (tmp_path / "out").mkdir()
    run(Config(source=str(tmp_path / "a.jsonl"), steps=["gopher"]), tmp_path / "out")
    (shown,) = json.loads((tmp_path / "out" / "samples.json").read_text())["dropped"]["gopher.alphabetic_words"]
    assert {shown["text"][start:stop] for start, stop in shown["spans"]} == {"1234"}


def test_an_excerpt_begins_before_the_first_place():
    text, spans = excerpt("é" * 500 + "bad" + "x" * 2000, [(1000, 1003), (2500, 2600)])
    assert [text[start:stop] for start, stop in spans] == ["bad"] and text.startswith("é" * 100 + "bad")
