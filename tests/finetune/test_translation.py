"""The seq2seq stage from files to predictions, scheduled sampling, and the page of what a network looks at."""

import gzip
import json
import random

import pytest
import torch

from bloomery.cli import main
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine
from bloomery.data.parallel import Pair, by_length, of_columns, of_lines, pair_batch, paired
from bloomery.finetune.seq2seq import Config, OwnBatch, own_ids, parts, sampling
from bloomery.looking import draw, maps
from bloomery.model.forest import Forest
from bloomery.model.rnn import RNN, RNNConfig
from bloomery.model.seq2seq_files import load_seq2seq

WORDS = {"one": "eins", "two": "zwei", "six": "sechs", "dog": "Hund", "cat": "Katze", "sees": "sieht"}
SMALL = ["vocabulary=285", "network.width=32", "network.hidden=48", "examples=16", "optimizer.lr=1e-2",
         "save_every=500", "optimizer.weight_decay=0", "precision=fp32", "beams=2", "max_tokens=24"]


@pytest.fixture
def files(tmp_path):
    draws = random.Random(0)
    rows = [[draws.choice(list(WORDS)) for _ in range(draws.randint(2, 5))] for _ in range(400)]
    with gzip.open(tmp_path / "a.en.gz", "wt") as sources, open(tmp_path / "a.de", "w") as targets:
        for row in rows:
            sources.write(" ".join(row) + "\n")
            targets.write(" ".join(WORDS[word] for word in row) + "\n")
    return tmp_path


def test_words_are_translated_from_two_files_and_judged(files, handlers):
    out = files / "out"
    given = [f"{part}{side}={files}/a.{end}" for part in ("", "test_") for side, end in (("sources", "en.gz"),
                                                                                        ("targets", "de"))]
    assert main(["seq2seq", *given, "steps=150", "validate_every=75", *SMALL, "written=60", f"out={out}"]) == 0
    scores = json.loads((out / "scores.json").read_text())
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    right = sum(row["prediction"] == row["target"] for row in rows) / len(rows)
    assert right > 0.8 and scores["bleu"] > 50 and "tok:13a" in scores["bleu_signature"] and scores["rougeL"] > 0.8
    assert all(row["target"] == " ".join(WORDS[word] for word in row["source"].split()) for row in rows)
    (found,) = maps(out, "one dog", "eins Hund")
    assert found.weights.shape[2:] == (len(found.down), len(found.across))
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(1, 1, len(found.down)))
    draw(out, "one dog", files / "page.html")
    assert "alignment" in (files / "page.html").read_text() and "<svg" in (files / "page.html").read_text()


def test_rows_of_a_file_train_a_transformer_and_it_goes_on_from_there(files, handlers):
    lines = of_lines(f"{files}/a.en.gz", f"{files}/a.de", Quarantine())
    (files / "rows.jsonl").write_text("".join(
        json.dumps({"translation": {"en": text.source, "de": text.target}}) + "\n" for text in lines))
    given = [f"data={files}/rows.jsonl", "source_column=translation.en", "target_column=translation.de", *SMALL]
    assert main(["seq2seq", *given, "network.preset=transformer-tiny", "network.depth=1", "network.heads=2", "steps=3",
                 "network.dropout=0", f"out={files}/first"]) == 0
    assert main(["seq2seq", *given, f"model={files}/first", "steps=3", "adapt.method=lora", "prefix=translate: ",
                 "scheduled_sampling=0.5", f"out={files}/second"]) == 0
    first, second = (load_seq2seq(files / name) for name in ("first", "second"))
    assert first.config == second.config
    changed = [name for (name, one), other in zip(first.named_parameters(), second.parameters(), strict=True)
               if not torch.equal(one, other)]
    assert changed and all(".attention." in name or ".mlp." in name for name in changed)
    titles = {found.title: found.weights.shape[:2] for found in maps(files / "second", "two cat", "zwei")}
    assert titles == {"cross-attention": (1, 2), "encoder": (1, 2), "decoder": (1, 2)}


def test_scheduled_sampling_reads_what_the_network_would_say_and_keeps_the_targets():
    model = RNN(RNNConfig(vocabulary=20, width=8, hidden=12, tied=False))
    pairs = [Pair([3, 4, 1], [5, 6, 7, 8, 1]), Pair([9, 1], [10, 1])]
    batch = pair_batch(pairs, 0)
    assert torch.equal(own_ids(model, OwnBatch(**vars(batch), own=0.0)), batch.ids)
    with torch.no_grad():
        model.readout.bias.fill_(9.0)                           # whatever is read, it says 13
        model.head.weight.zero_()
        model.head.weight[13] = 100.0
    fed = own_ids(model, OwnBatch(**vars(batch), own=1.0))
    assert fed.tolist() == [3, 4, 1, 0, 13, 13, 13, 13, 9, 1, 0, 13]
    stream = sampling(paired(pairs, start=0, examples=2, micro_tokens=64, seed=0), 0.5, 10)
    assert [stream(step)[0].own for step in (0, 9)] == [0.05, 0.5] and stream(3).count == 7.0
    assert model(fed, batch.positions, Forest(batch.segments)).shape == (12, 8)


def test_order_is_a_function_visits_all_and_puts_lengths_together():
    draws = random.Random(1)
    pairs = [Pair([1] * draws.randint(1, 40), [1] * draws.randint(1, 40), row) for row in range(120)]
    order = by_length(pairs, examples=8, seed=3, pool=15)
    steps = [order(step).tolist() for step in range(15)]
    assert sorted(sum(steps, [])) == [*range(120)] and steps == [order(step).tolist() for step in range(15)]
    spread = [max(len(pairs[i].target) for i in step) - min(len(pairs[i].target) for i in step) for step in steps]
    assert sum(spread) / 15 < 6 and sorted(spread) != spread
    assert steps[0] != by_length(pairs, examples=8, seed=4, pool=15)(0).tolist()


def test_what_is_wrong_is_said(tmp_path):
    (tmp_path / "a").write_text("one\ntwo\n")
    (tmp_path / "b").write_text("eins\n\n")
    (tmp_path / "c").write_text("eins\n")
    quarantine = Quarantine()
    assert [text.target for text in of_lines(f"{tmp_path}/a", f"{tmp_path}/b", quarantine)] == ["eins"]
    assert "one side is empty" in quarantine.entries[0]["why"]
    with pytest.raises(InputError, match="not parallel"):
        of_lines(f"{tmp_path}/a", f"{tmp_path}/c", Quarantine())
    (tmp_path / "d.jsonl").write_text('{"x": "a", "y": "b"}\n')
    with pytest.raises(InputError, match="the columns are x, y"):
        of_columns(f"{tmp_path}/d.jsonl", Quarantine(), source="source", target="y")
    for options, why in (({"sources": "a"}, "only one"), ({"data": "a", "sources": "b", "targets": "c"}, "both"),
                         ({}, "nothing to train on")):
        with pytest.raises(ConfigError, match=why):
            parts(Config(steps=1, **options), Quarantine())
