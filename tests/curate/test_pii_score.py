"""Finds against labels: partial matches of a kind count, kinds without a pattern are missed, bad rows set aside."""

import json

import pytest

from bloomery.core.errors import InputError
from bloomery.curate import pii_score
from bloomery.curate.pii_score import Config


def rows(path, *given):
    path.write_text("\n".join(map(json.dumps, given)))
    return str(path)


def test_spans_by_hand(tmp_path):
    """E-mail: two found and right of three given; phone: one found that is none; a name has no pattern."""
    data = rows(tmp_path / "data.jsonl",
                {"text": "write to a@b.com or c@d.org", "spans": [{"start": 9, "end": 16, "kind": "email"},
                                                                  [22, 27, "email"]]},
                {"text": "call 415-555-2671, says Ann at a at b", "spans": [[24, 27, "name"], [31, 37, "email"]]},
                {"text": "nothing here", "spans": []},
                {"text": "a", "spans": [[0, 2, "email"]]}, {"text": "a", "spans": [["x"]]}, {"text": "a"},
                {"spans": []})
    found = pii_score.run(Config(data=data), tmp_path)
    about = json.loads((tmp_path / "pii.json").read_text())
    assert (found["texts"], found["quarantined"], found["mistakes"]) == (3, 4, 3)
    assert about["kinds"]["email"] == {"precision": 1.0, "recall": 2 / 3, "f1": 0.8, "support": 3, "finds": 2}
    assert about["kinds"]["phone"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0, "finds": 1}
    assert about["kinds"]["name"]["recall"] == 0 and about["kinds"]["name"]["support"] == 1
    assert (about["kinds"]["all"]["precision"], about["kinds"]["all"]["recall"]) == (2 / 3, 2 / 4)
    said = {(row["mistake"], row["kind"], row["text"])
            for row in map(json.loads, (tmp_path / "mistakes.jsonl").read_text().splitlines())}
    assert said == {("not personal", "phone", "415-555-2671"), ("missed", "name", "Ann"), ("missed", "email", "a at b")}
    reasons = (tmp_path / "quarantine.jsonl").read_text()
    assert "from 0 to 2 in a text of 1" in reasons and "a span is" in reasons and "no column spans" in reasons


def test_a_label_is_of_the_whole_text(tmp_path):
    data = rows(tmp_path / "data.jsonl", {"query": "a@b.com and c@d.org", "gold": 1}, {"query": "8.8.8.8", "gold": 0},
                {"query": "Ann", "gold": 1}, {"query": "none", "gold": "no"})
    found = pii_score.run(Config(data=data, text="query", label="gold"), tmp_path)
    assert (found["precision/all"], found["recall/all"]) == (0.5, 0.5)
    assert (found["precision/email"], found["precision/ipv4"], found["mistakes"]) == (1.0, 0.0, 1)
    only = pii_score.run(Config(data=data, text="query", label="gold", kinds=("email",)), tmp_path)
    assert (only["precision/all"], only["recall/all"]) == (1.0, 0.5)


def test_no_labelled_row_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no labelled text") as caught:
        pii_score.run(Config(data=rows(tmp_path / "data.jsonl", {"text": "a"})), tmp_path)
    assert "spans= or label=" in caught.value.hint
