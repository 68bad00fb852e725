"""A guideline document gives every one of its examples as a question, with the rule and without."""

import pytest

from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.instruct.guideline import pairs, rules

GUIDE = """# Feelings in reviews

Label what the writer feels.

## Mixed reviews
When praise and blame stand together, the last word counts.

- **Input:** A thin plot {really},
  but I laughed.
- **Output:** positive

### Examples

Text: Good actors. A waste of them.

Still there is a second paragraph.
Label: negative

This too belongs to the rule.

## Irony #
Input: Oh, great. Another sequel.
Output: negative
"""


def test_rules_hold_what_stands_under_them():
    top, mixed, irony = [rule for rule in rules(GUIDE, where="guide.md") if rule.title]
    assert (top.title, top.text, top.examples) == ("Feelings in reviews", "Label what the writer feels.", [])
    assert mixed.text.startswith("When praise") and mixed.text.endswith("This too belongs to the rule.")
    assert mixed.examples == [("A thin plot {really},\n  but I laughed.", "positive"),
                              ("Good actors. A waste of them.\n\nStill there is a second paragraph.", "negative")]
    assert (irony.title, irony.examples) == ("Irony", [("Oh, great. Another sequel.", "negative")])


def test_every_example_is_asked_with_its_rule_and_without():
    made = list(pairs(GUIDE, where="guide.md", task="feelings"))
    assert len(made) == 5 and len({record.id for record, _ in made}) == 5      # a rule that says nothing is no prompt
    for record, wording in made:
        asked, answer = record.messages
        assert asked.role == "user" and answer in (Message("assistant", "positive"), Message("assistant", "negative"))
        rule = "the last word counts" if "guide.md:5" in record.source else "Irony"
        assert (rule in asked.content) or "/without/" in wording
        assert ("When praise" in asked.content) == ("/with/" in wording and "guide.md:5" in record.source)
        assert record.task == "feelings"


@pytest.mark.parametrize(("prompts", "count"), [("both", 6), ("without", 3), ("with", 3)])
def test_prompts_chooses_the_forms(prompts, count):
    made = list(pairs(GUIDE + "\nIt is meant the other way round.\n", where="guide.md", prompts=prompts))
    assert len(made) == count
    assert {wording.split("/")[1] for _, wording in made} == ({"with", "without"} if prompts == "both" else {prompts})


def test_the_wording_follows_from_the_seed():
    long = "# Sums\nAdd.\n" + "".join(f"Input: {i}+1\nOutput: {i + 1}\n" for i in range(40))
    assert list(pairs(long, where="g")) == list(pairs(long, where="g"))
    assert list(pairs(long, where="g", seed=1)) != list(pairs(long, where="g"))
    assert len({wording for _, wording in pairs(long, where="g")}) == 8


@pytest.mark.parametrize(("text", "what"), [
    ("# A rule\nwithout any example\n", "without examples"),
    ("# A\nInput: one\n\nInput: two\nOutput: 2\n", "without Output"),
    ("# A\nOutput: alone\n", "without Input"),
    ("# A\nInput: one\n# B\nInput: two\nOutput: 2\n", "without Output")])
def test_examples_that_are_none_are_refused_with_their_place(text, what):
    with pytest.raises(InputError, match=what) as error:
        rules(text, where="guide.md")
    assert error.value.where.startswith("guide.md")
