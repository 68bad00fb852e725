"""C4's rules, each on a text that only it decides."""

import pyarrow as pa
import pytest
from pydantic import ValidationError

from bloomery.core.errors import InputError
from bloomery.curate.c4 import C4, PAPER, TFDS, LineRules
from bloomery.curate.edits import apply

GOOD = "This line ends as it should. It has two sentences!"
PAGE = "\n".join([GOOD] * 3)


def batch(*texts):
    return pa.record_batch({"text": pa.array(texts, pa.large_string())})


def left(text, **options):
    """The text as the step leaves it, or why it goes."""
    given = batch(text)
    findings = LineRules(C4(**options)).examine(given)
    return findings.reasons[0] or apply(given, findings.edits).column("text")[0].as_py()


@pytest.mark.parametrize("line", [
    "No end to this line", "This one trails off...", "Too few.", "Turn on JavaScript to go on.",
    "Read our Privacy Policy now.", "We make use of Cookies here.", "   ",
    "One " + "x" * 1001 + " word.", "It ends so [edit]"])
def test_lines_that_are_cut(line):
    assert left(f"{line}\n{PAGE}\n{line}") == PAGE


def test_white_space_around_lines_and_pages_goes():
    assert left(f"\n\n  {GOOD}  \r\n\n{GOOD}\u2028{GOOD}\n ") == PAGE


def test_marks_of_wikipedia_are_cut_and_do_not_hide_an_end():
    assert left(PAGE + "\nIt is so[3] they say.[citation needed][12]") == PAGE + "\nIt is so they say."
    assert left(PAGE + "\nIt is so[3] they say.", citations=False).endswith("[3] they say.")


@pytest.mark.parametrize(("line", "reason"), [
    ("Lorem Ipsum dolor sit amet.", "lorem_ipsum"), ("The function f() { returns it.", "curly_bracket"),
    ("a line with { that is cut before", None), ("lorem ipsum without an end", None)])
def test_pages_that_are_dropped(line, reason):
    assert left(f"{line}\n{PAGE}") == (reason or PAGE)


def test_words_and_sentences_of_the_paper_and_of_the_published_code():
    text = "One two three.\n" * 4 + "This one has more words."
    assert (PAPER["line_words"], PAPER["sentences"], TFDS["line_words"], TFDS["sentences"]) == (3, 5, 5, 3)
    assert left(text, **PAPER) == text
    assert left(text, **TFDS) == "sentences"
    assert left(text, **TFDS | {"sentences": 1}) == "This one has more words."
    assert left("One two three.\n" * 4) == "sentences"


def test_rules_can_be_left_out():
    text = "no end { here\nJavaScript and lorem ipsum use cookies"
    assert left(text, ends=(), curly_bracket=False, javascript=False, lorem_ipsum=False, policy=False, sentences=0,
                line_words=0) == text
    assert left("It's 'here and now'", ends=("'",), sentences=1) == "It's 'here and now'"
    with pytest.raises(ValidationError):
        C4(ends=("...",))


def test_long_texts_long_lines_and_bad_words(tmp_path):
    (tmp_path / "words.txt").write_text("darn\nvery bad\n\n")
    listed = {"bad_words": str(tmp_path / "words.txt")}
    assert left(PAGE + "\nThat is a Darn shame.", **listed) == "bad_words"
    assert left(PAGE + "\nThe socks are darned, very badly.", **listed).startswith(PAGE)
    assert left(PAGE, longest_text=100) == "characters"
    assert left(PAGE, long_lines=(3, 40)) == PAGE
    assert left(PAGE, long_lines=(3, 200)) == "long_lines"
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(InputError, match="empty"):
        LineRules(C4(bad_words=str(tmp_path / "none.txt")))


def test_it_is_counted_which_rule_took_how_many_lines():
    columns = LineRules(C4()).examine(batch(f"Home\nToo few.\n\nUse JavaScript for this.\n{PAGE}", "")).columns
    assert {name: column.tolist() for name, column in columns.items() if column.any()} == {
        "lines_blank": [1, 0], "lines_unended": [1, 0], "lines_few_words": [1, 0], "lines_javascript": [1, 0],
        "lines_kept": [3, 0], "sentences": [6, 0], "characters": [len(PAGE) + 40, 0]}
