"""`bloomery generate` with networks that read a source: beams, draws, greedy targets, and equal bytes after a stop."""

import json
import random

import pytest
import torch

from bloomery import targets
from bloomery.cli import main
from bloomery.core.errors import ConfigError, InputError
from bloomery.decoding import GenerateOptions
from bloomery.generate.sampling import Sampling
from bloomery.generate.seq2seq import beamed, drawn, written
from bloomery.model.config import ModelConfig
from bloomery.model.rnn import RNN, RNNConfig
from bloomery.model.seq2seq_files import load_seq2seq, save_seq2seq
from bloomery.model.seq2seq_presets import NetworkOptions, network
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer
from bloomery.row_files import row_seed
from bloomery.targets import open_writer, write_targets
from bloomery.text.tokenizer import train_tokenizer

WORDS = ["iron", "ore", "slag", "fire", "coal"]
KINDS = ("rnn", "transformer-tiny", "t5-v1.1-tiny")


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    """A random network with its tokenizer, its weights so large that it does not repeat one token."""
    place, tokenizer = tmp_path_factory.mktemp(request.param), train_tokenizer([" ".join(WORDS)] * 5, vocabulary=275)
    options = {"preset": request.param, "width": 32, "hidden": 48, "context": 24, "dropout": 0.0}
    heads = {} if request.param == "rnn" else {"heads": 2, "depth": 1}
    model = network(NetworkOptions(**options | heads), vocabulary=tokenizer.size, start=tokenizer.begin, seed=1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(3 if weight.dim() > 1 and "embedding" not in name else 1)
    save_seq2seq(model, place, eos=tokenizer.eos)
    tokenizer.save(place, context=24, chat_template="")
    return place


@pytest.fixture
def sources(tmp_path):
    draw = random.Random(0)
    rows = [{"source": " ".join(draw.choices(WORDS, k=draw.randint(1, 3))), "id": number} for number in range(9)]
    path = tmp_path / "sources.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_command_writes_what_the_search_finds(folder, sources, tmp_path):
    out, asked = tmp_path / "out.jsonl", [row["source"] for row in read(sources)]
    assert main(["generate", str(folder), str(sources), str(out), "--max-tokens", "6", "--ids"]) == 0
    model, words = load_seq2seq(folder).eval(), open_writer(folder, precision="fp32").tokenizer
    ids = [[*words.encode(text), words.eos] for text in asked]
    rows = read(out)
    assert [row["source"] for row in rows] == asked and [row["id"] for row in rows] == [*range(9)]
    assert [row["completions"][0]["ids"] for row in rows] == written(model, ids, ends={words.eos}, max_tokens=6)

    assert main(["generate", str(folder), str(sources), str(tmp_path / "beams.jsonl"), "--max-tokens", "6", "--beams",
                 "3", "-n", "2", "--length-penalty", "0.5", "--ids"]) == 0
    found = beamed(model, ids, ends={words.eos}, max_tokens=6, beams=3, length_penalty=0.5)
    for row, beams in zip(read(tmp_path / "beams.jsonl"), found, strict=True):
        assert [(one["ids"], one["finish"]) for one in row["completions"]] == [(b.ids, b.finish) for b in beams[:2]]
        assert row["completions"][0]["score"] >= row["completions"][1]["score"]
        assert row["completions"][0]["logp"] == pytest.approx(beams[0].logp, abs=1e-6)


def test_draws_belong_to_their_row_and_not_to_their_company(folder, sources, tmp_path):
    options = GenerateOptions(temperature=1.0, n=3, max_tokens=5, seed=4, ids=True)
    write_targets(folder, sources, tmp_path / "all.jsonl", options)
    rows = read(tmp_path / "all.jsonl")
    assert all(len(row["completions"]) == 3 for row in rows)
    assert len({tuple(one["ids"]) for row in rows for one in row["completions"]}) > 9
    writer = open_writer(folder, precision="fp32")
    ids = [*writer.tokenizer.encode(rows[7]["source"]), writer.tokenizer.eos]
    (alone,) = drawn(writer.network, [ids], ends=writer.ends, max_tokens=5, how=Sampling(temperature=1.0),
                     seeds=[row_seed(4, 7)], samples=3)
    assert [one.ids for one in alone] == [one["ids"] for one in rows[7]["completions"]]
    assert [one.logp for one in alone] == pytest.approx([one["logp"] for one in rows[7]["completions"]], abs=1e-4)


def test_after_a_stop_the_same_bytes_come(folder, sources, tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "GROUP", 4)
    options = GenerateOptions(beams=2, max_tokens=5)
    write_targets(folder, sources, tmp_path / "whole.jsonl", options)
    whole = (tmp_path / "whole.jsonl").read_bytes()
    calls, ask = [], targets.Writer.__call__

    def stopped(self, *given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return ask(self, *given)

    monkeypatch.setattr(targets.Writer, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_targets(folder, sources, tmp_path / "out.jsonl", options)
    assert not (tmp_path / "out.jsonl").exists()
    done = write_targets(folder, sources, tmp_path / "out.jsonl", options)
    assert done["done_before"] == 4 and (tmp_path / "out.jsonl").read_bytes() == whole
    assert write_targets(folder, sources, tmp_path / "out.jsonl", options)["done_before"] == 9
    with pytest.raises(ConfigError, match="other options"):
        write_targets(folder, sources, tmp_path / "out.jsonl", GenerateOptions(beams=3, max_tokens=5))


def test_options_and_rows_of_other_models_are_refused(folder, sources, tmp_path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(ConfigError, match="system, min_tokens: not for a network"):
        write_targets(folder, sources, out, GenerateOptions(system="x", min_tokens=2))
    (tmp_path / "bad.jsonl").write_text('{"words": "x"}\n{"source": "' + "iron " * 60 + '"}\n{"ids": [1, 999]}\n')
    with pytest.raises(InputError, match="3 of 3 rows") as error:
        write_targets(folder, tmp_path / "bad.jsonl", out, GenerateOptions())
    assert all(why in str(error.value) for why in ("no text to be read", "the model reads 1 to 24", "below"))
    for wrong in ({"beams": 2, "temperature": 0.5}, {"beams": 2, "n": 3}):
        with pytest.raises(ValueError, match="beam"):
            GenerateOptions(**wrong)


@pytest.mark.parametrize("command", ["chat", "serve"])
def test_who_talks_to_it_is_told_what_to_do(folder, command, capsys):
    asked = ["--ask", "hello"] if command == "chat" else ["--port", "0"]
    assert main([command, str(folder), *asked]) == 1
    told = capsys.readouterr().err
    assert "reads a source and writes a target" in told and "bloomery generate" in told


def test_a_folder_without_a_tokenizer_takes_ids(tmp_path):
    (tmp_path / "rnn").mkdir()
    save_seq2seq(RNN(RNNConfig(vocabulary=20, width=8, hidden=8)), tmp_path / "rnn", eos=1)
    (tmp_path / "ids.jsonl").write_text('{"ids": [4, 5, 1]}\n')
    write_targets(tmp_path / "rnn", tmp_path / "ids.jsonl", tmp_path / "out.jsonl", GenerateOptions(max_tokens=3))
    (row,) = read(tmp_path / "out.jsonl")
    assert row["completions"][0]["ids"] and row["completions"][0]["text"] == ""


def test_a_language_model_has_no_beams(tmp_path, capsys):
    save_model(Transformer(ModelConfig(vocabulary=20, context=8, depth=1, width=8, heads=1, kv_heads=1, head_width=8,
                                       hidden=8)), tmp_path / "decoder")
    (tmp_path / "ids.jsonl").write_text('{"ids": [4, 5, 1]}\n')
    assert main(["generate", str(tmp_path / "decoder"), str(tmp_path / "ids.jsonl"), str(tmp_path / "out.jsonl"),
                 "--beams", "2"]) == 2
    assert "--best-of" in capsys.readouterr().err and not (tmp_path / "out.jsonl").exists()
