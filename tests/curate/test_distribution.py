"""Histograms and what-if numbers: what the page's slider says is what a new run and `rethreshold` say."""

import json
import random

import numpy as np
import pytest

from bloomery.core.files import write_jsonl
from bloomery.curate.distribution import histogram, what_if
from bloomery.curate.rethreshold import rethreshold
from bloomery.curate.run import Config, run

WORDS = ("the", "river", "runs", "to", "sea", "and", "it", "is", "wide", "with", "boats", "have", "12", "#7", "-", "x")


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """A curation of texts that break one rule, several, or none; and the folder it is in."""
    folder, draw = tmp_path_factory.mktemp("distribution"), random.Random(3)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(5, 120))) for _ in range(300)]
    texts += texts[:2]
    write_jsonl(folder / "a.jsonl", [{"text": text, "url": f"https://{'www.' * (n % 2)}site{n % 20}.org/page"}
                                     for n, text in enumerate(texts)])
    (folder / "out").mkdir()
    run(Config(source=str(folder / "a.jsonl"), steps=["gopher", "exact"]), folder / "out")
    return folder / "out"


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_every_limit_offered_keeps_what_rethreshold_says(curated):
    for rule in ("gopher.word_count", "gopher.alphabetic_words", "gopher.stop_words"):
        found = read(curated, "histograms")[rule]
        for place in range(0, len(found["stops"]), 23):
            stop = found["stops"][place]
            told = rethreshold(curated, {rule: (stop, None)})
            kept = found["pool"] - found["fewer"][place]
            assert told["kept"] <= kept <= told["kept"] + sum(told["undecided"].values())
            assert kept == told["kept"] + sum(told["undecided"].values()) or found["then"]


def test_the_limits_that_are_set_are_offered_and_keep_what_was_kept(curated):
    account, found = read(curated, "curation"), read(curated, "histograms")
    checked = 0
    for rule, (low, high) in account["rules"].items():
        one = found[rule]
        lost = sum(one[side][one["stops"].index(limit)] for side, limit in (("fewer", low), ("more", high))
                   if limit in one["stops"])
        assert one["pool"] - lost == account["kept"]
        checked += lost > 0
    assert checked >= 2
    assert found["gopher.word_count"]["then"] == ["exact"] and found["gopher.symbol_ratio"]["then"] == []


def test_numbers_without_limits_are_drawn_too(curated):
    found = read(curated, "histograms")["gopher.median_word_length"]
    assert "stops" not in found and sum(found["counts"]) == 302


def test_the_mix_before_and_after(curated):
    account, found = read(curated, "curation"), read(curated, "curation")["mix"]
    assert sum(before for before, _ in found["length"].values()) == account["read"]
    assert sum(after for _, after in found["length"].values()) == account["kept"]
    assert list(found["domain"])[-1] == "others" and len(found["domain"]) == 16
    assert sum(after for _, after in found["domain"].values()) == account["kept"]
    assert set(found["domain"]) - {"others"} <= {f"site{n}.org" for n in range(20)}


def test_bins_suit_the_values():
    few = histogram(np.array([0.0, 1, 1, 4]), (2, np.inf))
    assert few == {"low": 0.0, "high": 5.0, "log": False, "below": 0, "above": 0, "counts": [1, 2, 0, 0, 1]}
    far = histogram(np.geomspace(1, 9000, 5000) + 0.5, (50, 100_000))
    assert far["log"] and len(far["counts"]) == 200 and far["high"] < 9001
    shares = histogram(np.linspace(0, 0.5, 1000), (0, 0.8))
    assert not shares["log"] and shares["high"] == 0.8
    assert histogram(np.array([])) == {}
    assert sum(histogram(np.full(9, 0.25))["counts"]) == 9


def test_equal_values_are_on_both_sides_of_no_limit():
    values = np.array([1.0, 2, 2, 3])
    found = what_if(histogram(values), values, (2, np.inf))
    place = found["stops"].index(2.0)
    assert (found["fewer"][place], found["more"][place], found["pool"]) == (1, 1, 4)
