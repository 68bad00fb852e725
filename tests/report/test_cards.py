"""The report card on the page: dots where their numbers say, words as sentences, and nothing of a card believed."""

import json
import re

import pytest
from report_runs import HOSTILE, made_card

from bloomery.core.errors import InputError
from bloomery.report.cards import HEIGHT, WIDTH, card, diagram
from bloomery.report.run import Config, run


def report(new_run, tmp_path, *cards: dict) -> tuple[str, dict]:
    for number, made in enumerate(cards):
        new_run.stage(f"judge{number}", "reward",
                      files=lambda out, made=made: (out / "card.json").write_text(json.dumps(made)))
    out = tmp_path / "page"
    out.mkdir()
    run(Config(runs=new_run.folders), out)
    return (out / "report.html").read_text(), json.loads((out / "report.json").read_text())


def test_a_card_is_on_the_page(new_run, tmp_path):
    made = made_card("reward")
    page, numbers = report(new_run, tmp_path, made)
    text = re.sub(r"<[^>]+>", " ", page[page.index('<section id="card"'):])
    own = made["models"]["reward"]
    for shown in (f"{100 * own['accuracy']:.1f} %", f"{own['ece_scaled']:.3f}", "winner is longer", "least sure",
                  "How clear the case was"):
        assert shown in text
    assert 'href="#card"' in page and numbers["cards"][0]["stage"] == "judge0"
    assert page.count("<circle class=") == sum(len(own[name]) for name in ("reliability", "reliability_scaled"))


def test_several_models_are_shown_by_their_ensemble(new_run, tmp_path):
    made = made_card("one", "two", "three")
    page, numbers = report(new_run, tmp_path, made, made_card("reward"))
    shown = numbers["cards"][0]
    assert [row["name"] for row in shown["rows"]] == ["one", "two", "three", "ensemble (mean)"]
    assert shown["name"] == "ensemble (mean)" and shown["words"][0].startswith("The ensemble of 3")
    assert page.count('class="diagram"') == 4


def test_dots_stand_where_confidence_and_accuracy_say():
    b = {"low": 0.7, "high": 0.75, "count": 25, "confidence": 0.75, "right": 0.9}
    (series,) = diagram({"count": 100, "reliability": [b]})["series"]
    assert series["dots"][0]["x"] == WIDTH / 2 and series["dots"][0]["y"] == pytest.approx(HEIGHT * 0.1)
    assert series["dots"][0]["r"] == 4.5                        # a quarter of the pairs: a quarter of the area


def test_a_name_is_not_believed(new_run, tmp_path):
    page, _ = report(new_run, tmp_path, made_card(HOSTILE, "other"))
    assert "<script>window.stolen" not in page and "&lt;script&gt;window.stolen" in page


def test_stages_without_a_card_have_no_section(new_run, tmp_path):
    new_run.stage("sft")
    page, numbers = report(new_run, tmp_path)
    assert 'id="card"' not in page and numbers["cards"] == []
    (tmp_path / "card.json").write_text("{broken")
    with pytest.raises(InputError, match="cannot be read"):
        card(tmp_path)
