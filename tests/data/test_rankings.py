"""Rankings, margins and vote shares out of rows, and back."""

import pytest

from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, write_jsonl
from bloomery.core.records import Message, Preference, Ranking
from bloomery.data import formats

ASK = (Message("user", "Why?"),)


def read(tmp_path, reader, *rows):
    write_jsonl(tmp_path / "rows.jsonl", rows)
    quarantine = Quarantine()
    return reader(str(tmp_path / "rows.jsonl"), quarantine), [entry["why"] for entry in quarantine.entries]


def test_rankings_by_rank_and_by_score(tmp_path):
    found, bad = read(
        tmp_path, formats.rankings, {"prompt": "Why?", "answers": ["a", "b", "c"], "ranks": [2, 1, 2], "kind": "k"},
        {"prompt": "Why?", "answers": ["a", "b", "c"], "scores": [0.5, 0.5, 3]},
        {"prompt": "Why?", "answers": [{"role": "assistant", "content": "a"}, "b"], "ranks": [10, 20]})
    assert not bad and [one.ranks for one in found] == [(2, 1, 2), (2, 2, 1), (1, 2)]
    assert found[0] == Ranking(ASK, ("a", "b", "c"), (2, 1, 2), "k", found[0].id) and found[2].answers == ("a", "b")


def test_a_ranking_is_read_back(tmp_path):
    ranking = Ranking(ASK, ("a", "b", "c"), (1, 2, 2), "k", "7")
    assert read(tmp_path, formats.rankings, formats.ranking_row(ranking)) == ([ranking], [])


@pytest.mark.parametrize(("row", "reason"), [
    ({"answers": "a", "ranks": [1]}, "answers is not a list of two or more"),
    ({"answers": ["a", "b"], "ranks": [1]}, "not one finite number for each of 2 answers: [1]"),
    ({"answers": ["a", "b"], "scores": [1, float("inf")]}, "not one finite number for each of 2 answers: [1, inf]"),
    ({"answers": ["a", "b"], "ranks": [1, 1]}, "all answers are tied"),
    ({"answers": ["a", " "], "ranks": [1, 2]}, "empty answer"),
    ({"answers": ["a", "a"], "ranks": [1, 2]}, "equal answers of different rank"),
    ({"answers": ["a", {"role": "user", "content": "b"}], "ranks": [1, 2]},
     "an answer is not one turn of the assistant")])
def test_what_is_no_ranking_is_set_aside(tmp_path, row, reason):
    good = {"prompt": "Why?", "answers": ["a", "b"], "ranks": [1, 2]}
    found, bad = read(tmp_path, formats.rankings, good, {"prompt": "Why?", **row})
    assert len(found) == 1 and bad == [reason]


def test_margins_and_votes_of_preferences(tmp_path):
    pair = {"prompt": "Why?", "chosen": "a", "rejected": "b"}
    found, bad = read(tmp_path, formats.preferences, pair, pair | {"margin": 2}, pair | {"share": 0.75},
                      pair | {"votes": [3, 1]}, pair | {"margin": -1}, pair | {"share": 1.5}, pair | {"votes": [0, 0]},
                      pair | {"votes": 3})
    assert [(one.margin, one.share) for one in found] == [(None, 1.0), (2.0, 1.0), (None, 0.75), (None, 0.75)]
    assert bad == ["a margin that is not a number from 0 up: -1", "a share not between 0 and 1: 1.5",
                   "votes that are not two counts, for the chosen and for the rejected answer: [0, 0]",
                   "votes that are not two counts, for the chosen and for the rejected answer: 3"]


def test_a_soft_label_is_read_back(tmp_path):
    pair = Preference(ASK, "a", "b", "k", "7", 1.5, 0.75)
    assert read(tmp_path, formats.preferences, formats.preference_row(pair)) == ([pair], [])
    assert set(formats.preference_row(Preference(ASK, "a", "b"))) == {"prompt", "chosen", "rejected", "kind", "id"}


def test_other_rows_are_told_where_they_belong(tmp_path):
    with pytest.raises(InputError) as error:
        read(tmp_path, formats.rankings, {"prompt": "Why?", "chosen": "a", "rejected": "b"})
    assert "are they preferences, for reward, dpo and its kin" in error.value.hint
