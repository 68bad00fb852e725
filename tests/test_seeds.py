"""A recipe with several seeds: which runs are asked for, and what is made of their numbers."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import seeds


def test_every_seed_is_a_run_and_all_are_one_table(monkeypatch, capsys):
    asked = []

    def run(command, **options):
        asked.append(command[4:])
        seed = int(command[-2].rpartition("=")[2])
        return SimpleNamespace(stdout=json.dumps({"metrics": {
            "sft.exact_match": 0.12, "grpo.exact_match": 0.9 + seed / 100, "ppo.exact_match": 0.95}}))

    monkeypatch.setattr(seeds.subprocess, "run", run)
    seeds.main(["recipe.toml", "grpo", "ppo", "--seeds", "1", "5"])
    assert asked == [["recipe.toml", "--set", f"grpo.seed={seed}", "--set", f"ppo.seed={seed}", "--json"]
                     for seed in (1, 5)]
    assert capsys.readouterr().out.splitlines() == [
        "|  | before | mean | least | most |", "|---|---|---|---|---|", "| grpo | 12.0% | 93.0% | 91.0% | 95.0% |",
        "| ppo | 12.0% | 95.0% | 95.0% | 95.0% |"]


def test_what_was_not_measured_is_said(monkeypatch, capsys):
    monkeypatch.setattr(seeds, "measured", lambda recipe, stages, seed: {"ppo.val_kl": 1.0, "sft.val_bpb": 2.0})
    with pytest.raises(SystemExit):
        seeds.main(["recipe.toml", "ppo"])
    assert "exact_match was not measured of ppo; there are val_kl" in capsys.readouterr().err
    assert list(seeds.rows([{"ppo.val_reward": 0.5}], ["ppo"], before="sft", metric="val_reward"))[1][1:] == \
        ["", "50.0%", "50.0%", "50.0%"]
