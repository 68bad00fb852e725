"""The table of who puts the preferred answer first: counts, intervals, kinds, whose rewards."""

import json

import pytest
import torch
from miniature import small_run, write_rows

from bloomery.core.errors import ConfigError
from bloomery.core.intervals import wilson
from bloomery.evaluate.accuracies import accuracy_rows, policy_rows, say_rows
from bloomery.evaluate.preference import PairScores
from bloomery.evaluate.run import Config, flat, run
from bloomery.model.scalar import ScalarModel, save_scalar
from bloomery.model.store import load_model
from bloomery.text.chat import load_renderer

VALUES = torch.tensor([[2.0, 1.0], [3.0, 1.0], [0.0, 1.0], [1.0, 1.0]])


def scores(logps: torch.Tensor, lengths: torch.Tensor | None = None) -> PairScores:
    return PairScores(tuple("abcd"), ("x", "x", "y", "y"), logps, torch.ones(4, 2) if lengths is None else lengths, 0)


def test_a_tie_is_not_right_and_every_kind_has_an_interval():
    rows = accuracy_rows("m", "likelihood", VALUES, ("x", "x", "y", "y"))
    told = [(row["kind"], row["accuracy"], row["pairs"]) for row in rows]
    assert told == [("", 0.5, 4), ("x", 1.0, 2), ("y", 0.0, 2)]
    assert (rows[0]["low"], rows[0]["high"]) == wilson(2, 4)
    assert len(accuracy_rows("m", "likelihood", VALUES, ("x",) * 4)) == 1


def test_likelihood_is_a_token_and_implied_reward_is_from_the_reference():
    lengths = torch.tensor([[1.0, 4.0]] * 4)
    rows = policy_rows("m", scores(-VALUES, lengths), ("sft", scores(torch.zeros(4, 2))))
    whole = {row["by"]: row["accuracy"] for row in rows if not row["kind"]}
    assert whole == {"likelihood": 0.25, "over sft": 0.25}
    assert {row["by"] for row in policy_rows("m", scores(VALUES), None)} == {"likelihood"}


def test_the_table_is_said_a_line_a_model_and_way(capsys):
    say_rows(accuracy_rows("dpo", "over sft", VALUES, ("x", "x", "y", "y")))
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.split()[:4] == ["dpo", "over", "sft", "50.0%"] and line.endswith("of 4  x 100.0%, y 0.0%")


def test_models_and_reward_models_stand_in_one_table(tmp_path, monkeypatch):
    life = small_run()
    monkeypatch.chdir(life.parents[1])
    folders = {name: next(str(path.parent) for path in life.glob(f"{name}-*/config.json")) for name in ("base", "sft",
                                                                                                      "dpo")}
    judge = tmp_path / "judge"
    renderer = load_renderer(next(life.glob("sft-*")))
    save_scalar(ScalarModel(load_model(next(life.glob("sft-*")))), judge)
    renderer.tokenizer.save(judge, context=128, chat_template=renderer.template.jinja())
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"prompt": f"what is {n}?", "chosen": "one", "rejected": "another"}
                                                  for n in range(4)])
    config = Config(models=folders, reference="sft", rewards={"judge": str(judge)}, preferences=str(pairs))
    run(config, tmp_path)
    table = [(row["model"], row["by"], row["pairs"]) for row in json.loads((tmp_path / "accuracies.json").read_text())]
    assert table == [("base", "likelihood", 4), ("sft", "likelihood", 4), ("sft", "over base", 4),
                     ("dpo", "likelihood", 4), ("dpo", "over sft", 4), ("judge", "reward", 4)]


@pytest.mark.parametrize(("given", "said"), [
    ({"reference": "c", "preferences": "pairs.jsonl"}, "c is none of the models"),
    ({"rewards": {"judge": "j"}, "shards": "s"}, "nothing to be measured on")])
def test_contradictions_are_said_before_anything_is_read(given, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        run(Config(models={"a": "a", "b": "b"}, **given), tmp_path)


def test_later_models_are_compared_with_the_reference_else_with_the_one_before():
    measured = {name: {"nll": float(at)} for at, name in enumerate("abcd")}
    assert {key for key in flat(measured) if "_" in key} == {"b.nll_a", "c.nll_b", "d.nll_c"}
    compared = flat(measured, "b")
    assert {key for key in compared if "_" in key} == {"b.nll_a", "c.nll_b", "d.nll_b"} and compared["d.nll_b"] == 1.0
