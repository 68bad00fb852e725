"""RefinedWeb's line rules, each on a line that only it takes."""

import pyarrow as pa
import pytest

from bloomery.curate.edits import apply
from bloomery.curate.refinedweb import LineEdits, RefinedWeb

BODY = "A page of prose has lines like this one, which nobody minds.\n" * 8 + "It ends here."


def left(text, **options):
    """The text as the step leaves it, or why it goes."""
    given = pa.record_batch({"text": pa.array([text], pa.large_string())})
    findings = LineEdits(RefinedWeb(**options)).examine(given)
    return findings.reasons[0] or apply(given, findings.edits).column("text")[0].as_py()


@pytest.mark.parametrize("line", [
    "MENU AND Home", "2024", "3 likes", "12,345 Followers", "  1.2K views!", "• 7m\tDownloads •", "word", "  ",
    "sign-in", "Read more...", "items in cart"])
def test_lines_that_go(line):
    assert left(f"{line}\n{BODY}", removed=0.2) == BODY
    assert left(f"{BODY}\n{line}", removed=0.2) == BODY


@pytest.mark.parametrize("line", ["3 likes and more", "likes 3", "K 3 likes", "2 lines", "3likes it", "“É” was there"])
def test_lines_that_stay(line):
    assert left(f"{line}\n{BODY}") == f"{line}\n{BODY}"


def test_counters_may_be_read_wider_or_kept():
    text = f"3 likes of many\n5 views\n{BODY}"
    assert left(text, counters="start", removed=1) == BODY
    assert left(text) == f"3 likes of many\n{BODY}"
    assert left(text, counters="keep") == text


@pytest.mark.parametrize(("line", "rest"), [
    ("Sign-in to see it", "to see it"), ("and so it goes. Read More...", "and so it goes."),
    ("you have 3 items in cart now", "you have 3 now"), ("please sign-in here", "please sign-in here"),
    ("read more... or not", "read more... or not")])
def test_phrases_are_cut_from_short_lines(line, rest):
    assert left(f"{line}\n{BODY}") == f"{rest}\n{BODY}"
    longer = f"{line} {'x ' * 12}y\n{BODY}"
    assert left(longer) == longer


def test_blank_lines_are_kept_to_one():
    assert left("one two\n\n\n\nthree four\n3 likes\n\nfive six", removed=1) == "one two\n\nthree four\n\nfive six"
    assert left("one two\n\n\n\nthree four", blank_lines=0) == "one two\nthree four"


def test_a_document_that_loses_too_much_goes():
    text = "this one stays\n" * 6 + "ONE LINE"
    assert left(text) == "words_removed"
    assert left(text, removed=0.1) == ("this one stays\n" * 6).strip()
    assert left("short page", characters=150) == "characters_left"
    assert left("two words\n12 34", removed=1, line_words=3) == ""


def test_columns_say_what_went():
    given = pa.record_batch({"text": pa.array([f"3 likes\nLOUD LINE\n{BODY}", BODY, ""], pa.large_string())})
    columns = LineEdits(RefinedWeb()).examine(given).columns
    assert columns["lines_counter"].tolist() == [1, 0, 0]
    assert columns["lines_upper_case"].tolist() == [1, 0, 0]
    assert columns["words_removed"].tolist() == pytest.approx([4 / 103, 0, 0])
