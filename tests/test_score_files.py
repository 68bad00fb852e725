"""`bloomery score`: rows in, the same rows with scores out, the same bytes however often it was stopped."""

import json
import os
from pathlib import Path

import pytest
from miniature import prose, write_rows

from bloomery import cli, scores
from bloomery.core.errors import Preempted
from bloomery.core.records import Message
from bloomery.generate.scoring import RewardModel
from bloomery.model.config import ModelConfig
from bloomery.model.scalar import ScalarModel, save_scalar
from bloomery.model.transformer import Transformer
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import train_tokenizer

PAIRS = [{"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": prose(n, 1)[:40], "id": n} for n in range(70)]


@pytest.fixture(scope="module")
def judges(tmp_path_factory) -> list[Path]:
    """Two reward models of random weights."""
    folder = tmp_path_factory.mktemp("judges")
    tokenizer = train_tokenizer([prose(number) for number in range(20)], vocabulary=300)
    for seed in (1, 2):
        config = ModelConfig(vocabulary=300, context=120, depth=1, width=32, heads=4, kv_heads=2, head_width=8,
                             hidden=48)
        save_scalar(ScalarModel(Transformer(config, seed=seed), seed=seed), folder / str(seed))
        tokenizer.save(folder / str(seed), context=120, chat_template=TEMPLATES["chatml"].jinja())
    return [folder / "1", folder / "2"]


@pytest.fixture
def score(judges, tmp_path, monkeypatch, capfd):
    """`score(rows, *options, code=0)`: (what stands in out.jsonl, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MKL_CBWR", "AVX2")                  # what the command sets is for no other test

    def call(rows, *options, code=0, out="out.jsonl"):
        given = ["score", judges[0], write_rows(Path("in.jsonl"), rows), out, *options]
        got = cli.main([str(part) for part in given])
        err = capfd.readouterr().err
        assert got == code, err
        return [json.loads(line) for line in Path(out).read_text().splitlines()] if code == 0 else [], err
    return call


def test_rows_keep_their_columns_and_have_what_the_model_says(score, judges):
    rows, _ = score(PAIRS)
    assert [{name: row[name] for name in row if name != "scores"} for row in rows] == PAIRS
    judge = RewardModel(judges[0])
    for row in rows[::20]:
        expected = judge([(Message("user", row["prompt"]),)], [[row["chosen"], row["rejected"]]])[0]
        assert row["scores"] == pytest.approx(expected, abs=1e-5)
    assert sorted(path.name for path in Path().iterdir()) == [".out.jsonl.json", "in.jsonl", "out.jsonl"]


def test_every_kind_of_row(score):
    turns = [{"role": "user", "content": "Why?"}]
    said = {"role": "assistant", "content": "So."}
    rows, _ = score([{"prompt": "Why?", "completion": "So."}, {"messages": [*turns, said]},
                     {"prompt": turns, "completions": [{"text": "So.", "finish": "stop"}, {"text": ""}]},
                     {"prompt": "Why?", "answers": ["So.", "No."]},
                     {"prompt": "Why?", "answers": ["So.", "No."], "ranks": [1, 2]},
                     {"prompt": "Why?", "completion": "So.", "label": True}])
    assert [len(row["scores"]) for row in rows] == [1, 1, 2, 2, 2, 1]
    assert all(row["scores"][0] == pytest.approx(rows[0]["scores"][0], abs=1e-5) for row in rows)


def test_several_are_one_ensemble_on_one_scale(score, judges):
    rows, _ = score(PAIRS, "--also", judges[1], "--combine", "lower", "--k", 0.5)
    members = [[value for row in rows for value in row["members"][which]] for which in (0, 1)]
    for own in members:
        assert sum(own) / len(own) == pytest.approx(0, abs=1e-5)
        assert sum(value ** 2 for value in own) / len(own) == pytest.approx(1, abs=1e-4)
    for row in rows[:5]:
        for score_, gap, one, other in zip(row["scores"], row["disagreement"], *row["members"], strict=True):
            assert gap == pytest.approx(abs(one - other) / 2, abs=1e-5)
            assert score_ == pytest.approx((one + other) / 2 - 0.5 * gap, abs=1e-5)
    few = write_rows(Path("few.jsonl"), PAIRS[:3])
    assert score(PAIRS, "--also", judges[1], "--normalise", few, out="other.jsonl")[0][0]["members"] != \
        rows[0]["members"]


def test_stopped_and_run_again_gives_the_same_bytes(score, monkeypatch):
    score(PAIRS, out="whole.jsonl")
    real, groups = scores.scored, []

    def interrupted(*given):
        groups.append(1)
        if len(groups) == 40:
            raise Preempted("stopped")
        return real(*given)

    monkeypatch.setattr(scores, "scored", interrupted)
    score(PAIRS, code=75)
    monkeypatch.setattr(scores, "scored", real)
    assert Path(".out.jsonl.part").stat().st_size and not Path("out.jsonl").exists()
    with open(".out.jsonl.part", "ab") as part:
        part.write(b'{"prompt": "What is')                  # a line that a kill cut
    _, err = score(PAIRS)
    assert "goes on after 32 of 70 rows" in err
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert "already done" in score(PAIRS)[1]
    assert "combine: \"mean\" -> \"min\"" in score(PAIRS, "--combine", "min", code=2)[1]


def test_all_bad_rows_are_named_before_any_work(score):
    _, err = score([*PAIRS, {"prompt": "Why?"}, {"prompt": "Why?", "completion": "o" * 500},
                    {"prompt": "Why?", "answers": [3]}, {"prompt": "Why?", "answers": ["a"], "scores": [1]}], code=1)
    assert "4 of 74 rows cannot be used" in err and "no answer to be scored" in err
    assert "the reward model reads 120" in err and "not a list of texts" in err and "already has a column" in err
    assert not os.path.exists("out.jsonl") and not os.path.exists(".out.jsonl.part")
