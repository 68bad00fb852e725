"""The chapter about a curation: its numbers, its texts with what is marked in them, and nothing of them believed."""

import json
import re

import pytest
from report_runs import HOSTILE

from bloomery.core.files import write_jsonl
from bloomery.curate import run as curate
from bloomery.report import curation
from bloomery.report.run import Config, run

PROSE = "the river runs to the sea and it is wide with boats that have sails "


@pytest.fixture(scope="module")
def content(whole_run, tmp_path_factory):
    """The page and the numbers of a run with a curation."""
    out = tmp_path_factory.mktemp("page")
    run(Config(runs=whole_run), out)
    return (out / "report.html").read_text(), json.loads((out / "report.json").read_text())


def test_every_number_of_the_chapter_is_in_the_file(content):
    _, numbers = content
    (c,) = numbers["curation"]
    assert [s["name"] for s in c["statistics"]] == ["heuristics.too_short", "language.score"]
    assert c["statistics"][0]["limits"] == [50, None] and c["statistics"][1]["limits"] is None
    assert c["sources"][0]["alarms"] == ["language took 90 %"] and c["sources"][1]["alarms"] == []
    assert [m["title"] for m in c["mix"]] == ["Language", "Length, bytes from", "Domains"]
    assert [m["both"] for m in c["mix"]] == [True, True, False]
    assert c["duplicates"][0]["counts"] == {"2": 1, "2200": 1} and c["work"]["note"].startswith("4.9 MB and 960 doc")


def test_what_a_rule_counts_is_marked_and_edits_are_shown(content):
    page, _ = content
    assert "<mark>Dropped</mark> for <mark>not</mark>" in page
    assert "call <del>555</del><ins>|||PHONE|||</ins> now" in page
    assert "only just kept at 51, limits 50 to inf" in page
    assert "iron <del>and </del><mark>or </mark>ore" in page.replace("\n", "")


def test_nothing_of_a_document_is_believed(content):
    page, _ = content
    shown = page[:page.index('id="data"')]
    assert "<script>window.stolen" not in page and "<b>de</b>" not in shown and "<i>hostile" not in shown
    assert "<mark>&lt;script&gt;w</mark>indow" in page or "<mark>&lt;script&gt;</mark>" in page


def test_the_funnel_says_of_what(content):
    page, numbers = content
    bars = numbers["curation"][0]["bars"]
    left = numbers["curation"][0]["read"]
    for bar in bars:
        assert bar["of_left"] == pytest.approx(bar["documents"] / left, abs=1e-6)
        left -= bar["documents"]
    assert left == numbers["curation"][0]["kept"] and f"{100 * bars[1]['of_all']:.1f}&nbsp;%" in page


def test_a_curation_as_it_is_made(tmp_path):
    texts = [PROSE * 8 + f"number {n}" for n in range(30)] + ["too short"] * 3 + [PROSE * 8 + "number  7"]
    write_jsonl(tmp_path / "corpus.jsonl", [{"text": text} for text in texts])
    folder = tmp_path / "curated"
    folder.mkdir()
    curate.run(curate.Config(source=str(tmp_path / "corpus.jsonl"), steps=["gopher", "exact", "minhash"],
                             minhash={"similarity": 0.5}), folder)
    stage = {"label": "curate", "folder": folder, "metrics": {}}
    found = curation.chapter(stage)
    assert found["bars"][-1]["documents_left"] == found["kept"] == 1
    assert {one["name"] for one in found["statistics"] if one["limits"]} == set(
        json.loads((folder / "curation.json").read_text())["rules"])
    groups = curation.documents(folder)
    assert [(g["kind"], g["rule"], g["total"]) for g in groups[:3]] == [
        ("dropped", "minhash.near_duplicate", 29), ("dropped", "gopher.word_count", 3),
        ("dropped", "exact.exact_duplicate", 1)]
    clusters = curation.clusters(folder)
    assert clusters[0]["step"] == "minhash" and clusters[0]["documents"] == 30
    assert any(look == "mark" for look, _ in clusters[0]["members"][1]["pieces"])
    assert re.fullmatch(r"[0-9a-f]+", clusters[0]["members"][0]["id"])


@pytest.mark.parametrize(("text", "spans", "becomes", "expected"), [
    ("abc", [], None, [("", "abc")]), ("", [], None, []),
    ("abcdef", [[4, 5], [0, 2]], None, [("mark", "ab"), ("", "cd"), ("mark", "e"), ("", "f")]),
    ("abcdef", [[0, 3], [1, 4]], None, [("mark", "abc"), ("", "def")]),
    ("abc", [[1, 2]], ["X"], [("", "a"), ("del", "b"), ("ins", "X"), ("", "c")])])
def test_pieces_of_a_text(text, spans, becomes, expected):
    assert curation.pieces(text, spans, becomes) == expected


def test_differences_give_back_both_texts():
    old, new = "the iron and the ore", "an iron ore and slag"
    found = curation.compared(old, new)
    assert "".join(part for look, part in found if look != "mark").split() == old.split()
    assert "".join(part for look, part in found if look != "del").split() == new.split()


def test_long_pieces_are_clipped():
    assert curation.clipped([("", "abc"), ("mark", "defg")], 5) == [
        ("", "abc"), ("mark", "de"), ("", "… (2 more characters)")]
    assert curation.clipped([("", "abc")], 3) == [("", "abc")]


def test_mixture_and_fertility_stand_beside_it(new_run, tmp_path):
    costs = {"language de": {"documents": 2, "bytes_per_token": 3.0, "tokens_per_word": 2.5, "words_of_one_token": 0.4,
                             "known": 1.0, "share_of_ids_used": 0.1}}
    new_run.stage("tokenizer", files=lambda out: (out / "fertility.json").write_text(json.dumps(costs)))
    new_run.stage("pretrain", **{"planned/web": 0.7, "planned/code": 0.3, "samples/web": 69, "samples/code": 31,
                                 "epochs/web": 1.5, "epochs/code": 0.2})
    out = tmp_path / "page"
    out.mkdir()
    run(Config(runs=new_run.folders), out)
    page, numbers = (out / "report.html").read_text(), json.loads((out / "report.json").read_text())
    assert numbers["mixtures"][0]["rows"][0] == {"name": "web", "samples": 69, "realised": 0.69, "planned": 0.7,
                                                 "epochs": 1.5}
    assert "70.0&nbsp;%" in page and "language de" in page and "2.50" in page and HOSTILE not in page
