"""IFEval's instructions: each kept and broken, and every row of the published data can be asked."""

import gzip
import json
import os
from pathlib import Path

import pytest

from bloomery.align.constraints import INSTRUCTIONS, count_sentences, followed, instructions_of
from bloomery.core.errors import InputError
from bloomery.core.records import Message, Problem

REAL = Path(os.environ.get("BLOOMERY_DATA", "absent")) / "ifeval" / "input_data.jsonl.gz"
ENGLISH = "the weather was fine and all of us went out to see the old town by the river"
CASES = [
    ("keywords:existence", {"keywords": ["Cat", "dog"]}, "a cat and a DOG", "a cat"),
    ("keywords:frequency", {"keyword": "ha", "frequency": 2, "relation": "at least"}, "ha Ha", "ha"),
    ("keywords:frequency", {"keyword": "ha", "frequency": 2, "relation": "less than"}, "ha", "ha ha"),
    ("keywords:forbidden_words", {"forbidden_words": ["can"]}, "cannot", "you CAN"),
    ("keywords:letter_frequency", {"letter": "J", "let_frequency": 2, "let_relation": "at least"}, "Jj", "j"),
    ("language:response_language", {"language": "de"}, "Das Wetter war gut und wir gingen alle hinaus.", ENGLISH),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "One. Two!", "Mr. Po left."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n***\n\n***\nb"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "two words", "it's three"),
    ("length_constraints:nth_paragraph_first_word",
     {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "It"}, "a\n\n\"It, was", "a\n\nThen it"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b]", "[a]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\np. s. more", "Bye. PS more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "P.P.S more", "P.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n- b\n* c"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "Maybe."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and **"),
    ("detectable_format:multiple_sections", {"section_spliter": "Part", "num_sections": 2}, "Part 1 Part 2", "Part 1"),
    ("detectable_format:json_format", {}, "```json\n{\"a\": 1}\n```", "{a: 1}"),
    ("detectable_format:title", {}, "<<a title>>\ntext", "<< >>"),
    ("combination:two_responses", {}, "one\n******\ntwo", "same\n******\nsame"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. Yes", "Yes. Say it."),
    ("startend:end_checker", {"end_phrase": "The end."}, 'so "the END."', "The end. Or not."),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "A BC", "A Bc"),
    ("change_case:english_capital", {}, ENGLISH.upper(), ENGLISH),
    ("change_case:english_lowercase", {}, ENGLISH, ENGLISH.title()),
    ("punctuation:no_comma", {}, "a b", "a, b"),
    ("startend:quotation", {}, '"all of it"', '"some" of it'),
]


def row(name, options):
    return json.dumps({"instruction_id_list": [name], "kwargs": [options]})


@pytest.mark.parametrize(("name", "options", "kept", "broken"), CASES)
def test_each_instruction_is_kept_by_one_text_and_broken_by_another(name, options, kept, broken):
    assert followed(kept, row(name, options)) == [True] and followed(broken, row(name, options)) == [False]
    assert followed("  ", row(name, options)) == [False]


def test_every_kind_has_a_case():
    assert {name for name, *_ in CASES} == INSTRUCTIONS.keys() and len(INSTRUCTIONS) == 25


@pytest.mark.parametrize(("text", "count"), [
    ("One.", 1), ("One. Two? Three!", 3), ("Dr. No lives at 3.5 km. He does.", 2), ("no stop", 1), ("", 0),
    ("A... Then B.", 2), ("First. then", 1), ('He said "No." She left.', 2)])
def test_sentences(text, count):
    assert count_sentences(text) == count


def test_loosely_a_first_line_does_not_matter():
    known = row("startend:quotation", {})
    said = 'Sure:\n"all of it"'
    assert followed(said, known) == [False] and followed(said, known, loose=True) == [True]


def test_an_instruction_nobody_knows_is_an_error():
    with pytest.raises(InputError, match="unknown instruction"):
        followed("x", row("new:kind", {}))


@pytest.mark.skipif(not REAL.exists(), reason="BLOOMERY_DATA has no ifeval")
def test_all_published_rows_can_be_checked():
    with gzip.open(REAL, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    found = [followed(one["prompt"], instructions_of(Problem((Message("user", one["prompt"]),), "", columns=one)))
             for one in rows]
    assert len(found) == 541 and sum(map(len, found)) == 834 and {type(kept) for own in found for kept in own} == {bool}
