"""What-if: other thresholds decided from the statistics are what a new run decides."""

import json
import random

import numpy as np
import pytest

from bloomery import cli
from bloomery.core.errors import ConfigError, InputError
from bloomery.curate.rethreshold import read_limits, rethreshold
from bloomery.curate.run import STEPS, Config, run
from bloomery.curate.step import Findings

WORDS = ("the", "river", "runs", "to", "sea", "and", "it", "is", "wide", "with", "boats", "have", "12", "#7", "-", "x")


@pytest.fixture
def corpus(tmp_path):
    draw = random.Random(3)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(5, 120))) for _ in range(300)]
    texts += texts[:2]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return tmp_path / "a.jsonl"


def curated(corpus, out, **given):
    out.mkdir()
    return run(Config(source=str(corpus), **given), out)


@pytest.mark.parametrize("limits", [{"word_count": (20, 100)}, {"alphabetic_words": (0.95, 1), "word_count": (5, 60)}])
def test_it_is_what_a_new_run_decides(corpus, tmp_path, limits):
    first = curated(corpus, tmp_path / "one", steps=["gopher", "repetition"])
    same = rethreshold(tmp_path / "one", {})
    assert same["kept"] == first["documents_kept"] and same["exact"]
    found = rethreshold(tmp_path / "one", {f"gopher.{rule}": value for rule, value in limits.items()})
    again = curated(corpus, tmp_path / "two", steps=["gopher", "repetition"], gopher=limits)
    assert found["kept"] == again["documents_kept"] != first["documents_kept"] and found["exact"]
    assert {name.partition(".")[2]: count for name, count in found["dropped"].items()} == {
        name.partition("/")[2]: count for name, count in again.items() if name.startswith("dropped/")}


def test_what_a_global_step_has_not_seen_is_said_to_be_undecided(corpus, tmp_path):
    first = curated(corpus, tmp_path / "one", steps=["gopher", "exact"])
    wider = rethreshold(tmp_path / "one", {"gopher.word_count": (20, None)})
    assert not wider["exact"] and wider["undecided"]["exact"] > 0 and wider["kept"] == first["documents_kept"]
    assert wider["kept"] + sum(wider["dropped"].values()) + sum(wider["undecided"].values()) == wider["read"]
    assert not rethreshold(tmp_path / "one", {"gopher.word_count": (100, None)})["exact"]


def test_a_label_of_a_step_s_own_name_is_no_reason(corpus, tmp_path, monkeypatch):
    class Language:
        def examine(self, batch):
            return Findings([None] * batch.num_rows, {"language": np.array(["en"] * batch.num_rows, object)})

    monkeypatch.setitem(STEPS, "language", lambda config: Language())
    first = curated(corpus, tmp_path / "one", steps=["language", "gopher"])
    assert rethreshold(tmp_path / "one", {})["kept"] == first["documents_kept"] > 0


def test_unknown_rules_are_named(corpus, tmp_path):
    curated(corpus, tmp_path / "one", steps=["gopher"])
    with pytest.raises(InputError, match="no rule gopher.wordcount") as error:
        rethreshold(tmp_path / "one", {"gopher.wordcount": (1, 2)})
    assert "word_count" in error.value.hint
    with pytest.raises(InputError, match="no statistics"):
        rethreshold(tmp_path, {})


def test_limits_from_the_command_line(corpus, tmp_path, capfd):
    assert read_limits(["g.words=20,none", "a.b=[0, 0.5]"]) == {"g.words": (20, None), "a.b": (0, 0.5)}
    with pytest.raises(ConfigError, match="not two limits"):
        read_limits(["gopher.word_count=20"])
    curated(corpus, tmp_path / "one", steps=["gopher"])
    assert cli.main(["rethreshold", str(tmp_path / "one"), "gopher.word_count=none,none", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["read"] == 302 and "gopher.word_count" not in found["dropped"] and found["exact"]
