"""Answers in texts: learned, cut into windows, none where there is none, and the same folder in transformers."""

import json
import os
from pathlib import Path

import pytest
import torch

from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.finetune.extract import Config, Reading, lessons, open_reader, reading, run, yardsticks
from bloomery.finetune.questions import Asked, questions
from bloomery.finetune.yardsticks import answer_lengths, nearest_sentences, random_spans
from bloomery.model.forest import roots
from bloomery.predictions import predict_file
from bloomery.text.framing import frame_of
from bloomery.text.tokenizer import load_tokenizer
from tests.finetune.task_data import model_folder, rows, write_rows

ROUNDS = {"steps": 80, "examples": 16, "precision": "fp32", "validate_every": 80, "optimizer": {"lr": 5e-3}}


@pytest.fixture
def out(tmp_path, handlers):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("kind", ["bert", "decoder"])
def test_answers_are_found_and_transformers_scores_the_same(tmp_path, out, kind):
    from transformers import AutoModelForQuestionAnswering

    folder, data = model_folder(tmp_path / kind, kind), write_rows(tmp_path / "qa.jsonl", rows("qa", 400))
    found = run(Config(model=str(folder), data=str(data), **ROUNDS), out)
    assert found["val_exact_match"] > (90 if kind == "bert" else 60), found
    reader = open_reader(out, precision="fp32")
    made = reading(Asked("which is named", "bad named film bad"), reader.frame, 40).windows[0]
    theirs = AutoModelForQuestionAnswering.from_pretrained(out).eval()
    with torch.no_grad():
        kinds = {"token_type_ids": torch.tensor([made.types])} if kind == "bert" else {}
        expected = theirs(torch.tensor([made.ids]), **kinds)
        ours = reader.model.eval().scores(torch.tensor(made.ids), roots([len(made.ids)], causal=kind == "decoder"),
                                          torch.tensor(made.types) if kinds else None)
    torch.testing.assert_close(ours[:, 0], expected.start_logits[0], atol=1e-4, rtol=0)
    row = {"question": "which is named", "context": "poor named cast poor"}
    asked = write_rows(tmp_path / "asked.jsonl", [row])
    predict_file(out, asked, tmp_path / "said.jsonl")
    said = json.loads((tmp_path / "said.jsonl").read_text())
    assert (said["prediction"], said["start"]) == ("cast", 11)


def test_windows_without_the_answer_point_to_their_first_token_or_are_left_out(tmp_path):
    tokenizer = load_tokenizer(model_folder(tmp_path / "bert", "bert"))
    frame = frame_of(tokenizer, causal=False, where="")
    text = " ".join(["bad"] * 30) + " film " + " ".join(["poor"] * 30)
    one = reading(Asked("which", text, (("film", text.index("film")),)), frame, 20, stride=8)
    taught = lessons([one], leave_out=False)
    right = [(w, a, b) for w, a, b in taught if a]
    assert len(taught) == len(one.windows) > len(right) > 0
    assert all(tokenizer.decode(w.ids[a:b + 1]) == "film" for w, a, b in right)
    assert lessons([one], leave_out=True) == right and one.text(*one.gold) == "film"
    nothing = reading(Asked("which", text), frame, 20, stride=8)
    assert [(a, b) for _, a, b in lessons([nothing], leave_out=True)] == [(0, 0)] * len(nothing.windows)


def test_squads_json_and_rows_of_three_forms_are_read(tmp_path):
    nested = {"data": [{"title": "T", "paragraphs": [{"context": "the film was good", "qas": [
        {"id": "1", "question": "what", "answers": [{"text": "film", "answer_start": 4}]},
        {"id": "2", "question": "who", "answers": [], "is_impossible": True}]}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(nested))
    found = questions(str(tmp_path / "squad.json"), Quarantine())
    assert [(a.answers, a.title, a.known) for a in found] == [((("film", 4),), "T", True), ((), "T", True)]
    flat = [{"question": "what", "context": "the film", "answers": answers} for answers in (
        {"text": ["film"], "answer_start": [4]}, [{"text": "film", "answer_start": 4}], ["film"])]
    read = questions(str(write_rows(tmp_path / "f.jsonl", flat)), Quarantine())
    assert [asked.answers for asked in read] == [(("film", 4),)] * 3
    quarantine = Quarantine()
    wrong = [*flat, {"question": "what", "context": "the film", "answers": ["cast"]}]
    assert len(questions(str(write_rows(tmp_path / "w.jsonl", wrong)), quarantine)) == 3 and len(quarantine) == 1
    with pytest.raises(InputError) as error:
        questions(str(write_rows(tmp_path / "o.jsonl", [{"text": "x"}])), Quarantine())
    assert "SQuAD" in error.value.hint


@pytest.mark.skipif("BLOOMERY_DATA" not in os.environ, reason="needs BLOOMERY_DATA with squad/dev-v1.1.json.gz")
def test_every_answer_of_squad_is_tokens_of_its_text(tmp_path):
    path = Path(os.environ["BLOOMERY_DATA"]) / "squad" / "dev-v1.1.json.gz"
    tokenizer = load_tokenizer(model_folder(tmp_path / "m", "bert"))
    found = questions(str(path), Quarantine())
    frame = frame_of(tokenizer, causal=False, where="")
    assert len(found) == 10_570
    for asked in found[::200]:
        one = reading(asked, frame, 384)
        assert asked.answers[0][0] in one.text(*one.gold)


def test_yardsticks_are_spans_of_the_text_and_the_sentence_that_shares_most():
    asked = [Asked("where is the boat", "Iron is made here. The boat is at sea. Ore is red.", (("at sea", 31),), "1"),
             Asked("what is red", "Iron is made here. The boat is at sea. Ore is red.", (("Ore", 39),), "2")]
    assert answer_lengths(asked) == [2, 1] and answer_lengths([]) == [1]
    assert nearest_sentences(asked) == ["The boat is at sea.", "Ore is red."]
    spans = random_spans(asked, [2])
    assert spans == random_spans(asked, [2]) and all(span in asked[0].context and len(span.split()) == 2
                                                     for span in spans)
    told = yardsticks(asked, [Reading(one, [], [], None) for one in asked])
    assert told["nearest_sentence"]["f1"] > told["random_span"]["exact_match"] == 0
