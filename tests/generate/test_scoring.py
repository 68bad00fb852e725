"""Rewards: a prompt read once scores like separate sequences, ensembles combine, verifiers that break are counted."""

import pytest
import torch

from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.generate.scoring import (
    Ensemble,
    RewardModel,
    Verifier,
    completion_forest,
    score_completions,
    standardised,
)
from bloomery.model.config import ModelConfig
from bloomery.model.forest import roots
from bloomery.model.scalar import ScalarModel, save_scalar, scalar_weights
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.text.tokenizer import SMALLEST, train_tokenizer

CONFIG = ModelConfig(vocabulary=SMALLEST, context=80, depth=2, width=24, heads=4, kv_heads=2, head_width=6, hidden=32)
QUESTIONS = [(Message("user", "What is iron?"),), (Message("system", "Be brief."), Message("user", "Why?"))]
ANSWERS = [["A metal.", "ore", "I do not know, ask a smith."], ["Because."]]


def scalar(labels: int = 1) -> ScalarModel:
    model = ScalarModel(Transformer(CONFIG, seed=3), labels)
    with torch.no_grad():
        for weight in scalar_weights(model).values():
            weight.mul_(6 if weight.dim() > 1 else 1)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "rm"
    save_scalar(scalar(), path)
    train_tokenizer(["raw ore"], vocabulary=SMALLEST).save(path, context=80, chat_template="")
    return path


def length(prompts, completions) -> list[list[float]]:
    return [[float(len(text)) for text in group] for group in completions]


@torch.no_grad()
def test_a_reward_model_scores_rendered_answers_as_separate_sequences(folder):
    reward = RewardModel(folder)
    renderer = Renderer(reward.renderer.tokenizer)
    apart = []
    for prompt, group in zip(QUESTIONS, ANSWERS, strict=True):
        whole = [renderer.prompt(prompt) + renderer.answer(text) for text in group]
        apart.append([float(reward.model.scores(torch.tensor(ids), roots([len(ids)]))[0, 0]) for ids in whole])
    got = reward(QUESTIONS, ANSWERS)
    assert list(map(len, got)) == [3, 1]
    for ours, theirs in zip(got, apart, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert len({round(score, 3) for group in got for score in group}) == 4


def test_prompts_are_read_once_and_batches_do_not_matter():
    model, prompts = scalar(), [[1, 2, 3, 4], [9], [5, 6]]
    completions = [[[7], [8, 9, 1]], [[2, 2]], []]
    ids, segments = completion_forest(prompts, completions)
    assert ids.tolist() == [1, 2, 3, 4, 7, 8, 9, 1, 9, 2, 2, 5, 6]
    assert segments.parent.tolist() == [-1, 0, 0, -1, 3, -1]
    together = score_completions(model, prompts, completions)
    small = score_completions(model, prompts, completions, micro_tokens=1)
    assert list(map(len, together)) == [2, 1, 0]
    for one, other in zip(together, small, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_an_empty_answer_is_scored_for_its_turn_end(folder):
    reward = RewardModel(folder)
    prompt, end = reward.renderer.prompt(QUESTIONS[0]), [reward.renderer.tokenizer.turn_end]
    assert reward([QUESTIONS[0]], [["", " \n"]])[0] == score_completions(reward.model, [prompt], [[end, end]])[0]


def test_what_the_context_cannot_hold_is_refused_by_place():
    with pytest.raises(InputError) as error:
        score_completions(scalar(), [[1], [2]], [[[3]], [[4], [5] * 80]])
    assert error.value.where == "prompt 1, answer 1" and "81 tokens" in error.value.why


def test_a_classifier_is_no_reward_model(folder, tmp_path):
    save_scalar(scalar(labels=3), tmp_path)
    train_tokenizer(["raw ore"], vocabulary=SMALLEST).save(tmp_path, context=80, chat_template="")
    with pytest.raises(InputError, match="not a reward model"):
        RewardModel(tmp_path)


@pytest.mark.parametrize(("how", "expected"), [
    ("mean", [[4.5, 1.5], [2.0]]), ("min", [[3.0, 1.0], [1.0]]), ("lower", [[3.75, 1.25], [1.5]]),
    ("variance", [[4.5 - 0.5 * 2.25, 1.5 - 0.5 * 0.25], [1.5]])])
def test_an_ensemble_combines_its_members(how, expected):
    def twice(prompts, completions):
        return [[{3: 6.0, 1: 2.0, 0: 3.0}[len(text)] for text in group] for group in completions]

    def other(prompts, completions):
        return [[max(1.0, score) for score in group] for group in length(prompts, completions)]

    both = Ensemble([twice, other], how, k=0.5)
    assert both(QUESTIONS, [["abc", "a"], [""]]) == expected
    assert both.members(QUESTIONS, [["abc", "a"], [""]]) == [[[6.0, 2.0], [3.0]], [[3.0, 1.0], [1.0]]]


def test_an_ensemble_of_nothing_or_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="needs members"):
        Ensemble([])
    with pytest.raises(ValueError, match="median"):
        Ensemble([length], "median")


def test_members_are_brought_to_one_scale():
    scaled = standardised(length, QUESTIONS, [["abcd", "ab"], ["abc"]])
    assert (scaled.mean, scaled.deviation) == (3.0, pytest.approx((2 / 3) ** 0.5))
    assert scaled(QUESTIONS[:1], [["abc", "abcd"]])[0] == pytest.approx([0.0, 1.5 ** 0.5])
    with pytest.raises(InputError, match="cannot be standardised"):
        standardised(length, QUESTIONS[:1], [["ab", "cd"]])


def test_a_verifier_that_breaks_scores_0_and_is_counted():
    seen = []

    def numeric(prompt, completion) -> float:
        seen.append(prompt[-1].content)
        return 1 / int(completion)

    verifier = Verifier(numeric)
    assert verifier(QUESTIONS, [["4", "0", "iron"], ["1"]]) == [[0.25, 0.0, 0.0], [1.0]]
    assert verifier.failures == {"ZeroDivisionError": 1, "ValueError": 1} and seen == ["What is iron?"] * 3 + ["Why?"]
    lost = Verifier(lambda prompt, completion: float("nan"))
    assert lost(QUESTIONS[:1], [["x"]]) == [[0.0]] and lost.failures == {"not finite": 1}
