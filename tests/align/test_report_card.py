"""The report card: marks of made-up scores are what they should be, ensembles are honest, the stage writes it all."""

import json
import math
from pathlib import Path

import pytest
import torch

from bloomery import cli
from bloomery.align.calibration import accuracy
from bloomery.align.rankings import Ranked
from bloomery.align.report_card import difference, headline, marks, pairs_of, report_card
from bloomery.core.errors import InputError
from bloomery.core.files import write_jsonl
from bloomery.generate.best_of import combine
from bloomery.model.config import ModelConfig
from bloomery.model.scalar import ScalarModel, save_scalar
from bloomery.model.transformer import Transformer
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import train_tokenizer


def groups(count: int = 400) -> list[Ranked]:
    """Pairs whose winner is longer in three of four, of two kinds and three margins."""
    return [Ranked([1], [[2] * (3 + i % 4), [2] * (5 if i % 4 else 8)], (1, 2), margin=float(i % 3), kind="ab"[i % 2],
                   question=str(i)) for i in range(count)]


def noisy(quality: float, seed: int, count: int = 400) -> torch.Tensor:
    """Scores whose differences are `quality` on average, with noise of deviation 1."""
    noise = torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / 2 ** 0.5
    return (noise + torch.tensor([quality, 0.0])).flatten()


def test_pairs_know_who_won_and_ties_are_left_out():
    ranked = [Ranked([1], [[2], [3, 3], [4]], (2, 1, 2), question="a"), Ranked([1], [[5], [6]], (1, 2), share=0.3),
              Ranked([1], [[7], [8]], (1, 2), share=0.5), Ranked([1], [[9], [10]], (1, 2), 1.5, kind="k")]
    pairs = pairs_of(ranked)
    assert pairs.index.tolist() == [[1, 0], [1, 2], [4, 3], [7, 8]] and pairs.margins.tolist() == [0, 0, 0, 1.5]
    assert pairs.lengths.tolist() == [1, 2, 1, 1, 1, 1, 1, 1, 1] and pairs.kinds == ("", "", "", "k")
    with pytest.raises(InputError, match="no pair can be measured"):
        pairs_of(ranked[2:3])


def test_marks_of_a_good_model():
    pairs, scores = pairs_of(groups()), noisy(1.0, 0)
    found = marks(scores, pairs)
    d = difference(scores, pairs)
    assert found["accuracy"] == accuracy(d) > 0.75 and found["interval"][0] < found["accuracy"] < found["interval"][1]
    assert found["temperature"] == pytest.approx(0.5, abs=0.15)         # of normal differences: deviation^2 / (2 mean)
    assert found["ece_scaled"] < 0.06 < found["ece"]
    quarters = found["by_confidence"]
    assert [q["count"] for q in quarters] == [100] * 4 and quarters[0]["accuracy"] < quarters[3]["accuracy"]
    assert [(b["name"], b["count"]) for b in found["by_kind"]] == [("a", 200), ("b", 200)]
    assert [b["name"] for b in found["by_margin"]] == ["0", "1", "2"]
    assert sum(b["count"] for b in found["by_length"]) == 400
    assert sum(found["histogram"]["won"]) == sum(found["histogram"]["lost"]) == 400
    assert all(b["interval"][0] <= b["accuracy"] <= b["interval"][1] for name in ("by_kind", "by_length")
               for b in found[name])


def test_a_reward_that_counts_tokens_is_found_out():
    pairs = pairs_of(groups())
    card = report_card({"reward": pairs.lengths}, pairs)
    found = card["models"]["reward"]
    assert found["length_correlation"] == pytest.approx(1) and found["longer_preferred"] == 1.0
    of_length = {b["name"]: b["accuracy"] for b in found["by_length"]}
    assert of_length["winner is longer"] == 1 and of_length["winner is shorter"] == 0
    assert any("it likes length" in words for words in card["words"])


def test_a_coin_is_called_one():
    pairs = pairs_of(groups())
    words = report_card({"reward": noisy(0.0, 1)}, pairs)["words"]
    assert "it is no better than a coin" in words
    assert "it is worse than a coin" in report_card({"reward": noisy(-1.0, 1)}, pairs)["words"]


@pytest.mark.parametrize("how", ["mean", "min", "lower", "variance"])
def test_an_ensemble_is_of_members_on_one_scale(how):
    pairs = pairs_of(groups())
    scores = {name: noisy(0.5, seed) * scale + shift for seed, (name, scale, shift) in
              enumerate([("one", 1.0, 0.0), ("two", 50.0, 7.0), ("three", 0.1, -3.0)])}
    card = report_card(scores, pairs, how=how, k=0.2)
    alike = [((own - own.mean()) / own.std(correction=0)).tolist() for own in scores.values()]
    together = torch.tensor(combine(alike, how, 0.2), dtype=torch.float64)
    assert card["ensemble"]["accuracy"] == accuracy(difference(together, pairs))
    assert card["ensemble"]["members_accuracy"] == pytest.approx(
        sum(own["accuracy"] for own in card["models"].values()) / 3)
    assert 0 < card["ensemble"]["agreement"] < 1
    assert card["ensemble"]["disagreement_wrong"] > 0 and headline(card)["ensemble.accuracy"] > 0.6


def test_members_with_noise_of_their_own_are_better_together_and_copies_are_not():
    pairs = pairs_of(groups(4000))
    apart = report_card({str(seed): noisy(0.5, seed, 4000) for seed in range(3)}, pairs)
    assert apart["ensemble"]["accuracy"] > apart["ensemble"]["members_accuracy"] + 0.03
    assert "better by" in apart["words"][0]
    copies = report_card({str(seed): noisy(0.5, 0, 4000) for seed in range(3)}, pairs)
    assert copies["ensemble"]["agreement"] == 1 and "no better (+0.0 points)" in copies["words"][0]
    with pytest.raises(InputError, match="cannot be standardised"):
        report_card({"a": noisy(0.5, 0), "b": torch.zeros(800, dtype=torch.float64)}, pairs_of(groups()))


# --- the stage ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """Two reward models of other contexts, and pairs one of which is too long for the second."""
    folder = tmp_path_factory.mktemp("cards")
    tokenizer = train_tokenizer(["raw ore and slag"], vocabulary=300)
    for name, seed, context in (("one", 1, 96), ("two", 2, 64)):
        config = ModelConfig(vocabulary=300, context=context, depth=1, width=32, heads=4, kv_heads=2, head_width=8,
                             hidden=48)
        save_scalar(ScalarModel(Transformer(config, seed=seed), seed=seed), folder / name)
        tokenizer.save(folder / name, context=context, chat_template=TEMPLATES["chatml"].jinja())
    write_jsonl(folder / "pairs.jsonl", [{"prompt": f"{n}?", "chosen": f"ore {n * n}", "rejected": f"slag {n}"}
                                         for n in range(40)] + [{"prompt": "?", "chosen": "o" * 60, "rejected": "x"}])
    return folder


def test_calibrate_writes_a_card(room, capfd):
    out = room / "card"
    assert cli.main(["calibrate", f"models.one={room / 'one'}", f"models.two={room / 'two'}",
                     f"data={room / 'pairs.jsonl'}", f"out={out}", "combine=lower", "k=0.5"]) == 0
    card, metrics = (json.loads((out / name).read_text()) for name in ("card.json", "stage.json"))
    assert list(card["models"]) == ["one", "two"] and card["pairs"] == 40 and metrics["metrics"]["dropped"] == 1
    assert card["ensemble"]["how"] == "lower"
    assert metrics["metrics"]["ensemble.accuracy"] == card["ensemble"]["accuracy"]
    assert "the ensemble of 2 (lower)" in capfd.readouterr().err
    assert all(math.isfinite(own["nll"]) for own in card["models"].values())


def test_members_may_be_brought_to_one_scale_elsewhere(room):
    write_jsonl(room / "few.jsonl", [{"prompt": "?", "chosen": "iron", "rejected": "x y z"}])
    out = room / "elsewhere"
    assert cli.main(["calibrate", f"models.one={room / 'one'}", f"models.two={room / 'two'}", f"out={out}",
                     f"data={room / 'pairs.jsonl'}", f"normalise={room / 'few.jsonl'}"]) == 0
    there, here = (json.loads((room / name / "card.json").read_text())["ensemble"] for name in ("elsewhere", "card"))
    assert there["mean_reward"] != pytest.approx(here["mean_reward"])


def test_nothing_to_measure_on(room, capfd):
    assert cli.main(["calibrate", f"models.one={room / 'one'}", f"out={room / 'none'}"]) == 2
    assert "give data, or rankings" in capfd.readouterr().err
    write_jsonl(room / "long.jsonl", [{"prompt": "?", "chosen": "o" * 200, "rejected": "x"}])
    assert cli.main(["calibrate", f"models.one={room / 'one'}", f"data={room / 'long.jsonl'}",
                     f"out={room / 'long'}"]) == 1
    assert "longer than the models' context" in capfd.readouterr().err
