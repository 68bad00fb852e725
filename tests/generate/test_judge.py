"""A model as the judge: both orders, every pair, and counts of verdicts that the order made."""

import math
from itertools import combinations

import pytest

from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.data.likelihood import score_answers
from bloomery.generate.judge import Judge, verdict
from bloomery.model.config import ModelConfig
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer
from bloomery.text.tokenizer import SMALLEST, train_tokenizer

QUESTION = "{prompt} A: {first} B: {second}?"
ASKED = (Message("user", "Why?"),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge")
    tokenizer = train_tokenizer(["raw ore"], vocabulary=SMALLEST)
    config = ModelConfig(vocabulary=tokenizer.size, context=64, depth=1, width=16, heads=2, kv_heads=2, head_width=8,
                         hidden=16)
    save_model(Transformer(config, seed=5), path)
    tokenizer.save(path, context=64, chat_template="")
    return path


def test_a_judge_that_likes_what_stands_first_says_nothing():
    found = verdict([-0.1, -3.0], [-0.1, -3.0])
    assert found.p == pytest.approx(0.5) and not found.consistent
    sure = verdict([-0.1, -3.0], [-3.0, -0.1])
    assert sure.p == pytest.approx(1 / (1 + math.exp(-2.9))) and sure.consistent
    assert verdict([-1000.0, -2000.0], [-2000.0, -1000.0]).p == 1.0
    with pytest.raises(FloatingPointError):
        verdict([-math.inf, -math.inf], [0.0, 0.0])


def test_every_answer_is_compared_with_every_other_in_both_orders(folder):
    judge, texts = Judge(folder, question=QUESTION), ["ore", "iron", "no"]
    wins = [0.0, 0.0, 0.0]
    for i, j in combinations(range(3), 2):
        share = []
        for first, second in ((i, j), (j, i)):
            ids = judge.renderer.prompt((Message("user", f"user: Why? A: {texts[first]} B: {texts[second]}?"),))
            a, b = score_answers(judge.model, [ids], [judge.letters])[0]
            share.append(1 / (1 + math.exp(b - a)))
        p = (share[0] + 1 - share[1]) / 2
        wins[i], wins[j] = wins[i] + p, wins[j] + 1 - p
    (found,) = judge([ASKED], [texts])
    assert found == pytest.approx([w / 2 for w in wins], abs=1e-5) and sum(found) == pytest.approx(1.5)
    assert judge.asked == 3 and 0 <= judge.inconsistent <= 3
    assert judge([ASKED, ASKED], [["alone"], []]) == [[0.5], []]


def test_what_an_answer_says_is_not_filled_in(folder):
    judge = Judge(folder, question=QUESTION)
    ids = judge.rendered(ASKED, "{second}", "x")
    assert "{second}" in judge.renderer.tokenizer.decode(ids)


def test_a_question_without_its_parts_or_without_room_is_refused(folder):
    with pytest.raises(InputError) as error:
        Judge(folder, question="{prompt} {first}")
    assert "{second}" in error.value.why
    with pytest.raises(InputError, match="does not fit"):
        Judge(folder)([ASKED], [["a", "b"]])
