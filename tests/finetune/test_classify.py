"""Every task is learned by encoders and decoders, told in its figures, written down, and opened by other tools."""

import json

import pytest
import torch

from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine
from bloomery.finetune.classify import Config, run
from bloomery.finetune.inputs import Encoder, forest_of
from bloomery.finetune.labelled import classes, read, stratified, task_of
from bloomery.finetune.objectives import objective
from bloomery.finetune.predictions import open_judge
from bloomery.model.headed import Shape, load_headed, open_headed
from bloomery.predictions import predict_file
from bloomery.text.framing import frame_of
from bloomery.text.tokenizer import load_tokenizer
from tests.finetune.task_data import model_folder, rows, write_rows

ROUNDS = {"steps": 60, "examples": 16, "precision": "fp32", "validate_every": 60, "dropout": 0.0,
          "optimizer": {"lr": 5e-3}}
GOALS = {"single": ("val_accuracy", 0.95), "multi": ("val_micro_f1", 0.9), "regression": ("val_pearson", 0.9),
         "pair": ("val_matthews", 0.9), "tagging": ("val_span_f1", 0.95), "choice": ("val_accuracy", 0.95)}


def config(tmp_path, kind: str, world: str, **options) -> Config:
    return Config(model=str(model_folder(tmp_path / kind, kind)),
                  data=str(write_rows(tmp_path / f"{world}.jsonl", rows(world))), **ROUNDS | options)


@pytest.fixture
def out(tmp_path, handlers):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize(("kind", "task"), [
    ("bert", "single"), ("bert", "pair"), ("bert", "tagging"), ("modern", "multi"), ("modern", "choice"),
    ("modern", "regression"), ("decoder", "single"), ("decoder", "choice"), ("decoder", "tagging"),
    ("decoder", "pair")])
def test_a_task_is_learned(tmp_path, out, kind, task):
    found = run(config(tmp_path, kind, task), out)
    name, goal = GOALS[task]
    assert found[name] >= goal, found
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == found["held_out_rows"] and {"label", "prediction"} <= lines[0].keys()
    card = json.loads((out / "card.json").read_text())
    assert card["task"] == found["task"] and card[name.removeprefix("val_")] == found[name]


def test_the_folder_predicts_the_same_here_and_in_transformers(tmp_path, out):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run(config(tmp_path, "bert", "single"), out)
    text = "the cast was great"
    theirs, words = AutoModelForSequenceClassification.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    with torch.no_grad():
        logits = theirs(**words(text, return_tensors="pt")).logits[0]
    judge = open_judge(out, precision="fp32")
    ours = judge(read(str(write_rows(tmp_path / "one.jsonl", [{"text": text}])), {}, Quarantine(), labels=False))[0]
    assert theirs.config.id2label == {0: "neg", 1: "pos"} and ours["prediction"] == "pos"
    assert ours["probability"] == pytest.approx(float((logits / judge.temperature).softmax(-1)[1]), abs=1e-5)


def test_a_file_is_predicted_row_by_row_without_labels(tmp_path, out):
    run(config(tmp_path, "bert", "single"), out)
    asked = write_rows(tmp_path / "asked.jsonl", [
        {"review": row["text"], "n": i, "label": "a label nobody knows"} for i, row in enumerate(rows("single", 70))])
    done = predict_file(out, asked, tmp_path / "said.jsonl", columns={"review": "text"})
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert done["rows"] == 70 and [row["n"] for row in said] == list(range(70))
    assert sum(row["prediction"] == own["label"] for row, own in zip(said, rows("single", 70), strict=True)) > 65
    with pytest.raises(InputError, match="cannot be used"):
        predict_file(out, write_rows(tmp_path / "odd.jsonl", [{"x": "y"}]), tmp_path / "no.jsonl")
    with pytest.raises(InputError, match="no head"):
        predict_file(tmp_path / "bert", asked, tmp_path / "no.jsonl")


def test_a_frozen_trunk_stays_and_the_head_learns(tmp_path, out):
    found = run(config(tmp_path, "bert", "single", frozen=True), out)
    before, after = open_headed(tmp_path / "bert", Shape("sequence", 2), seed=0), load_headed(out)
    assert torch.equal(before.trunk.blocks[1].mlp.up.weight, after.trunk.blocks[1].mlp.up.weight)
    assert not torch.equal(before.score.weight, after.score.weight) and found["trained_share"] < 0.2


def test_the_auxiliary_loss_is_half_of_the_mean_over_predicted_tokens(tmp_path):
    folder = model_folder(tmp_path / "decoder", "decoder")
    found = read(str(write_rows(tmp_path / "rows.jsonl", rows("single", 12))), {}, Quarantine())
    encoder = Encoder("single", classes(found), frame_of(load_tokenizer(folder), causal=True, where=""), 40)
    inputs = [encoder(row)[0] for row in found]
    model = open_headed(folder, Shape("sequence", 2, (), "last"), seed=0, keeps_head=True).eval()
    batch = forest_of(inputs, causal=True, typed=False, language=True)
    batch = type(batch)(**vars(batch) | {"scale": batch.count / float(batch.weights.sum())})
    total, told = objective("single", auxiliary=0.5)(model, batch)
    with torch.no_grad():
        nats, predicted = 0.0, 0
        for one in inputs:
            own = forest_of([one], causal=True, typed=False)
            logp = model.trunk.logits(model.states(own.ids, own.segments))[:-1].log_softmax(-1)
            nats -= float(logp.gather(1, own.ids[1:, None]).sum())
            predicted += len(own.ids) - 1
    expected = told["task_loss"] / batch.count + 0.5 * nats / predicted
    assert float(total.detach()) / batch.count == pytest.approx(expected, rel=1e-5)


def test_two_texts_in_both_orders_say_the_same_whichever_comes_first(tmp_path):
    folder = model_folder(tmp_path / "decoder", "decoder")
    frame = frame_of(load_tokenizer(folder), causal=True, where="")
    encoder, texts = Encoder("single", ("0", "1"), frame, 40, both_orders=True), ("the film", "was good")
    pair, turned = ({"premise": a, "hypothesis": b, "label": 1} for a, b in (texts, texts[::-1]))
    model = open_headed(folder, Shape("sequence", 2, (), "last"), seed=0).eval()
    found = []
    for row in (pair, turned):
        one = read(str(write_rows(tmp_path / "pair.jsonl", [row])), {}, Quarantine())[0]
        batch = forest_of([encoder(one)[0]], causal=True, typed=False)
        assert len(batch.reads) == 2 and len(batch.each) == 1
        found.append(objective("single")(model, batch)[1]["loss"])
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_any_split_into_micro_batches_gives_the_same_training(tmp_path):
    def trained(tokens: int):
        out = tmp_path / str(tokens)
        out.mkdir()
        run(config(tmp_path, "bert", "single", steps=4, micro_tokens=tokens, class_weights="balanced",
                   optimizer={"name": "sgd", "lr": 0.05}), out)
        return load_headed(out)

    whole, split = trained(8192), trained(40)
    torch.testing.assert_close(whole.score.weight, split.score.weight, atol=2e-5, rtol=1e-3)


def test_rows_say_their_task_and_splits_are_stratified(tmp_path):
    found = {task: read(str(write_rows(tmp_path / f"{task}.jsonl", rows(task))), {}, Quarantine()) for task in GOALS}
    assert {task: task_of(own, "auto") for task, own in found.items()} == {
        "single": "single", "multi": "multi", "regression": "regression", "pair": "single", "tagging": "tagging",
        "choice": "choice"}
    many = [type(found["single"][0])("text", (f"text {i}",), "rare" if i % 10 == 0 else "often") for i in range(200)]
    training, held_out = stratified(many, 0.2)
    assert sum(row.label == "rare" for row in held_out) == 4 and len(held_out) == 40 and len(training) == 160
    assert classes([type(many[0])("text", ("a",), label) for label in (10, 9, 2)]) == ("2", "9", "10")


def test_mistakes_in_data_and_options_are_told_before_any_work(tmp_path, out):
    with pytest.raises(InputError) as error:
        read(str(write_rows(tmp_path / "odd.jsonl", [{"review": "x", "stars": 3}])), {}, Quarantine())
    assert "columns.review=text" in error.value.hint
    for options, word in (({"task": "tagging"}, "not for tagging"), ({"auxiliary": 0.5}, "no next token"),
                          ({"pooling": "first", "frozen": True, "auxiliary": 0.5}, "frozen"),
                          ({"class_weights": {"nobody": 2.0}}, "no class is called")):
        with pytest.raises((InputError, ConfigError), match=word):
            run(config(tmp_path, "bert", "single", **options), out)
    one = write_rows(tmp_path / "one.jsonl", [{"text": f"t {i}", "label": "a"} for i in range(30)])
    with pytest.raises(InputError, match="one label"):
        run(config(tmp_path, "bert", "single").model_copy(update={"data": str(one)}), out)
