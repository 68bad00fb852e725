"""Diagnostics: the KL against brute force, what is compared with what, and warnings that come when they should."""

import itertools

import pytest
import torch
from drawing_data import policy, reward

from bloomery.align.diagnostics import WARNINGS, Watch, WatchConfig, accuracy_by_length, sampled_kl, warnings
from bloomery.core.records import Message, Problem
from bloomery.data.likelihood import score_answers
from bloomery.model.config import ModelConfig
from bloomery.model.store import load_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import load_renderer

TINY = ModelConfig(vocabulary=4, context=8, depth=1, width=8, heads=2, kv_heads=2, head_width=4, hidden=8)
ASKED = [Problem((Message("user", f"What is {a} + 1?"),), str(a + 1)) for a in range(5)]


def pair() -> tuple[Transformer, Transformer]:
    models = [Transformer(TINY, seed=seed, compute=torch.float64).double() for seed in (1, 2)]
    with torch.no_grad():
        for model in models:
            model.head.weight.mul_(8)
    return models[0], models[1]


def test_over_all_answers_every_estimate_has_the_mean_of_the_true_kl():
    """Every answer of three tokens, weighted by its probability: then k1, k3 and whole distributions agree."""
    model, reference = pair()
    answers = [list(ids) for ids in itertools.product(range(4), repeat=3)]
    (logps,), (told,) = (score_answers(each, [[1, 2]], [answers], sums=torch.float64) for each in (model, reference))
    p = torch.tensor(logps).exp()
    kl = float((p * (torch.tensor(logps) - torch.tensor(told))).sum())
    each = [sampled_kl(model, reference, [[1, 2]], [answer]) for answer in answers]
    means = {name: float((p * torch.tensor([found[name] for found in each])).sum())
             for name in ("kl", "kl_k3", "kl_exact")}
    assert kl > 0.05 and means == pytest.approx(dict.fromkeys(means, kl), rel=1e-6)


def test_the_kl_of_many_is_the_mean_of_each_whatever_the_batches(monkeypatch):
    model, reference = pair()
    prompts, answers = [[1], [2, 3], [0, 1, 2]], [[1, 2, 3], [0], [3, 3]]
    each = [sampled_kl(model, reference, [p], [a]) for p, a in zip(prompts, answers, strict=True)]
    monkeypatch.setattr("bloomery.align.diagnostics.EXACT_TOKENS", 1)
    together = sampled_kl(model, reference, prompts, answers)
    for name in ("kl", "kl_k3", "kl_exact"):
        assert together[name] == pytest.approx(sum(found[name] for found in each) / 3)
    assert together["kl_error"] == pytest.approx(torch.tensor([found["kl"] for found in each]).std().item() / 3**0.5)


def test_a_large_vocabulary_is_not_compared_whole(monkeypatch):
    monkeypatch.setattr("bloomery.align.diagnostics.SMALL", 3)
    assert "kl_exact" not in sampled_kl(*pair(), [[1]], [[2]])


def test_a_policy_that_has_not_moved_is_no_further_and_no_better():
    model, renderer = load_model(policy()), load_renderer(policy())
    watch = Watch(model, renderer, ASKED, WatchConfig(prompts=4, max_tokens=8, reward=str(reward()), shown=2))
    found = watch(model)
    assert found["val_kl"] == found["val_kl_k3"] == 0 and found["val_kl_exact"] == pytest.approx(0, abs=1e-9)
    assert (found["val_win_rate"], found["val_win_rate_ties"]) == (0.5, 1.0)
    assert 1 <= found["val_answer_tokens"] <= 8 and 0 <= found["val_finished"] <= 1
    rows = watch.before_and_after(model)
    assert len(rows) == 2 and rows[0]["answers"]["before"] == rows[0]["answers"]["after"] and rows[0]["expected"] == "1"
    assert watch(Transformer(model.config, seed=9))["val_kl"] > 1


def test_a_stages_own_score_compares_where_no_reward_is_named():
    model, renderer = load_model(policy()), load_renderer(policy())
    other = Transformer(model.config, seed=9)
    watch = Watch(model, renderer, ASKED, WatchConfig(prompts=5, max_tokens=6),
                  score=lambda asked, said: [[1.0, 0.0] for _ in said])
    assert (watch(other)["val_win_rate"], watch(other)["val_reward"]) == (1.0, 1.0)


def test_without_prompts_nothing_is_looked_at_and_prompts_without_room_are_told(capsys):
    model, renderer = load_model(policy()), load_renderer(policy())
    assert Watch(model, renderer, ASKED, WatchConfig())(model) == {}
    assert capsys.readouterr().err == ""
    assert Watch(model, renderer, ASKED, WatchConfig(prompts=2, max_tokens=64))(model) == {}
    assert "no prompt is watched" in capsys.readouterr().err


def test_accuracy_is_told_by_length():
    margins, lengths = torch.tensor([1.0, -1.0, 1.0, 0.0]), torch.tensor([[9, 3], [8, 2], [2, 9], [5, 5]])
    assert accuracy_by_length(margins, lengths) == {
        "rewards/accuracies_longer": 0.5, "rewards/accuracies_shorter": 1.0, "rewards/accuracies_alike": 0.0}
    assert accuracy_by_length(margins[:1], lengths[:1]) == {"rewards/accuracies_longer": 1.0}


# --- warnings -----------------------------------------------------------------------------------------------------

def held_out(*pairs: tuple[float, float], **more: float) -> list[dict]:
    """Validations with the chosen log-probability and the margin."""
    return [{"step": i, "val_logps/chosen": chosen, "val_rewards/margins": margin} | more
            for i, (chosen, margin) in enumerate(pairs)]


def steps(chosen: float, margin: float, accuracy: float = 1.0) -> list[dict]:
    return [{"step": i, "logps/chosen": -30.0, "rewards/chosen": chosen * i, "rewards/margins": margin * i,
             "rewards/accuracies": accuracy} for i in range(9)]


@pytest.mark.parametrize(("rows", "words"), [
    (held_out((-30, 0), (-45, 2)), "fell from -30.0 to -45.0"),
    (steps(-0.5, 1.0), "less likely than under the reference"),
    ([{"step": 1, "rewards/accuracies": 1.0}] * 8 + [{"val_rewards/accuracies": 0.55}], "learned by heart"),
    ([{"val_kl": 80.0}], "80 nats"),
    ([{"val_answer_tokens": 10.0}, {"val_answer_tokens": 40.0}], "much longer"),
    ([{"val_answer_tokens": 40.0}, {"val_answer_tokens": 10.0}], "much shorter"),
    ([{"val_finished": 0.9}, {"val_finished": 0.4}], "60% of the answers are cut off"),
    ([{"val_rewards/accuracies_longer": 0.9, "val_rewards/accuracies_shorter": 0.4}], "prefer what is longer"),
    ([{"val_win_rate": 0.3, "val_win_rate_high": 0.42}], "worse than before"),
])
def test_each_warning_comes_alone(rows, words):
    (said,) = warnings(rows)
    assert words in said


@pytest.mark.parametrize("rows", [
    [], held_out((-30, 0), (-29, 2)), held_out((-30, 0), (-45, -1)), held_out((-30, 0), (-30.9, 2)), steps(0.3, 1.0),
    steps(-0.05, 1.0), [{"val_kl": 3.0, "val_win_rate": 0.45, "val_win_rate_high": 0.6}],
    [{"val_answer_tokens": 10.0}, {"val_answer_tokens": 13.0}],
])
def test_nothing_is_said_where_nothing_is_wrong(rows):
    assert warnings(rows) == [] and len(WARNINGS) == 7
