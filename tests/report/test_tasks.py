"""The chapter about tasks: mistakes in words, by what is true and what was said, and nothing of them believed."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_runs import HOSTILE, classified, lines, read_answers

from bloomery.report import tasks
from bloomery.report.run import Config, run


@pytest.fixture
def folder(tmp_path):
    """A stage's folder of a task with these predictions, worst first."""
    def made(task: str, *rows: dict, columns: dict | None = None, **card) -> Path:
        (tmp_path / "card.json").write_text(json.dumps({"task": task, **card}))
        (tmp_path / "stage.json").write_text(json.dumps({"config": {"columns": columns or {}}}))
        lines(tmp_path / "predictions.jsonl", list(rows))
        return tmp_path
    return made


def test_mistakes_keep_the_order_of_the_file_and_some_of_every_kind(tmp_path):
    classified(tmp_path)
    found = tasks.mistakes(tmp_path)
    assert found["total"] == 300 and found["wrong"] == 100
    assert [row["sure"] for row in found["rows"]] == sorted((row["sure"] for row in found["rows"]), reverse=True)
    (_, _, truths), (_, _, said) = found["filters"]
    assert sum(count for _, count in truths) == len(found["rows"]) == 100 and len(said) == 3
    first = found["rows"][0]
    assert [truths[int(first["truths_at"])][0]] == first["truths"] and [said[int(first["said_at"])][0]] == first["said"]


def test_a_frequent_mistake_leaves_room_for_rare_ones(folder):
    row = {"text": "x", "label": "a", "prediction": "b", "probability": 0.9, "probabilities": {"b": 0.9, "a": 0.1}}
    found = tasks.mistakes(folder("single", *[row] * 500, row | {"prediction": "c"}, row | {"prediction": "a"}))
    assert found["wrong"] == 501 and len(found["rows"]) == tasks.PER_KIND + 1
    assert found["rows"][-1]["said"] == ["c"]


def test_texts_are_told_by_our_names_and_labels_are_none(folder):
    row = {"1": "good film", "2": "0", "label": "negative", "prediction": "positive", "probability": 0.8,
           "probabilities": {"positive": 0.8, "negative": 0.2}}
    (found,) = tasks.mistakes(folder("single", row, columns={"1": "text", "2": "label"}))["rows"]
    assert found["texts"] == [("text", [("", "good film")])]
    assert found["note"] == "positive 80.0 %, negative 20.0 %"


def test_wrong_tags_stand_beside_their_words(folder):
    row = {"tokens": ["Iron", "is", "made"], "label": ["NOUN", "VERB", "VERB"], "prediction": ["NOUN", "NOUN", "VERB"]}
    (found,) = tasks.mistakes(folder("tagging", row, row | {"prediction": row["label"]}))["rows"]
    assert found["truths"] == ["VERB"] and found["said"] == ["NOUN"]
    assert found["texts"][0][1] == [("", "Iron "), ("mark", "is"), ("", " VERB → NOUN "), ("", "made ")]


def test_labels_numbers_and_choices(folder):
    several = {"text": "x", "label": ["up"], "prediction": ["up", "down"], "probabilities": {"up": 0.9, "down": 0.6}}
    (found,) = tasks.mistakes(folder("multi", several, several | {"prediction": ["up"]}))["rows"]
    assert (found["truths"], found["said"]) == (["up"], ["down", "up"])
    (found,) = tasks.mistakes(folder("regression", {"text": "x", "label": 1.5, "prediction": 3.0}))["rows"]
    assert found["note"] == "1.5 was told as 3.0" and not found["truths"]
    asked = {"question": "which", "choices": ["this", "that"], "label": 1, "prediction": 0, "answer": "this",
             "probabilities": [0.7, 0.3]}
    (found,) = tasks.mistakes(folder("choice", asked))["rows"]
    assert found["texts"] == [("question", [("", "which")]), ("answer 1", [("del", "this")]),
                              ("answer 2", [("ins", "that")])]


def test_answers_are_shown_in_their_text(tmp_path):
    read_answers(tmp_path)
    beside, invented = tasks.mistakes(tmp_path)["rows"]
    assert dict(beside["texts"])["text"] == [("", "Ore is smelted "), ("ins", "in a bloomery"), ("", ", which is "),
                                             ("del", "a furnace"), ("", ".")]
    assert (invented["truths"], invented["said"]) == (["no answer"], ["something else"])
    assert "".join(part for _, part in dict(invented["texts"])["text"]).endswith("…")
    assert tasks.located("one two", ["two"], "one two", 0) == [("del", "one two")]


def test_a_table_of_many_classes_keeps_the_largest():
    counts = [[10 + r if r == c else int(c == 0) for c in range(20)] for r in range(20)]
    found = tasks.confusion([f"c{i}" for i in range(20)], counts)
    assert len(found["names"]) == tasks.LARGEST and found["left_out"] == 4 and found["names"][-1] == "c19"
    assert found["rows"][-1]["recall"] == pytest.approx(29 / 30)


def test_other_cards_have_no_such_chapter(folder):
    place = folder("embed", {"query": "x"}, mrr=0.5)
    assert tasks.chapter({"folder": place, "label": "x"}) is None and tasks.mistakes(place) == {}


class Details(HTMLParser):
    """The text of rows that are mistakes, as a reader without scripts has them."""

    def __init__(self, text: str):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if "document mistake" in (dict(attributes).get("class") or ""):
            self.rows.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "details"

    def handle_data(self, data):
        if self.inside:
            self.rows[-1] += data


def test_the_page_has_the_rows_escaped_and_without_a_script(new_run, tmp_path):
    new_run.stage("reviews", "classify", config={"columns": {"review": "text", "2": "label"}}, files=classified)
    new_run.stage("reader", "qa", files=read_answers)
    (tmp_path / "page").mkdir()
    run(Config(runs=new_run.folders), tmp_path / "page")
    page, told = ((tmp_path / "page" / f"report.{end}").read_text() for end in ("html", "json"))
    rows = Details(page).rows
    assert len(rows) == 102 and any(HOSTILE[:30] in row for row in rows)
    assert "<script>window.stolen" not in page and "&lt;script&gt;window.stolen" in page
    assert [task["task"] for task in json.loads(told)["tasks"]] == ["single", "qa"]
    assert '<div class="controls" hidden>' in page and 'id="tasks"' in page and page.count("Reliability diagram") == 1
